//! Files that `jambac` writes: what it refuses to replace, and that an interrupted build leaves nothing behind.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use jambac_models::tiny::Tiny;

fn jambac(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_jambac")).args(args).current_dir(folder).output().unwrap()
}

#[track_caller]
fn refused(folder: &Path, args: &[&str], says: &[&str]) {
    let output = jambac(folder, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*output.stdout), (Some(1), &b""[..]), "{stderr}");
    assert!(says.iter().all(|part| stderr.contains(part)), "{args:?}: {stderr}");
}

#[track_caller]
fn done(folder: &Path, args: &[&str]) -> Vec<u8> {
    let output = jambac(folder, args);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A folder with the checkpoint `model` and its plan `model.plan`, built once.
fn built() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            Tiny::odd().write(&folder.path().join("model"), 1).unwrap();
            done(folder.path(), &["build", "model", "-o", "model.plan", "--max-context", "64"]);
            folder
        })
        .path()
}

/// A folder with links to the checkpoint and the plan of [`built`].
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["model", "model.plan"] {
        std::os::unix::fs::symlink(built().join(name), folder.path().join(name)).unwrap();
    }
    folder
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_build_replaces_neither_its_checkpoint_nor_devices() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let files: Vec<(PathBuf, Vec<u8>)> = names(&at("model"))
        .into_iter()
        .map(|name| (at("model").join(&name), std::fs::read(at("model").join(name)).unwrap()))
        .collect();
    std::fs::write(at("notes.txt"), "mine").unwrap();
    std::fs::write(at("model.toml"), "[model]\ncheckpoint = \"model\"\n").unwrap();
    std::os::unix::fs::symlink("model/config.json", at("link")).unwrap();
    for model in ["model", "model.toml"] {
        for force in [&[][..], &["--force"][..]] {
            let build = |output: &str, says: &[&str]| {
                refused(folder.path(), &[&["build", model, "-o", output], force].concat(), says);
            };
            build("model/model.safetensors", &["-o model/model.safetensors: is an input of this command"]);
            build("link", &["is an input of this command"]);
            build("/dev/null", &["is a device"]);
            build("model", &["is a folder"]);
            build("nowhere/a.plan", &["its folder does not exist: mkdir -p nowhere"]);
        }
    }
    refused(folder.path(), &["build", "model.toml", "-o", "model.toml", "--force"], &["is an input of this command"]);
    refused(folder.path(), &["build", "model", "-o", "notes.txt"], &["exists and is not a plan", "--force"]);
    let report = ["build", "model", "-o", "new.plan", "--report-quantization"];
    refused(folder.path(), &[&report[..], &["notes.txt"]].concat(), &["is not a report of quantization errors"]);
    refused(folder.path(), &[&report[..], &["new.plan"]].concat(), &["is the file of -o too"]);
    refused(folder.path(), &[&report[..4], &["--dump-dir", "notes.txt"]].concat(), &["notes.txt is not a folder"]);
    assert!(!at("new.plan").exists());
    for (path, bytes) in files {
        assert!(std::fs::read(&path).unwrap() == bytes, "{}", path.display());
    }
    assert_eq!(std::fs::read(at("notes.txt")).unwrap(), b"mine");
}

