//! The command line of jambac: doctor, completions, manual pages, and messages that name what was found and what helps.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn jambac(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_jambac")).args(args).output().unwrap()
}

#[track_caller]
fn stdout(args: &[&str]) -> String {
    let output = jambac(args);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Refused as the input's fault, with a message that says all of this.
#[track_caller]
fn refused(args: &[&str], says: &[&str]) {
    let output = jambac(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(says.iter().all(|part| stderr.contains(part)), "{stderr}");
}

/// Refused as a usage error, with a message that says all of this.
#[track_caller]
fn misused(args: &[&str], says: &[&str]) {
    let output = jambac(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(says.iter().all(|part| stderr.contains(part)), "{stderr}");
}

fn models(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(name).to_str().unwrap().to_owned()
}

const SUBCOMMANDS: [&str; 13] = [
    "build",
    "inspect",
    "verify",
    "fit",
    "limits",
    "graph",
    "opt",
    "predict",
    "compare",
    "reduce",
    "doctor",
    "completions",
    "man",
];

#[test]
fn every_subcommand_completes_and_has_a_page() {
    let help = stdout(&["--help"]);
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&["completions", shell]);
        for subcommand in SUBCOMMANDS {
            assert!(help.contains(subcommand) && script.contains(subcommand), "{shell} {subcommand}");
        }
        assert!(script.contains("synthetic-weights"), "{shell}");
    }
    let folder = tempfile::tempdir().unwrap();
    stdout(&["man", "--dir", folder.path().to_str().unwrap()]);
    let mut names: Vec<String> =
        folder.path().read_dir().unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let mut expected: Vec<String> = SUBCOMMANDS.iter().map(|name| format!("jambac-{name}.1")).collect();
    expected.push("jambac.1".to_owned());
    expected.sort();
    assert_eq!(names, expected);
    for subcommand in SUBCOMMANDS {
        let page = stdout(&["man", subcommand]);
        assert_eq!(page, std::fs::read_to_string(folder.path().join(format!("jambac-{subcommand}.1"))).unwrap());
        assert!(page.contains(".SH NAME") && page.contains(".SH OPTIONS"), "{page}");
    }
    assert!(stdout(&["man"]).contains(".TH jambac 1"));
    misused(&["man", "brew"], &["found brew", "expected a subcommand"]);
}

#[test]
fn doctor_says_what_is_here_and_what_a_plan_lacks() {
    let text = stdout(&["doctor"]);
    let document: Value = serde_json::from_str(&stdout(&["doctor", "--json"])).unwrap();
    assert_eq!(document["ok"], true);
    let checks = document["checks"].as_array().unwrap();
    for name in
        ["LLVM, MLIR and lld, linked", "libraries", "CPU", "memory", "huge pages", "disk", "NVIDIA driver", "ptxas"]
    {
        let check = checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(check["state"] == "ok", check["mend"].is_null(), "{check}");
        assert!(text.contains(&format!(" {name}: ")), "{text}");
    }
    let libraries = checks.iter().find(|check| check["name"] == "libraries").unwrap();
    // Without static ones at hand, jambac loads shared ones.
    let found = libraries["found"].as_str().unwrap();
    assert!(found.contains("linked in") || found.contains("libzstd"), "{libraries}");
    // The largest model, unquantized: 800 GB.
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("large.plan");
    let plan = plan.to_str().unwrap();
    stdout(&["build", &models("jamba-large"), "-o", plan, "--synthetic-weights", "1"]);
    let output = jambac(&["doctor", plan, "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let memory = document["checks"].as_array().unwrap().iter().find(|check| check["name"] == "memory").unwrap();
    assert_eq!((output.status.code(), &document["ok"], &memory["state"]), (Some(1), &false.into(), &"missing".into()));
    assert!(memory["mend"].as_str().unwrap().starts_with("jambac fit"));
    refused(&["doctor", plan], &["missing: memory"]);
    refused(&["doctor", "no.plan"], &["no.plan", "cannot open it"]);
}

#[test]
fn messages_name_the_file_the_key_and_what_helps() {
    let tiny = models("tiny");
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("x.plan");
    let plan = plan.to_str().unwrap();
    let build = |rest: &[&str], says: &[&str]| refused(&[&["build", &tiny, "-o", plan], rest].concat(), says);
    refused(&["build", "nowhere", "-o", "x.plan"], &["nowhere", "model.toml or a checkpoint's folder"]);
    refused(&["build", &tiny, "-o", "/nowhere/x.plan"], &["/nowhere/x.plan", "mkdir -p /nowhere"]);
    let misused_build =
        |rest: &[&str], says: &[&str]| misused(&[&["build", &tiny, "-o", "/nowhere/x.plan"], rest].concat(), says);
    misused_build(&["--target", "x86-64-v9"], &["build.targets", "'x86-64-v9'", "x86-64-v3"]);
    misused_build(&["--fusion", "fuse-all"], &["build.fusion", "\"fuse-all\"", "fuse-qkv"]);
    misused_build(&["--weights", "int7"], &["weights.default: found int7", "int8"]);
    misused_build(&["--experts", "f8"], &["weights.experts: found f8", "int8"]);
    misused_build(&["--kv", "int8"], &["limits.kv_dtype: found int8", "bf16"]);
    build(
        &["--max-context", "9999999"],
        &["limits.max_context: found 9999999", "max_position_embeddings", "config.json"],
    );
    build(&["--max-sequences", "0"], &["limits.max_sequences: found 0"]);
    refused(&["inspect", "nowhere.plan"], &["nowhere.plan"]);
    let config = format!("{tiny}/config.json");
    refused(&["inspect", &config], &["config.json", "not a plan", "jambac build MODEL -o OUT.plan"]);
    misused_build(&["--max-context", "-1"], &["'-1'", "expected a whole number, 0 or more"]);
    misused(&["fit", &tiny, "--memory", "80 parsecs"], &["--memory", "parsecs", "GiB"]);
    refused(&["opt", &config], &["config.json"]);
    refused(&["graph", "nowhere"], &["nowhere"]);
    let balance = jambac(&["inspect", "x.plan", "--balance", "0"]);
    assert_eq!(balance.status.code(), Some(2));
}

#[test]
fn words_of_other_programs_name_ours() {
    let tiny = models("tiny");
    let id = "ai21labs/Jamba-v0.1";
    for (args, says) in [
        (&["build", &tiny, "--outtype", "q8_0"][..], "--weights FORMAT"),
        (&["build", &tiny, "--quantize=int8"], "--experts FORMAT"),
        (&["build", &tiny, "--outfile", "x.gguf"], "-o OUT.plan"),
        (&["convert", &tiny], "jambac build MODEL -o OUT.plan --weights int8"),
        (&["run", "x.plan"], "jamba run PLAN"),
        (&["serve"], "jamba serve PLAN"),
        (&["-m", &tiny], "the command comes first"),
        (&[id], "jambac build ai21labs/Jamba-v0.1 -o OUT.plan"),
        (&["compare", "a.plan", "b.plan", "--tokens", "1 x"], "found \"x\", expected token ids"),
    ] {
        misused(args, &[says]);
    }
    refused(&["build", "hf.co/ai21labs/Jamba-v0.1", "-o", "x.plan"], &["hf download ai21labs/Jamba-v0.1"]);
    misused(&["frobnicate"], &["unrecognized subcommand"]);
}

/// A file that is no graph is not repeated in the message.
#[test]
fn a_wrong_graph_is_quoted_in_short() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.graph");
    let name = "x".repeat(1 << 20);
    for text in
        [name.clone(), format!("graph @{name} {{\n  {name} }}"), format!("graph @a {{\n  %{name} = %{name}\n}}")]
    {
        std::fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap();
        for args in [&["opt", path][..], &["reduce", path, "--while", "false {}"]] {
            let output = jambac(args);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.code() == Some(1) && stderr.len() < 800, "{} bytes", stderr.len());
            assert!(stderr.contains("line ") && stderr.contains("column "), "{stderr}");
        }
    }
}

/// The reader of stderr is gone, or its disk is full: the work ends as it would with a reader.
#[test]
fn a_closed_stderr_changes_no_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.graph");
    std::fs::write(&path, stdout(&["graph", &models("tiny")])).unwrap();
    let (program, tiny) = (env!("CARGO_BIN_EXE_jambac"), models("tiny"));
    for (arguments, code) in [
        ("opt nowhere.graph", 1),
        ("opt a.graph --print-after-all", 0),
        ("build", 2),
        ("serve", 2),
        ("frobnicate", 2),
        (&format!("build {tiny} --emit graph --max-context 64"), 0),
    ] {
        // The reader closes the pipe before the program begins.
        let closed = format!(
            "mkfifo gate; ({{ read -r _ <gate; {program} {arguments} </dev/null; echo $? >code; }} 2>&1) | {{ exec 0<&-; echo go >gate; }}; wait; cat code; rm gate code"
        );
        let full = format!("{program} {arguments} >/dev/null 2>/dev/full; echo $?");
        for script in [closed, full] {
            let mut command = Command::new("bash");
            command.args(["-c", &script]).current_dir(folder.path()).env("JAMBAC_LOG", "info");
            let output = command.output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), code.to_string(), "{script}");
        }
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let graph = format!("{} graph {} | head -n 1", env!("CARGO_BIN_EXE_jambac"), models("jamba-mini"));
    let output = Command::new("bash").args(["-o", "pipefail", "-c", &graph]).output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
    assert!(output.stdout.starts_with(b"graph @prefill"));
}
