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
    for option in ["-t", "-c", "--sequences"] {
        toy.refused(&["run", "toy.plan", "a", option, "-1"], 2, &["'-1'", "expected a whole number, 0 or more"]);
    }
    for option in ["-n", "-s", "--top-k"] {
        toy.refused(&["run", "toy.plan", "a", option, "-2"], 2, &["'-2'", "expected a whole number, 0 or more, or -1"]);
    }
    for number in ["0", "-1"] {
        toy.refused(&["run", "toy.plan", "a", "--chunk", number], 2, &["--chunk", number]);
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
    toy.refused(&["run", "toy.plan", "--tokens", "1,2,3,4,5", "-c", "4"], 1, &["the context is 4 tokens"]);
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
            ("a.gguf", ["a.gguf: not a plan but a GGUF file", "jambac build a.gguf -o OUT.plan"]),
            ("pytorch_model.bin", ["pickle format", "safetensors"]),
            ("empty.plan", ["not a plan but an empty file", "again"]),
            ("lfs.plan", ["Git LFS", "git lfs pull"]),
            ("404.plan", ["an HTML page", "again"]),
            ("a.state", ["a saved state", "--load-state a.state"]),
        ] {
            let prompt = if command == "run" { &["a"][..] } else { &[] };
            // The compiler makes a plan of it, and refuses what is no whole file.
            let says = if (command, name) == ("run", "a.gguf") { ["a.gguf", "jambac"] } else { says };
            toy.refused(&[&[command, name], prompt].concat(), 1, &says);
        }
    }
    toy.refused(&["run", "toy.plan", "a", "--load-state", "toy.plan"], 1, &["It is a plan", "--load-state STATE"]);
    toy.refused(&["run", "toy.plan", "a", "--load-state", "a.gguf"], 1, &["It is a GGUF file", "--save-state"]);
}

#[test]
fn commands_of_other_programs_name_ours() {
    let toy = toy();
    for (args, says) in [
        (&["-m", "toy.plan", "-p", "Once"][..], "jamba run -m PLAN -p TEXT"),
        (&["server", "toy.plan"], "jamba serve PLAN"),
        (&["pull", "llama3"], "hf download ORG/NAME"),
        (&["list"], "hf cache"),
        (&["show", "toy.plan"], "jamba info PLAN"),
        (&["ps"], "ps -C jamba"),
        (&["rm", "toy.plan"], "rm PLAN"),
        (&["create", "x"], "jambac build"),
        (&["toy.plan", "Once"], "jamba run toy.plan TEXT"),
        (&["ai21labs/Jamba-v0.1"], "jamba run ai21labs/Jamba-v0.1 TEXT"),
        (&["chat", "toy.plan", "hello"], "echo TEXT | jamba chat PLAN"),
        (&["chat", "-m", "toy.plan", "hello"], "found hello and -m"),
        (&["chat", "toy.plan", "-p", "hello"], "jamba run PLAN --chat TEXT"),
        (&["info", "-m", "toy.plan", "other.plan"], "found other.plan and -m"),
        (&["bench", "-m", "toy.plan"], "jamba bench PLAN"),
        (&["run", "toy.plan", "a", "--quantize", "q4_0"], "--weights int8"),
        (&["run", "toy.plan", "a", "--outtype=bf16"], "jambac build MODEL"),
        (&["run", "hf.co/ai21labs/Jamba-v0.1:Q4_K_M", "a"], "hf download ai21labs/Jamba-v0.1"),
        (&["run", "https://huggingface.co/ai21labs/Jamba-v0.1", "a"], "hf download ai21labs/Jamba-v0.1"),
        (&["info", "https://example.org/a.plan"], "curl -LO"),
        (&["run", "llama3", "hello"], "ai21labs/AI21-Jamba-Reasoning-3B"),
        (&["run", "llama3:8b", "hello"], "the folder of a Jamba checkpoint"),
    ] {
        toy.refused(args, 2, &[says]);
    }
    toy.refused(&["frobnicate"], 2, &["unrecognized subcommand"]);
    toy.refused(&["run", "none.plan", "a"], 1, &["none.plan: cannot open it"]);
}

