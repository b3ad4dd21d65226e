//! The command line with plans of a toy model: output and exit codes.

#[path = "../../tests/fixture/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod fixture;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use jamba_plan::format::{GenerationDefaults, Provenance, SourceFile};

use fixture::{LIMITS, Toy, VOCAB, WEIGHT, answers};
use jamba_runtime::{Engine, OpenOptions};
use serde_json::Value;

fn jamba(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_jamba")).args(args).output().unwrap()
}

#[track_caller]
fn json(args: &[&str]) -> Value {
    let output = jamba(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*stderr), (Some(0), ""));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Checks the exit code, an empty standard output, and a message that contains all of `says`.
#[track_caller]
fn refused(args: &[&str], code: i32, says: &[&str]) {
    let output = jamba(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*output.stdout), (Some(code), &b""[..]), "{stderr}");
    assert!(says.iter().all(|part| stderr.contains(part)), "{stderr}");
}

fn toy() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = Toy::new().write(folder.path(), "toy.plan");
    (folder, path)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn run_prints_tokens_where_there_is_no_tokenizer() {
    let (_folder, path) = toy();
    let args = ["run", text(&path), "--tokens", "5,6", "-n", "3", "--ignore-eos", "--greedy", "--threads", "2"];
    let output = jamba(&args);
    assert_eq!((output.status.code(), &*output.stdout, &*output.stderr), (Some(0), &b"0,0,0\n"[..], &b""[..]));
    let report = json(&[&args[..], &["--json"]].concat());
    assert_eq!(report["prompt_tokens"], serde_json::json!([5, 6]));
    assert_eq!(report["tokens"], serde_json::json!([0, 0, 0]));
    assert_eq!((&report["text"], &report["finish"]), (&Value::Null, &Value::from("length")));
    let plan = json(&["info", text(&path), "--json"])["memory"]["total"].clone();
    assert_eq!(report["memory"]["plan"], plan);
    assert!(report["memory"]["peak_resident"].as_u64().is_some_and(|bytes| bytes > 1 << 20));
    assert_eq!((&report["logprobs"], &report["device"]), (&Value::Null, &Value::from("cpu")));
    for time in ["open_s", "first_token_s", "prefill_s", "prefill_tokens_per_s", "decode_s", "decode_tokens_per_s"] {
        assert!(report["timing"][time].as_f64().is_some_and(|time| time > 0.0), "{time}");
    }
}

#[test]
fn a_state_goes_on_where_it_was_saved() {
    let (folder, path) = toy();
    let (state, more) = (folder.path().join("a.state"), folder.path().join("b.state"));
    let run = |tokens: &str, n: &str, rest: &[&str]| {
        let args = ["run", text(&path), "--tokens", tokens, "-n", n, "--temperature", "1", "--repetition-penalty", "2"];
        json(&[&args[..], &["--ignore-eos", "--json"], rest].concat())
    };
    let saved = run("5,6,7", "0", &["--save-state", text(&state)]);
    assert_eq!((&saved["state_tokens"], &saved["saved_tokens"]), (&0.into(), &3.into()));
    let whole = run("5,6,7,8,9", "4", &[]);
    let rest = run("8,9", "4", &["--load-state", text(&state), "--threads", "2", "--save-state", text(&more)]);
    assert_eq!((&rest["state_tokens"], &rest["prompt_tokens"]), (&3.into(), &serde_json::json!([8, 9])));
    assert_eq!((&rest["tokens"], &rest["saved_tokens"]), (&whole["tokens"], &9.into()));
    assert_eq!(whole["saved_tokens"], Value::Null);
    // The last token is to be read next, although there is no room for it.
    let full = run("1", "500", &["--load-state", text(&more), "--save-state", text(&more)]);
    assert_eq!((&full["finish"], &full["saved_tokens"]), (&"no_room".into(), &(LIMITS.max_context + 1).into()));

    let other = Toy { defines: "#define FACTOR 5", ..Toy::new() }.write(folder.path(), "other.plan");
    let load = ["--tokens", "1", "--load-state", text(&state)];
    refused(
        &[&["run", text(&other)], &load[..]].concat(),
        1,
        &["a.state: plan: found", "of a plan of toy", "continues with the plan that saved it"],
    );
    let mut bytes = std::fs::read(&state).unwrap();
    bytes[200] ^= 1;
    std::fs::write(&state, &bytes).unwrap();
    refused(&[&["run", text(&path)], &load[..]].concat(), 1, &["a.state: content digest: found"]);
    refused(&["run", text(&path), "--tokens", "1", "--load-state", "no.state"], 1, &["no.state: cannot read it"]);
}

