//! libjamba from C, C++ and Python: installs it, compiles programs without warnings, and runs them, also under
//! valgrind. Needs cc and c++; reports other missing tools.

#[path = "../../tests/fixture/mod.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod fixture;

use jamba_plan::format::{Activation, Head};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

const HERE: &str = env!("CARGO_MANIFEST_DIR");
const PLAN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/toy.plan");

/// Runs a command that must succeed and returns its output.
#[track_caller]
fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}\n{}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stdout).into_owned()
}

/// The library, installed once for all tests.
fn installed() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            // The features of the whole workspace, as for these tests: others would compile its crates again.
            let install = format!("{HERE}/install");
            run(Command::new(install).arg(folder.path()).arg("--workspace").env("CARGO", env!("CARGO")));
            folder
        })
        .path()
}

/// Compiles a program against the installed library, with an rpath to it.
fn compiled(compiler: &str, standard: &str, source: &str, folder: &Path) -> PathBuf {
    let prefix = installed();
    let program = folder.join(format!("{}-{compiler}", source.rsplit('/').next().unwrap()));
    let language = if compiler == "c++" { "c++" } else { "c" };
    run(Command::new(compiler)
        .args([standard, "-Wall", "-Wextra", "-Werror", "-pedantic", "-x", language])
        .arg(format!("{HERE}/{source}"))
        .args(["-x", "none", "-pthread", "-o"])
        .arg(&program)
        .args([format!("-I{0}/include", prefix.display()), format!("-L{0}/lib", prefix.display())])
        .arg(format!("-Wl,-rpath,{}/lib", prefix.display()))
        .args(["-ljamba", "-lm"]));
    program
}

/// True if a program is installed; otherwise reports that its tests are skipped.
fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("!! {program} is not installed: what it would show was NOT tested");
    }
    found
}

/// Runs a program, and again under valgrind if it is installed.
fn run_both_ways(program: &Path, arguments: &[&str]) -> String {
    let text = run(Command::new(program).args(arguments));
    if has("valgrind") {
        let flags = ["--quiet", "--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite"];
        run(Command::new("valgrind").args(flags).arg(program).args(arguments));
    }
    text
}

#[test]
fn the_header_is_the_librarys() {
    let mut builder =
        cbindgen::Builder::new().with_config(cbindgen::Config::from_file(format!("{HERE}/cbindgen.toml")).unwrap());
    for name in [
        "status", "engine", "steps", "snapshot", "cache", "sampler", "generate", "request", "events", "batch", "heads",
        "text",
    ] {
        builder = builder.with_src(format!("{HERE}/src/{name}.rs"));
    }
    let mut made = Vec::new();
    builder.generate().unwrap().write(&mut made);
    let path = format!("{HERE}/include/jamba.h");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let committed = std::fs::read(&path).unwrap_or_default();
    assert!(committed == made, "jamba.h is not what cbindgen makes of src/: run this test with UPDATE_EXPECT=1");
}

#[test]
fn the_examples_run_as_c_and_as_cpp() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("steps.state");
    for (compiler, standard) in [("cc", "-std=c99"), ("c++", "-std=c++11")] {
        let text = run_both_ways(
            &compiled(compiler, standard, "examples/generate.c", folder.path()),
            &[PLAN, "Once upon a time."],
        );
        assert!(text.ends_with("[36 tokens, finish 0]\n"), "{compiler}: {text}");
        let program = compiled(compiler, standard, "examples/steps.c", folder.path());
        let text = run_both_ways(&program, &[PLAN, state.to_str().unwrap()]);
        assert!(text.ends_with("15 tokens, then 16\n"), "{compiler}: {text}");
    }
}

#[test]
fn clients_of_a_batch_get_what_they_get_alone() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("batch.state");
    let prompts = ["Once upon a time.", "The mill was old."];
    let alone = compiled("cc", "-std=c99", "examples/generate.c", folder.path());
    let alone = prompts.map(|prompt| run(Command::new(&alone).args([PLAN, prompt])));
    for (compiler, standard) in [("cc", "-std=c99"), ("c++", "-std=c++11")] {
        let program = compiled(compiler, standard, "tests/c/batch.c", folder.path());
        assert_eq!(run_both_ways(&program, &[PLAN, state.to_str().unwrap()]), "each as alone\n");
        let program = compiled(compiler, standard, "examples/batch.c", folder.path());
        let both = run_both_ways(&program, &[PLAN, prompts[0], prompts[1]]);
        for (number, alone) in (1..).zip(&alone) {
            let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            let expected = words(&format!("{number}: {alone}"));
            assert!(words(&both).contains(&expected), "{compiler}: {both} without {expected}");
        }
    }
}

