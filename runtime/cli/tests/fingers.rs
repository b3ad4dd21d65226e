//! What people type who know other programs: options of llama.cpp, other files in place of plans, checkpoints' folders.

#[path = "../../tests/fixture/mod.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod fixture;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use fixture::{LIMITS, Toy};
use serde_json::Value;

struct Files {
    folder: tempfile::TempDir,
}

fn toy() -> Files {
    let folder = tempfile::tempdir().unwrap();
    Toy::with_text().write(folder.path(), "toy.plan");
    Files { folder }
}

impl Files {
    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn jamba(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_jamba")).args(args).current_dir(self.path()).output().unwrap()
    }

    #[track_caller]
    fn stdout(&self, args: &[&str]) -> String {
        let output = self.jamba(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[track_caller]
    fn refused(&self, args: &[&str], code: i32, says: &[&str]) {
        let output = self.jamba(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(says.iter().all(|part| stderr.contains(part)), "{args:?}: {stderr}");
    }
}

#[test]
fn a_prompt_is_an_argument_and_options_have_the_letters_of_llama_cpp() {
    let toy = toy();
    std::fs::write(toy.path().join("a.txt"), "Once upon").unwrap();
    let expected = toy.stdout(&[
        "run",
        "toy.plan",
        "--prompt",
        "Once upon",
        "--max-new",
        "6",
        "--temperature",
        "1",
        "--seed",
        "3",
    ]);
    let same: [&[&str]; 6] = [
        &["toy.plan", "Once upon", "-n", "6", "--temp", "1", "-s", "3"],
        &["-m", "toy.plan", "Once upon", "-n", "6", "--temp", "1", "-s", "3"],
        &["-m", "toy.plan", "-p", "Once upon", "--n-predict", "6", "--temp", "1", "-s", "3", "-t", "1"],
        &["--model", "toy.plan", "-f", "a.txt", "-n", "6", "--temp", "1", "-s", "3"],
        &["toy.plan", "-c", "50", "-p", "Once upon", "-n", "6", "--temp", "1", "-s", "3"],
        &["toy.plan", "--sequences", "1", "--ctx-size", "50", "Once upon", "-n", "6", "--temp", "1", "-s", "3"],
    ];
    for args in same {
        assert_eq!(toy.stdout(&[&["run"], args].concat()), expected, "{args:?}");
    }
    toy.refused(&["run", "-m", "toy.plan", "a", "-p", "b"], 2, &["the plan once and one prompt"]);
    toy.refused(&["run", "toy.plan", "a", "-p", "b"], 2, &["cannot be used with"]);
    toy.refused(&["run"], 2, &["PLAN"]);
}

#[test]
fn options_of_other_programs_name_ours() {
    let toy = toy();
    for (args, says) in [
        (&["-ngl", "99"][..], "--device cuda:0"),
        (&["--n-gpu-layers=99"], "--device cuda:0"),
        (&["-cnv"], "jamba chat PLAN"),
        (&["--parallel", "4"], "--sequences N"),
    ] {
        toy.refused(&[&["run", "toy.plan", "a"], args].concat(), 2, &[args[0].split('=').next().unwrap(), says]);
    }
    for option in ["-n", "-t", "-c", "--sequences", "-s", "--top-k", "--chunk"] {
        toy.refused(&["run", "toy.plan", "a", option, "-1"], 2, &["'-1'", "expected a whole number, 0 or more"]);
    }
    toy.refused(&["run", "toy.plan", "a", "--temperature", "-1"], 2, &["temperature", "-1"]);
    toy.refused(&["run", "toy.plan", "a", "--temperature", "warm"], 2, &["expected a number"]);
}

#[test]
fn lower_limits_take_less_memory() {
    let toy = toy();
    let memory = |args: &[&str]| {
        let report = toy.stdout(&[&["run", "toy.plan", "a", "-n", "1", "--json"], args].concat());
        let report: Value = serde_json::from_str(&report).unwrap();
        report["memory"]["plan"].as_u64().unwrap()
    };
    // A page of keys and values has 64 bytes, a slot too: 16 tokens for one sequence take one of each.
    assert_eq!(memory(&[]) - memory(&["-c", "16", "--sequences", "1"]), 9 * 64 + 2 * 64);
    toy.refused(&["run", "toy.plan", "--tokens", "1,2,3,4,5", "-c", "4"], 1, &["jambac limits PLAN --context"]);
    let above = (LIMITS.max_context + 1).to_string();
    toy.refused(&["run", "toy.plan", "a", "-c", &above], 1, &["context: found 101", "jambac limits PLAN"]);
    toy.refused(&["run", "toy.plan", "a", "--sequences", "9"], 1, &["sequences: found 9, expected 1 … 3"]);
    // A state fits every context that has room for its tokens.
    toy.stdout(&["run", "toy.plan", "--tokens", "1,2,3", "-n", "0", "-c", "20", "--save-state", "a.state"]);
    toy.stdout(&["run", "toy.plan", "--tokens", "4", "-n", "0", "--load-state", "a.state"]);
    toy.refused(&["run", "toy.plan", "--tokens", "4", "-c", "2", "--load-state", "a.state"], 1, &["context"]);
}

#[test]
fn files_are_named_for_what_they_are() {
    let toy = toy();
    let write = |name: &str, content: &[u8]| std::fs::write(toy.path().join(name), content).unwrap();
    write("a.gguf", b"GGUF\x03\0\0\0");
    write("pytorch_model.bin", b"\x80\x02}q\0");
    write("empty.plan", b"");
    write("lfs.plan", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
    write("404.plan", b"<!doctype html><title>404</title>");
    toy.stdout(&["run", "toy.plan", "--tokens", "1", "-n", "0", "--save-state", "a.state"]);
    for command in ["run", "info", "verify", "doctor"] {
        for (name, says) in [
            ("a.gguf", ["a.gguf: not a plan but a GGUF file", "jambac build MODEL"]),
            ("pytorch_model.bin", ["pickle format", "safetensors"]),
            ("empty.plan", ["not a plan but an empty file", "again"]),
            ("lfs.plan", ["Git LFS", "git lfs pull"]),
            ("404.plan", ["an HTML page", "again"]),
            ("a.state", ["a saved state", "--load-state a.state"]),
        ] {
            let prompt = if command == "run" { &["a"][..] } else { &[] };
            toy.refused(&[&[command, name], prompt].concat(), 1, &says);
        }
    }
    toy.refused(&["run", "toy.plan", "a", "--load-state", "toy.plan"], 1, &["It is a plan", "--load-state STATE"]);
    toy.refused(&["run", "toy.plan", "a", "--load-state", "a.gguf"], 1, &["It is a GGUF file", "--save-state"]);
}

/// A copy of the program in a folder of its own.
fn alone(folder: &Path) -> std::path::PathBuf {
    let program = folder.join("jamba");
    std::fs::copy(env!("CARGO_BIN_EXE_jamba"), &program).unwrap();
    program
}

#[test]
fn a_checkpoint_is_built_by_the_compiler_beside_the_program() {
    let toy = toy();
    let program = alone(toy.path());
    std::fs::create_dir(toy.path().join("model")).unwrap();
    std::fs::write(toy.path().join("model/config.json"), "{}").unwrap();
    let run = |model: &str| {
        let mut command = Command::new(&program);
        command.args(["run", model, "--tokens", "1", "-n", "2", "--ignore-eos"]);
        command.current_dir(toy.path()).env("PATH", "/nowhere").output().unwrap()
    };
    let output = run("model");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("jambac build model -o OUT.plan") && stderr.contains("on PATH"), "{stderr}");

    let compiler = toy.path().join("jambac");
    std::fs::write(&compiler, "#!/bin/sh\necho \"$@\" >&2\n[ \"$2\" = org/none ] && exit 1\necho toy.plan\n").unwrap();
    std::fs::set_permissions(&compiler, std::fs::Permissions::from_mode(0o755)).unwrap();
    for model in ["model", "model/config.json", "org/Some-Jamba"] {
        let output = run(model);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !output.stdout.is_empty(), "{stderr}");
        assert_eq!(stderr, format!("build {model} --cached --target native\n"));
    }
    let output = run("org/none");
    assert_eq!((output.status.code(), &*output.stdout), (Some(1), &b""[..]), "the compiler has reported the error");
}

#[test]
fn the_version_and_doctor_describe_the_program_and_the_machine() {
    let toy = toy();
    let long = toy.stdout(&["--version"]);
    for part in [env!("CARGO_PKG_VERSION"), "plan format: ", "devices: cpu", "targets of this CPU: x86-64"] {
        assert!(long.contains(part), "{long}");
    }
    assert_eq!(toy.stdout(&["-V"]).lines().count(), 1);
    let report = toy.stdout(&["doctor", "toy.plan", "--json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["ok"], true);
    let names: Vec<&str> =
        report["checks"].as_array().unwrap().iter().map(|check| check["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["CPU", "memory", "huge pages", "NVIDIA driver"]);
    assert!(toy.stdout(&["doctor"]).contains("CPU: runs x86-64"));
}