/// `--dump-dir` fills a folder; nothing else of the command is in its way.
#[test]
fn dumped_texts_replace_neither_the_plan_nor_inputs() {
    let folder = folder();
    let path = folder.path();
    let build = ["build", "model", "--max-context", "64", "--dump-dir"];
    for force in [&[][..], &["--force"][..]] {
        let with = |args: &[&'static str]| [&build[..], args, force].concat();
        let says = ["--dump-dir d: gets a file 08.plan.txt, which is the file of -o too"];
        refused(path, &with(&["d", "-o", "d/08.plan.txt"]), &says);
        for dump in ["q.plan", "q.plan/", "./q.plan", "q.plan/sub"] {
            refused(path, &with(&[dump, "-o", "q.plan"]), &["is the file of -o too"]);
        }
        std::fs::remove_dir_all(path.join("d")).unwrap();
    }
    assert_eq!(names(path), ["model", "model.plan"]);
    done(path, &[&build[..], &["d", "-o", "d/x.plan", "--report-quantization", "d/r.txt"]].concat());
    done(path, &[&build[..], &["d", "-o", "d/x.plan"]].concat());
    let from = ["--from", "graph", "d/02.prefill.graph", "d/02.decode.graph"];
    let says = ["--dump-dir d: gets a file 02.", "is an input of this command"];
    refused(path, &[&build[..], &["d", "-o", "x.plan"], &from].concat(), &says);
    done(path, &[&build[..], &["e", "-o", "x.plan"], &from].concat());
    std::fs::write(path.join("d/01.checkpoint.txt"), "my notes").unwrap();
    let says = ["gets a file 01.checkpoint.txt, which exists and is not the text of a phase"];
    refused(path, &[&build[..], &["d", "-o", "d/x.plan"]].concat(), &says);
    // What only begins like the text of a phase.
    for text in ["model trains run on time", "module docs", "limits: none"] {
        std::fs::write(path.join("notes.txt"), text).unwrap();
        let emit = ["build", "model", "--emit", "schedule", "-o", "notes.txt", "--max-context", "64"];
        refused(path, &emit, &["notes.txt: exists and is not the text of a phase"]);
    }
    done(
        path,
        &["build", "model", "--emit", "checkpoint", "-o", "d/01.checkpoint.txt", "--max-context", "64", "--force"],
    );
}

/// `cat a >> a`: an output that a shell appends to an input.
#[test]
fn stdout_is_no_input() {
    let folder = folder();
    let path = folder.path();
    std::fs::write(path.join("a.graph"), done(path, &["graph", "model"])).unwrap();
    let files = ["model/model.safetensors", "model/config.json", "model.plan", "a.graph"];
    let read = || files.map(|file| std::fs::read(path.join(file)).unwrap());
    let before = read();
    let run = |arguments: &str| {
        let script = format!("{} {arguments}", env!("CARGO_BIN_EXE_jambac"));
        Command::new("bash").args(["-c", &script]).current_dir(path).output().unwrap()
    };
    for (arguments, code) in [
        ("build model -o - --max-context 64 >> model/model.safetensors", 1),
        ("build model --emit schedule -o - --max-context 64 >> model/config.json", 1),
        ("limits model.plan -c 32 -o - >> model.plan", 2),
        ("inspect model.plan --html - >> model.plan", 2),
        ("opt a.graph >> a.graph", 2),
    ] {
        let output = run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {stderr}");
        assert!(
            ["is an input of this command", "is the standard output too"].iter().any(|part| stderr.contains(part)),
            "{stderr}"
        );
    }
    assert!(read() == before);
    let output = run("build model -o - --max-context 64 > model/own.plan && rm model/own.plan");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = run("inspect model.plan --svg both --html - > both");
    assert!(String::from_utf8_lossy(&output.stderr).contains("both: is the standard output too"));
}

#[test]
fn texts_pages_and_graphs_replace_their_like() {
    let folder = folder();
    let path = folder.path();
    std::fs::write(path.join("index.html"), "<!DOCTYPE html><p>mine").unwrap();
    refused(path, &["inspect", "model.plan", "--html", "index.html"], &["is not a page of jambac inspect"]);
    refused(path, &["inspect", "model.plan", "--html", "model.plan", "--force"], &["is an input of this command"]);
    for _ in 0..2 {
        done(path, &["inspect", "model.plan", "--html", "page.html", "--svg", "arena.svg"]);
        done(path, &["build", "model", "--emit", "schedule", "-o", "schedule.txt", "--max-context", "64"]);
        done(path, &["build", "model", "--emit", "graph", "-o", "both.graph", "--max-context", "64"]);
        done(path, &["man", "--dir", "man"]);
    }
    std::fs::write(path.join("a.graph"), done(path, &["graph", "model"])).unwrap();
    let reduce = ["reduce", "a.graph", "--while", "! grep -q softplus {}", "-o"];
    let reduce: Vec<&str> =
        reduce.iter().map(|&arg| if arg.starts_with('!') { "grep -q nothing {}" } else { arg }).collect();
    refused(path, &[&reduce[..], &["a.graph"]].concat(), &["is an input of this command"]);
    refused(path, &[&reduce[..], &["index.html"]].concat(), &["is not a graph of jambac"]);
    assert!(done(path, &["inspect", "model.plan", "--svg", "-"]).starts_with(b"<svg"));
}

#[test]
fn a_plan_goes_to_a_pipe() {
    let folder = folder();
    let piped = done(folder.path(), &["build", "model", "-o", "-", "--max-context", "64"]);
    assert!(piped == std::fs::read(built().join("model.plan")).unwrap());
    assert_eq!(names(folder.path()), ["model", "model.plan"]);
}

/// Starts a command and reads one byte of its output. The command then blocks on the full pipe. `TMPDIR` is `tmp`.
fn stuck(folder: &Path, args: &[&str]) -> Child {
    std::fs::create_dir(folder.join("tmp")).unwrap();
    // Tests may have been started with SIGINT ignored, as by a shell's `&`.
    let mut command = Command::new("env");
    command.args(["--default-signal=INT,TERM", env!("CARGO_BIN_EXE_jambac")]).args(args).current_dir(folder);
    command.env("TMPDIR", folder.join("tmp")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    child
}

#[test]
fn an_interrupted_build_leaves_nothing_behind() {
    let build = &["build", "model", "-o", "-", "--max-context", "64"][..];
    let page = &["inspect", "model.plan", "--html", "-"][..];
    for (args, signal, code) in [(page, "INT", Some(130)), (page, "TERM", Some(143)), (build, "KILL", None)] {
        let folder = folder();
        let mut child = stuck(folder.path(), args);
        let killed = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let status = child.wait().unwrap();
        assert_eq!(status.code(), code, "SIG{signal}: {status}");
        assert_eq!(status.signal(), if code.is_none() { Some(9) } else { None });
        assert_eq!(names(folder.path()), ["model", "model.plan", "tmp"]);
        assert_eq!(names(&folder.path().join("tmp")), [""; 0], "SIG{signal}");
    }
}