#[test]
fn an_answer_is_drawn_again_from_the_state_of_its_prompt() {
    let (folder, path) = toy();
    let state = folder.path().join("a.state");
    let (path, state) = (text(&path), text(&state));
    let run = |n: &str, args: &[&str]| {
        let common = ["-n", n, "--temperature", "1e6", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--json"];
        json(&[&["run", path, "--ignore-eos", "--repetition-penalty", "2"], args, &common].concat())
    };
    for prompt in ["5,6,7", "5"] {
        json(&["run", path, "--tokens", prompt, "-n", "0", "--save-state", state, "--json"]);
        let mut answers = BTreeSet::new();
        for seed in ["1", "2", "3"] {
            let fresh = run("6", &["--tokens", prompt, "--seed", seed]);
            let again = run("6", &["--load-state", state, "--seed", seed]);
            assert_eq!(again["tokens"], fresh["tokens"], "prompt {prompt}, seed {seed}");
            assert_eq!((&again["prompt_tokens"], &again["seed"]), (&serde_json::json!([]), &fresh["seed"]));
            assert_eq!(again["seed"].to_string(), seed);
            answers.insert(again["tokens"].to_string());
        }
        assert_eq!(answers.len(), 3, "each seed draws another answer");
    }
    // Saved again without an answer it is the same state, and after an answer it goes on behind it.
    let before = std::fs::read(state).unwrap();
    json(&["run", path, "--load-state", state, "-n", "0", "--save-state", state, "--json"]);
    assert_eq!(std::fs::read(state).unwrap(), before);
    let whole = run("12", &["--tokens", "5", "--seed", "4"]);
    let begin = run("6", &["--tokens", "5", "--seed", "4", "--save-state", state]);
    let end = run("6", &["--load-state", state, "--seed", "4"]);
    let tokens = |report: &Value| report["tokens"].as_array().unwrap().clone();
    assert_eq!([tokens(&begin), tokens(&end)].concat(), tokens(&whole));
}

#[test]
fn a_state_without_a_next_token_needs_a_prompt() {
    let (folder, path) = toy();
    let state = folder.path().join("old.state");
    let mut engine = Engine::open(&path, OpenOptions::default()).unwrap();
    let sequence = engine.add_sequence().unwrap();
    engine.prefill(sequence, &[5, 6, 7], None, None).unwrap();
    engine.snapshot(sequence).unwrap().save(&state).unwrap();
    refused(&["run", text(&path), "--load-state", text(&state)], 2, &["old.state: found no token to read next"]);
    let rest = json(&["run", text(&path), "--load-state", text(&state), "--tokens", "8", "--json"]);
    assert_eq!(rest["state_tokens"], 3);
}

#[test]
fn logits_of_every_position_for_any_chunk() {
    let (folder, path) = toy();
    let tokens: Vec<u32> = (0..60).map(|i| i * 7 % VOCAB as u32).collect();
    let list = tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let expected = answers(&tokens, WEIGHT as u32);
    for chunk in [None, Some("1"), Some("7"), Some("1000")] {
        let out = folder.path().join("logits.safetensors");
        let mut args = vec!["logits", text(&path), "--tokens", &list, "-o", text(&out)];
        args.extend(chunk.iter().flat_map(|chunk| ["--chunk", chunk]));
        assert_eq!(jamba(&args).status.code(), Some(0));
        let bytes = std::fs::read(&out).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let logits = tensors.tensor("logits").unwrap();
        assert_eq!((logits.dtype(), logits.shape()), (safetensors::Dtype::F32, &[60, VOCAB as usize][..]));
        let firsts: Vec<f32> = (logits.data().chunks(VOCAB as usize * 4))
            .map(|row| f32::from_le_bytes([row[0], row[1], row[2], row[3]]))
            .collect();
        assert_eq!(firsts, expected, "chunks of {chunk:?}");
    }
}

#[test]
fn bench_compares_plans() {
    let (folder, path) = toy();
    let other = Toy::new().write(folder.path(), "other.plan");
    let args = [
        "bench",
        text(&path),
        text(&other),
        "--prompt",
        "20",
        "--generate",
        "4",
        "--batch",
        "2",
        "--runs",
        "3",
        "--json",
    ];
    let report = json(&args);
    assert_eq!(report["plans"].as_array().unwrap().len(), 2);
    for plan in report["plans"].as_array().unwrap() {
        for rates in ["prefill_tokens_per_s", "decode_tokens_per_s"] {
            let at = |name: &str| plan[rates][name].as_f64().unwrap();
            assert!(at("min") <= at("median") && at("median") <= at("max") && at("ratio") > 0.0);
        }
    }
    assert_eq!(report["plans"][0]["decode_tokens_per_s"]["ratio"], 1.0);
    refused(&[&args[..2], &["--prompt", "99", "--generate", "4"]].concat(), 1, &["at most 100, the context of"]);
    let batch = ["--batch", "4", "--prompt", "9", "--generate", "9"];
    refused(&[&args[..2], &batch].concat(), 1, &["at most 3, the sequences of"]);
}

#[test]
fn info_and_verify_tell_what_the_plan_is() {
    let (folder, path) = toy();
    let info = json(&["info", text(&path), "--json"]);
    assert_eq!(info["manifest"]["limits"]["kv_tokens"], LIMITS.kv_tokens);
    assert_eq!(info["memory"]["kv"], 640); // 10 pages of 16 · 4 bytes
    let mut built = Toy::new();
    let digest = "0123456789abcdef".repeat(4);
    let (name, covers) = ("config.json".to_owned(), "everything".to_owned());
    built.manifest.provenance = Some(Provenance {
        llvm: "19.1.7".to_owned(),
        options: vec![("weights.default".to_owned(), "int8".to_owned())],
        files: vec![SourceFile { name, bytes: 707, blake3: digest.clone(), covers }],
    });
    let built = built.write(folder.path(), "built.plan");
    assert_eq!(json(&["info", text(&built), "--json"])["manifest"]["provenance"]["files"][0]["blake3"], digest);
    let told = String::from_utf8(jamba(&["info", text(&built)]).stdout).unwrap();
    for line in [
        "LLVM             19.1.7",
        "weights.default = int8",
        "config.json, 707 bytes, BLAKE3 0123456789abcdef of everything",
    ] {
        assert!(told.contains(line), "{told}");
    }
    let output = jamba(&["verify", text(&path)]);
    assert!(String::from_utf8(output.stdout).unwrap().contains("toy.plan: undamaged, "));
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 4096;
    bytes[last] ^= 1;
    let damaged = folder.path().join("damaged.plan");
    std::fs::write(&damaged, &bytes).unwrap();
    refused(&["verify", text(&damaged)], 1, &["damaged.plan", "weights: damaged"]);
    refused(&["run", text(&damaged), "--tokens", "1"], 1, &["weights: damaged"]);
    std::fs::write(&damaged, &bytes[..last + 10]).unwrap();
    refused(&["info", text(&damaged)], 1, &["weights", "cut short"]);
}

#[test]
fn the_models_defaults_apply_unless_flags_override_them() {
    let folder = tempfile::tempdir().unwrap();
    let plan = |name: &str, generation: GenerationDefaults| {
        let mut toy = Toy { defines: "#define SPREAD 300", ..Toy::new() };
        toy.manifest.generation = generation;
        toy.write(folder.path(), name)
    };
    let silent = plan("silent.plan", GenerationDefaults::default());
    let hot = GenerationDefaults {
        do_sample: Some(true),
        temperature: Some(900.0),
        top_k: Some(200),
        repetition_penalty: Some(1.5),
        max_new_tokens: Some(7),
        ..GenerationDefaults::default()
    };
    let hot = plan("hot.plan", hot);
    let tokens = |path: &Path, args: &[&str]| {
        json(&[&["run", text(path), "--tokens", "5,6", "--ignore-eos", "--json"], args].concat())["tokens"].clone()
    };
    let flags =
        ["--temperature", "900", "--top-k", "200", "--top-p", "1", "--min-p", "0", "--repetition-penalty", "1.5"];
    assert_eq!(tokens(&hot, &[]).as_array().unwrap().len(), 7);
    assert_eq!(tokens(&hot, &[]), tokens(&silent, &[&flags[..], &["-n", "7"]].concat()));
    let greedy = tokens(&silent, &["--greedy", "-n", "7"]);
    assert_ne!(tokens(&hot, &[]), greedy);
    assert_eq!(tokens(&hot, &["--greedy", "--repetition-penalty", "1"]), greedy);
    assert_eq!(tokens(&hot, &["--top-k", "1", "--repetition-penalty", "1"]), greedy);
    let flags = ["--temperature", "0.8", "--top-k", "40", "--top-p", "0.95", "--min-p", "0.05", "-n", "9"];
    assert_eq!(tokens(&silent, &["-n", "9"]), tokens(&silent, &flags));

    let info = |path: &Path| String::from_utf8(jamba(&["info", text(path)]).stdout).unwrap();
    let told = info(&hot);
    for line in [
        "generation       do_sample true, temperature 900, top_k 200, repetition_penalty 1.5, max_new_tokens 7\n",
        "sampling         temperature 900, top-k 200, top-p 1, min-p 0\n",
        "max_new          7\n",
    ] {
        assert!(told.contains(line), "{told}");
    }
    assert!(info(&silent).contains("sampling         temperature 0.8, top-k 40, top-p 0.95, min-p 0.05\n"));
    let defaults = &json(&["info", text(&silent), "--json"])["generation_defaults"];
    assert_eq!((&defaults["temperature"], &defaults["max_new"]), (&0.8.into(), &256.into()));
}

/// True if NVIDIA's driver runs on this machine.
fn has_driver() -> bool {
    Path::new("/proc/driver/nvidia/version").exists()
}

#[test]
fn the_input_is_at_fault() {
    let (_folder, path) = toy();
    let path = text(&path);
    refused(&["run", "no.plan", "--tokens", "1"], 1, &["no.plan", "cannot open it"]);
    refused(&["run", path, "--prompt", "Hi"], 1, &["no tokenizer"]);
    refused(&["run", path, "--tokens", "1,300"], 1, &["token 300", "vocabulary of 300"]);
    // Without NVIDIA's driver, it is reported missing; with it, the plan has no code for the GPU.
    let sentences = ["device cuda:0: NVIDIA's driver is not installed: libcuda.so was not found", "but none for"];
    let command = ["run", path, "--tokens", "1", "--device", "cuda:0"];
    refused(&command, 1, &[sentences[usize::from(has_driver())]]);
    refused(&["bench", path, "--device", "cuda:63"], 1, &["device cuda:63"]);
    refused(&["run", path, "--tokens", "1", "--isa", "x86-64-v9"], 1, &["x86-64-v9", "x86-64-v3"]);
    refused(&["chat", path], 1, &["no tokenizer"]);
}

#[test]
fn the_command_line_is_at_fault() {
    refused(&["run", "a.plan"], 2, &["a prompt is needed", "--prompt"]);
    refused(&["run", "a.plan", "--prompt", "a", "--tokens", "1"], 2, &["cannot be used with"]);
    refused(&["run", "a.plan", "--tokens", "1,x"], 2, &["--tokens"]);
    refused(&["run", "a.plan", "--tokens", "1", "--greedy", "--temperature", "1"], 2, &["cannot be used with"]);
    refused(&["run", "a.plan", "--tokens", "1", "--device", "tpu"], 2, &["tpu"]);
    let (folder, path) = toy();
    let mut greedy = Toy::new();
    greedy.manifest.generation.do_sample = Some(false);
    let greedy = greedy.write(folder.path(), "greedy.plan");
    refused(&["run", text(&greedy), "--tokens", "1", "--top-k", "4"], 2, &["--top-k needs sampling", "--temperature"]);
    refused(
        &["run", text(&path), "--tokens", "1", "--temperature", "0", "--top-p", "0.5"],
        2,
        &["--top-p needs sampling"],
    );
    refused(&["run", text(&path), "--tokens", "1", "--temperature=-1"], 2, &["temperature", "-1"]);
    refused(&["run", text(&path), "--tokens", "1", "--threads", "0"], 2, &["threads", "0"]);
    refused(&["logits", "a.plan", "--tokens", "1", "-o", "x", "--chunk", "0"], 2, &["--chunk"]);
}

#[test]
fn we_are_at_fault() {
    let folder = tempfile::tempdir().unwrap();
    let path = Toy::new().overrun().write(folder.path(), "overrun.plan");
    let args = ["run", text(&path), "--tokens", "1,2", "--check"];
    refused(&args, 3, &["\"execution\"", "layers.7.culprit", "Please report it"]);
}

#[test]
fn the_model_is_at_fault_if_its_activations_overflow() {
    let folder = tempfile::tempdir().unwrap();
    for (defines, found) in [("#define LOGIT __builtin_nanf(\"\")", "NaN"), ("#define LOGIT __builtin_inff()", "inf")] {
        let path = Toy { defines, ..Toy::new() }.write(folder.path(), "overflow.plan");
        let says =
            [&*format!("largest logit of a row is {found}"), "an activation of the model overflowed", "transformers"];
        refused(&["run", text(&path), "--tokens", "1,2"], 1, &says);
        refused(&["run", text(&path), "--tokens", "1,2", "--greedy", "--check"], 1, &says);
    }
}

#[test]
fn logs_go_to_stderr_and_only_on_request() {
    let (_folder, plan) = toy();
    let run = |filter: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jamba"));
        command.args(["run", text(&plan), "--tokens", "1,2,3", "-n", "2", "--ignore-eos"]).env_remove("JAMBA_LOG");
        command.envs(filter.map(|filter| ("JAMBA_LOG", filter)));
        let Output { status, stdout, stderr } = command.output().unwrap();
        (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    };
    let (code, answer, log) = run(None);
    assert_eq!((code, log.as_str()), (Some(0), ""));
    let (code, same, log) = run(Some("trace"));
    assert_eq!((code, same), (Some(0), answer.clone()));
    for span in ["open{", "verify", "load code", "map{", "prefill{tokens=3", "decode{tokens=1"] {
        assert!(log.contains(span), "no {span} in\n{log}");
    }
    let (code, same, log) = run(Some("debug"));
    assert_eq!((code, same), (Some(0), answer));
    assert!(log.contains("verify") && !log.contains("prefill{"), "{log}");
    let (code, _, log) = run(Some("jamba=loud"));
    assert!(code == Some(2) && log.contains("JAMBA_LOG"), "{log}");
}

#[test]
fn a_trace_can_be_read_by_chrome() {
    let (folder, path) = toy();
    let trace = folder.path().join("trace.json");
    let args = ["run", text(&path), "--tokens", "1,2", "-n", "1", "--threads", "2", "--trace", text(&trace)];
    assert_eq!(jamba(&args).status.code(), Some(0));
    let trace: Value = serde_json::from_slice(&std::fs::read(trace).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let of = |row: u64, category: &str| -> Vec<&Value> {
        events.iter().filter(|event| event["tid"] == row && event["cat"] == category).collect()
    };
    let names = |events: Vec<&Value>| -> Vec<String> {
        events.iter().map(|event| event["name"].as_str().unwrap().to_owned()).collect()
    };
    // A row of runs, and one per thread.
    assert_eq!(names(of(1, "run")), ["prefill of 2"]);
    let steps = ["embed", "recur", "append", "attend", "head"];
    let rows: Vec<Vec<String>> = [2, 3].map(|row| names(of(row, "prefill"))).to_vec();
    // Each step is on the row of the thread that executed parts of it, at least one.
    assert!(steps.iter().all(|step| rows.iter().flatten().any(|name| name == step)), "{rows:?}");
    for row in &rows {
        let mut expected = steps.iter();
        assert!(row.iter().all(|name| expected.any(|step| step == name)), "in order, once each: {rows:?}");
    }
    for row in [2, 3] {
        for step in of(row, "prefill") {
            let args = &step["args"];
            assert!(args["bytes"].is_number() && args["operations"].is_number() && args["source"].is_string());
        }
    }
    let run = of(1, "run")[0];
    let end = |event: &Value| event["ts"].as_f64().unwrap() + event["dur"].as_f64().unwrap();
    assert!(events.iter().filter(|event| event["ph"] == "X").all(|event| end(event) <= end(run) + 0.001));
}