#[test]
fn texts_are_classified_and_embedded() {
    let folder = tempfile::tempdir().unwrap();
    let plan = |name: &str, head: Head| {
        let mut toy = fixture::Toy::with_text();
        (toy.manifest.model.head, toy.manifest.model.d_model) = (head, 300);
        toy.write(folder.path(), name)
    };
    let labels = (0..300).map(|id| format!("label {id}")).collect();
    let classifier = plan("c.plan", Head::Scores { labels, activation: Activation::Softmax });
    let embedder = plan("e.plan", Head::Hidden);
    for (compiler, standard) in [("cc", "-std=c99"), ("c++", "-std=c++11")] {
        let program = compiled(compiler, standard, "tests/c/heads.c", folder.path());
        let arguments = [classifier.to_str().unwrap(), embedder.to_str().unwrap()];
        assert_eq!(run_both_ways(&program, &arguments), "scores and embeddings\n");
    }
}

#[test]
fn misuse_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    // A public key that signed nothing.
    std::fs::write(&keys, "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOpKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs\n")
        .unwrap();
    let keys = keys.to_str().unwrap();
    for (compiler, standard) in [("cc", "-std=c99"), ("c++", "-std=c++11")] {
        let text = run_both_ways(&compiled(compiler, standard, "tests/c/misuse.c", folder.path()), &[PLAN, keys]);
        assert_eq!(text, "every refusal as it should be\n");
    }
}

#[test]
fn threads_take_turns_on_one_engine_and_not_on_two() {
    let folder = tempfile::tempdir().unwrap();
    let text = run_both_ways(&compiled("cc", "-std=c99", "tests/c/threads.c", folder.path()), &[PLAN]);
    assert_eq!(text, "one at a time on one, both at once on two\n");
}

#[test]
fn forks_open_plans_and_go_on_with_engines() {
    let folder = tempfile::tempdir().unwrap();
    // Sections of this size are hashed by several threads, which a fork does not have.
    let mut toy = fixture::Toy::new();
    toy.info().memory.weights = 1 << 20;
    let plan = toy.write(folder.path(), "toy.plan");
    let program = compiled("cc", "-std=c99", "tests/c/fork.c", folder.path());
    assert_eq!(run(Command::new(program).arg(&plan)), "both children answered\n");
}

#[test]
fn python_drives_the_library() {
    if !has("python3") {
        return;
    }
    let library = installed().join("lib/libjamba.so.1");
    let text = run(Command::new("python3").arg(format!("{HERE}/tests/drive.py")).arg(&library).arg(PLAN));
    assert!(text.starts_with(env!("CARGO_PKG_VERSION")), "{text}");

    let script = format!("{HERE}/examples/generate.py");
    let example = |plan: &str| {
        Command::new("python3").env("LIBJAMBA", &library).args([&script, plan, "Once upon a time."]).output().unwrap()
    };
    let output = example(PLAN);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.len() > 1, "an answer");
    let refused = example("absent.plan");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("absent.plan: cannot open it"));
}

#[test]
fn every_symbol_has_a_version_and_no_other_is_seen() {
    let library = installed().join("lib/libjamba.so.1");
    assert!(installed().join("lib/pkgconfig/jamba.pc").is_file());
    if !has("readelf") {
        return;
    }
    let dynamic = run(Command::new("readelf").args(["-dW"]).arg(&library));
    assert!(dynamic.contains("Library soname: [libjamba.so.1]"), "{dynamic}");
    let symbols = run(Command::new("readelf").args(["--dyn-syms", "-W"]).arg(&library));
    let defined: Vec<&str> = symbols
        .lines()
        .filter(|line| line.contains("GLOBAL DEFAULT") && !line.contains(" UND "))
        .filter_map(|line| line.split_whitespace().last())
        .filter(|name| *name != "JAMBA_1")
        .collect();
    assert!(defined.len() >= 27, "{defined:?}");
    assert!(defined.iter().all(|name| name.starts_with("jamba_") && name.ends_with("@@JAMBA_1")), "{defined:?}");
    let header = std::fs::read_to_string(format!("{HERE}/include/jamba.h")).unwrap();
    for name in defined.iter().filter_map(|name| name.split('@').next()) {
        assert!(header.contains(&format!("{name}(")), "{name} is not in jamba.h");
    }
}