#[test]
fn minus_one_is_no_limit_and_tokens_may_have_spaces() {
    let toy = toy();
    let run = |args: &[&str]| toy.stdout(&[&["run", "toy.plan", "--tokens", "1,2,3", "--ignore-eos"], args].concat());
    let all = run(&["-n", "1000"]);
    assert_eq!(run(&["-n", "-1"]), all);
    assert!(all.len() > run(&["-n", "1"]).len());
    assert_eq!(run(&["-n", "3", "--top-k", "-1"]), run(&["-n", "3", "--top-k", "0"]));
    assert!(!run(&["-n", "3", "-s", "-1"]).is_empty());
    let ids = |tokens: &str| toy.stdout(&["run", "toy.plan", "--tokens", tokens, "-n", "2", "--ignore-eos", "--jsonl"]);
    let prompt =
        |lines: String| serde_json::from_str::<Value>(lines.lines().next().unwrap()).unwrap()["prompt_tokens"].clone();
    for tokens in ["1 2 3", "1, 2, 3", "[1,2,3]"] {
        assert_eq!(prompt(ids(tokens)), serde_json::json!([1, 2, 3]), "{tokens}");
    }
    toy.refused(&["run", "toy.plan", "--tokens", "1 x"], 2, &["found \"x\", expected token ids"]);
}

#[test]
fn a_limit_names_the_option_that_set_it() {
    let toy = toy();
    let limit = ["-c 4 set this limit; the plan has a context of 100 tokens"];
    toy.refused(&["run", "toy.plan", "--tokens", "1,2,3,4,5", "-c", "4"], 1, &limit);
    toy.refused(&["run", "toy.plan", "--tokens", "1,2,3,4,5", "-c", "4"], 1, &["the context is 4 tokens"]);
    let too_long = (1..=101).map(|token| (token % 9).to_string()).collect::<Vec<_>>().join(",");
    toy.refused(&["run", "toy.plan", "--tokens", &too_long], 1, &["jambac limits PLAN --context"]);
    toy.stdout(&["run", "toy.plan", "--tokens", "1,2,3,4,5", "-n", "0", "--save-state", "a.state"]);
    toy.refused(&["run", "toy.plan", "--tokens", "4", "-c", "4", "--load-state", "a.state"], 1, &limit);
    let note = |args: &[&str]| {
        let args = [&["run", "toy.plan", "--tokens", "1,2,3", "--ignore-eos", "-n", "-1"], args].concat();
        String::from_utf8(toy.jamba(&args).stderr).unwrap()
    };
    let cut = note(&["-c", "8"]);
    assert!(cut.contains("the context of 8 tokens, which -c set, is full; the plan has 100]"), "{cut}");
    let cut = note(&[]);
    assert!(cut.contains("the context of 100 tokens is full: jambac limits PLAN --context N"), "{cut}");
    let cut = note(&["-c", "100"]);
    assert!(cut.contains("the context of 100 tokens is full: jambac limits PLAN --context N"), "{cut}");

    let bench = |args: &[&str], says: &[&str]| toy.refused(&[&["bench", "toy.plan"], args].concat(), 1, says);
    bench(
        &["--prompt", "99999"],
        &["--prompt 99999 and --generate 64", "expected at most 100", "the context of toy.plan"],
    );
    bench(&["--prompt", "18446744073709551615"], &["expected at most 100"]);
    bench(&["--prompt", "20", "--generate", "2", "-c", "16"], &["expected at most 16, the limit of -c 16"]);
    bench(
        &["--batch", "99", "--prompt", "9", "--generate", "9"],
        &["--batch: found 99, expected at most 3", "toy.plan"],
    );
    let sequences = ["--batch", "2", "--prompt", "9", "--generate", "9", "--sequences", "1"];
    bench(&sequences, &["--batch: found 2, expected at most 1, the limit of --sequences 1"]);
    bench(&["--batch", "3", "--prompt", "90", "--generate", "9"], &["tokens of keys and values", "--kv-tokens 336"]);
}

/// The reader of stderr or stdout is gone: the work ends as it would with a reader, or quietly.
#[test]
fn closed_outputs_end_no_program_with_a_panic() {
    let toy = toy();
    let program = env!("CARGO_BIN_EXE_jamba");
    for (arguments, code) in [
        ("run none.plan a", 1),
        ("run toy.plan", 2),
        ("frobnicate", 2),
        ("serve", 2),
        ("run toy.plan --tokens 1,2,3 --ignore-eos -n -1", 0),
        ("info toy.plan", 0),
        ("--help", 0),
    ] {
        // The reader closes the pipe before the program begins.
        let script = format!(
            "mkfifo gate; ({{ read -r _ <gate; {program} {arguments} </dev/null; echo $? >code; }} 2>&1) | {{ exec 0<&-; echo go >gate; }}; wait; cat code; rm gate code"
        );
        let output = Command::new("bash").args(["-c", &script]).current_dir(toy.path()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), code.to_string(), "{arguments}");
        let full = format!("{program} {arguments} 2>/dev/full >/dev/null </dev/null");
        let output =
            Command::new("bash").args(["-c", &full]).env("JAMBA_LOG", "debug").current_dir(toy.path()).output();
        assert_eq!(output.unwrap().status.code(), Some(code), "{arguments}");
    }
}

/// `cat a >> a`
#[test]
fn stdout_is_no_file_of_the_command_line() {
    let toy = toy();
    let plan = std::fs::read(toy.path().join("toy.plan")).unwrap();
    std::fs::write(toy.path().join("a.txt"), "Once upon").unwrap();
    let program = env!("CARGO_BIN_EXE_jamba");
    for arguments in [
        "info toy.plan >> toy.plan",
        "run --model=toy.plan a >> toy.plan",
        "run toy.plan -f a.txt >> a.txt",
        "logits toy.plan --tokens 1 -o - >> toy.plan",
    ] {
        let script = format!("{program} {arguments}");
        let output = Command::new("bash").args(["-c", &script]).current_dir(toy.path()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(2) && stderr.contains("is the standard output too"),
            "{arguments}: {stderr}"
        );
    }
    assert!(std::fs::read(toy.path().join("toy.plan")).unwrap() == plan);
    assert_eq!(std::fs::read(toy.path().join("a.txt")).unwrap(), b"Once upon");
}

/// A copy of the program in a folder of its own.
fn alone(folder: &Path) -> std::path::PathBuf {
    let program = folder.join("jamba");
    // By another process: a child that another test starts meanwhile would inherit the open file, and the system runs no program
    // that is open for writing.
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_jamba")).arg(&program).status().unwrap().success());
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
        assert_eq!(stderr, format!("build {model} --cached --target native --trust-weights\n"));
    }
    // A plan that is damaged is built again, once.
    let script = "#!/bin/sh\ncase \"$*\" in *--rebuild*) /bin/cp good.plan bad.plan ;; esac\necho bad.plan\n";
    std::fs::write(&compiler, script).unwrap();
    let good = std::fs::read(toy.path().join("toy.plan")).unwrap();
    std::fs::write(toy.path().join("good.plan"), &good).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    for damaged in [&bad[..], &good[..good.len() / 2], b"no plan", b""] {
        std::fs::write(toy.path().join("bad.plan"), damaged).unwrap();
        let output = run("model");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && stderr.lines().count() == 1, "{stderr}");
        assert!(stderr.starts_with("jamba: bad.plan: ") && stderr.ends_with(": building it again\n"), "{stderr}");
        assert_eq!(run("model").stderr, b"");
    }
    std::fs::write(toy.path().join("good.plan"), "no plan").unwrap();
    std::fs::write(toy.path().join("bad.plan"), "no plan").unwrap();
    assert_eq!(run("model").status.code(), Some(1));
    std::fs::write(&compiler, "#!/bin/sh\nexit 1\n").unwrap();
    let output = run("org/none");
    assert_eq!((output.status.code(), &*output.stdout), (Some(1), &b""[..]), "the compiler has reported the error");
    // As the system ends a program that it has no memory to start.
    std::fs::write(&compiler, "#!/bin/sh\nkill -SEGV $$\n").unwrap();
    let output = run("model");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && stderr.lines().count() == 1, "{stderr}");
    assert!(stderr.contains("jambac: ended by signal 11") && stderr.contains("ulimit -v"), "{stderr}");
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
