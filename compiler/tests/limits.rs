//! `jambac limits`, and the models that `jambac build` finds: ids, caches and folders.

use std::path::Path;
use std::process::{Command, Output};

use jambac_models::tiny::Tiny;
use serde_json::Value;

fn jambac(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jambac"));
    command.args(args).current_dir(folder).env("XDG_CACHE_HOME", folder.join("cache")).env_remove("HF_HUB_CACHE");
    command.env("HF_HOME", folder.join("hf")).output().unwrap()
}

#[track_caller]
fn done(folder: &Path, args: &[&str]) -> String {
    let output = jambac(folder, args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(folder: &Path, args: &[&str], says: &[&str]) {
    let output = jambac(folder, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(says.iter().all(|part| stderr.contains(part)), "{args:?}: {stderr}");
}

/// Changing the limits of a plan gives the bytes of a build with these limits.
#[test]
fn a_plan_with_other_limits_is_the_plan_that_a_build_makes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    Tiny::odd().write(&path.join("model"), 1).unwrap();
    let build = |output: &str, context: &str, sequences: &str| {
        let limits = ["--max-context", context, "--max-sequences", sequences, "--target", "native"];
        done(path, &[&["build", "model", "-o", output, "--weights", "int8"], &limits[..]].concat());
    };
    build("small.plan", "32", "1");
    build("large.plan", "64", "3");
    done(path, &["limits", "small.plan", "--context", "64", "--sequences", "3", "-o", "raised.plan"]);
    let read = |name: &str| std::fs::read(path.join(name)).unwrap();
    assert!(read("raised.plan") == read("large.plan"));
    refused(path, &["limits", "small.plan", "-o", "x.plan"], &["found no limit"]);
    refused(path, &["limits", "small.plan", "-c", "999999", "-o", "x.plan"], &["--context: found 999999"]);
    refused(path, &["limits", "small.plan", "-c", "64", "-o", "small.plan"], &["is an input of this command"]);
    refused(path, &["limits", "model", "-c", "64", "-o", "x.plan"], &["not a plan but the folder of a checkpoint"]);
    let mut damaged = read("small.plan");
    let last = damaged.len() - 8192;
    damaged[last] ^= 1;
    std::fs::write(path.join("damaged.plan"), damaged).unwrap();
    refused(path, &["limits", "damaged.plan", "-c", "64", "-o", "x.plan"], &["damaged.plan", "damaged"]);
    assert!(!path.join("x.plan").exists());
}

#[test]
fn models_are_found_in_the_hugging_face_cache_and_plans_in_ours() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let top = path.join("hf/hub/models--org--Tiny-Jamba");
    Tiny::odd().write(&top.join("snapshots/0a1b2c"), 1).unwrap();
    std::fs::create_dir(top.join("refs")).unwrap();
    std::fs::write(top.join("refs/main"), "0a1b2c").unwrap();
    let build = |model: &str| done(path, &["build", model, "--cached", "--max-context", "32"]);
    let plan = build("org/Tiny-Jamba");
    let name = Path::new(plan.trim()).file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("Tiny-Jamba-") && plan.starts_with(path.join("cache/jambac").to_str().unwrap()), "{plan}");
    let written = std::fs::metadata(plan.trim()).unwrap().modified().unwrap();
    for model in [top.to_str().unwrap(), "hf/hub/models--org--Tiny-Jamba/snapshots/0a1b2c/config.json"] {
        assert_eq!(build(model), plan);
    }
    assert_eq!(std::fs::metadata(plan.trim()).unwrap().modified().unwrap(), written, "it was built once");
    refused(path, &["build", "org/Other", "--cached"], &["org/Other", "hf download org/Other"]);
    // The file that says which snapshot is main is an input.
    let refs = "hf/hub/models--org--Tiny-Jamba/refs/main";
    for model in ["org/Tiny-Jamba", top.to_str().unwrap(), "hf/hub/models--org--Tiny-Jamba/snapshots/0a1b2c"] {
        refused(path, &["build", model, "-o", refs, "--force"], &["refs/main: is an input of this command"]);
    }
    assert_eq!(std::fs::read(path.join(refs)).unwrap(), b"0a1b2c");
}

/// Every fault of a plan in the cache, or of its record, is noticed, told in one line, and mended by one build.
#[test]
fn a_cached_plan_that_is_not_the_models_is_built_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    // One Mamba layer: this test builds many plans.
    let tiny = Tiny { layers: 1, attention: (2, 1), experts: 1, ..Tiny::odd() };
    tiny.write(&path.join("model"), 1).unwrap();
    let build = |args: &[&str]| {
        let output = jambac(path, &[&["build", "model", "--cached", "--max-context", "32"], args].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        (String::from_utf8(output.stdout).unwrap().trim().to_owned(), stderr)
    };
    let (plan, _) = build(&[]);
    let good = std::fs::read(&plan).unwrap();
    assert_eq!(build(&[]), (plan.clone(), String::new()), "it is there");
    let record = plan.replace(".plan", ".json");
    let is_mended = |reason: &str, args: &[&str]| {
        let (again, stderr) = build(args);
        let lines: Vec<&str> = stderr.lines().filter(|line| line.contains("building it again")).collect();
        assert!(lines.len() == 1 && lines[0].contains(reason), "{reason}: {stderr}");
        assert_eq!(lines[0].matches(&plan).count(), 1, "{reason}: {stderr}");
        let parts: Vec<&str> = lines[0].split(": ").collect();
        assert!((1..parts.len()).all(|at| !parts[..at].contains(&parts[at])), "said twice: {stderr}");
        assert!(again == plan && std::fs::read(&plan).unwrap() == good, "{reason}");
        assert_eq!(build(&[]), (plan.clone(), String::new()), "{reason}");
    };

    let flip = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        std::fs::write(&plan, bytes).unwrap();
    };
    let weights = good.len() - 8192;
    for (at, reason) in [(weights, "weights: damaged"), (20, "header")] {
        flip(at);
        is_mended(reason, &[]);
    }
    // The runtime verifies the weights itself, and asks for a new plan.
    flip(weights);
    assert_eq!(build(&["--trust-weights"]), (plan.clone(), String::new()));
    let (_, stderr) = build(&["--rebuild"]);
    assert!(!stderr.contains("again") && std::fs::read(&plan).unwrap() == good, "{stderr}");
    for (bytes, reason) in [(&good[..good.len() / 2], "cut short"), (b"no plan", "not a plan"), (b"", "")] {
        std::fs::write(&plan, bytes).unwrap();
        is_mended(reason, &["--trust-weights"]);
    }

    // Another sound plan.
    done(path, &["build", "model", "-o", "other.plan", "--max-context", "64"]);
    std::fs::copy(path.join("other.plan"), &plan).unwrap();
    is_mended("another plan", &["--trust-weights"]);
    std::fs::write(&record, "{}").unwrap();
    is_mended("record", &[]);
    std::fs::remove_file(&record).unwrap();
    is_mended("record", &[]);

    // Other weights of the same length and time.
    let weights = path.join("model/model.safetensors");
    let (bytes, time) = (std::fs::read(&weights).unwrap(), std::fs::metadata(&weights).unwrap().modified().unwrap());
    tiny.write(&path.join("copy"), 2).unwrap();
    let copy = path.join("copy/model.safetensors");
    assert_eq!(std::fs::metadata(&copy).unwrap().len(), bytes.len() as u64);
    std::fs::File::options().write(true).open(&copy).unwrap().set_modified(time).unwrap();
    std::fs::rename(copy, &weights).unwrap();
    let (again, stderr) = build(&[]);
    assert!(again == plan && stderr.contains("model.safetensors changed: building it again"), "{stderr}");
    assert!(std::fs::read(&plan).unwrap() != good, "the new weights are in the plan");
    assert_eq!(std::fs::read_dir(path.join("cache/jambac")).unwrap().count(), 2, "the old plan is gone");
    // A folder in its place cannot give way by itself.
    std::fs::remove_file(&plan).unwrap();
    std::fs::create_dir(&plan).unwrap();
    refused(path, &["build", "model", "--cached", "--max-context", "32"], &[&plan, "is a folder"]);
}

#[test]
fn fit_prints_a_matrix_and_the_best_command() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    Tiny::odd().write(&path.join("model"), 1).unwrap();
    let text = done(path, &["fit", "model", "--memory", "1G", "--max-context", "64"]);
    for part in [
        "model in 1.00 GB, --memory",
        "as stored",
        "int8, experts int4",
        "int4",
        "int8, experts int3",
        "best: jambac build model -o model.plan",
    ] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    let best = text.lines().last().unwrap().strip_prefix("best: jambac ").unwrap();
    done(path, &best.split(' ').chain(["--emit", "schedule"]).collect::<Vec<_>>());
    let document: Value =
        serde_json::from_str(&done(path, &["fit", "model", "--json", "--max-context", "64"])).unwrap();
    let rows = document["matrix"]["formats"].as_array().unwrap();
    assert_eq!((rows.len(), rows[0]["memory"].as_array().unwrap().len()), (6, 7));
    assert!(document["memory"].as_u64().unwrap() > 1 << 28, "this machine's");
    assert!(document["best"].as_str().unwrap().ends_with("--max-context 64 --max-sequences 64"));
}

/// `fit` fails if nothing fits, or if what the command line asks for does not. Limits of model.toml are only told about.
#[test]
fn fit_fails_for_what_was_asked_on_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    Tiny::odd().write(&path.join("model"), 1).unwrap();
    let toml = "[model]\ncheckpoint = \".\"\n[limits]\nmax_context = 64\nmax_sequences = 4096\n";
    std::fs::write(path.join("model/model.toml"), toml).unwrap();
    let text = done(path, &["fit", "model", "--memory", "4MB"]);
    assert!(text.contains("the limits of model.toml do not fit: 4000000 bytes are"), "{text}");
    assert!(text.lines().last().unwrap().starts_with("best: jambac build model"), "{text}");
    let document: Value = serde_json::from_str(&done(path, &["fit", "model", "--memory", "4MB", "--json"])).unwrap();
    assert_eq!(document["asked_fits"], false);
    let asks = ["fit", "model", "--memory", "4MB", "--max-sequences", "4096"];
    refused(path, &asks, &["too few for limits.max_sequences 4096", "lower limits.max_sequences to"]);
    refused(path, &["fit", "model", "--memory", "9KB"], &["one sequence of 16 tokens takes"]);

    // A model of 16 positions, and of 10.
    std::fs::remove_file(path.join("model/model.toml")).unwrap();
    let config = std::fs::read_to_string(path.join("model/config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    for positions in [16, 10] {
        config["max_position_embeddings"] = positions.into();
        std::fs::write(path.join("model/config.json"), config.to_string()).unwrap();
        let text = done(path, &["fit", "model", "--memory", "1G"]);
        assert!(text.contains(&format!("--max-context {positions} --max-sequences 64")), "{text}");
        assert!(!text.contains("does not fit\n"), "{text}");
        let says = [
            "limits.max_context: found 4096".to_owned(),
            format!("expected at most {positions}, the max_position_embeddings of model/config.json"),
        ];
        let says = says.each_ref().map(String::as_str);
        refused(path, &["fit", "model", "--max-context", "4096"], &says);
        refused(path, &["build", "model", "--max-context", "4096", "-o", "x.plan"], &says);
        done(path, &["build", "model", "-o", "x.plan"]);
    }
}

#[test]
fn limits_that_no_machine_has_are_refused_by_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    Tiny::odd().write(&path.join("model"), 1).unwrap();
    let toml = "[model]\ncheckpoint = \"model\"\n[limits]\nmax_sequences = 400000000\n";
    std::fs::write(path.join("model.toml"), toml).unwrap();
    refused(
        path,
        &["build", "model.toml", "-o", "x.plan"],
        &["limits.max_sequences: found 400000000, expected at most 65536"],
    );
    done(path, &["build", "model", "-o", "x.plan", "--max-context", "32"]);
    let limits = ["limits", "x.plan", "-o", "y.plan"];
    refused(path, &[&limits[..], &["--sequences", "400000000"]].concat(), &["limits.max_sequences: found 400000000"]);
    refused(
        path,
        &[&limits[..], &["--kv-tokens", "99999999999999"]].concat(),
        &["limits.kv_tokens: found 99999999999999"],
    );
    let chunk = ["--prefill-chunk", "18446744073709551615"];
    refused(path, &[&limits[..], &chunk].concat(), &["limits.prefill_chunk: found 18446744073709551615"]);
}

#[test]
fn the_version_says_what_matters_for_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let long = done(folder.path(), &["--version"]);
    for part in [env!("CARGO_PKG_VERSION"), "plan format: ", "LLVM: 19", "x86-64-v3", "sm_90a"] {
        assert!(long.contains(part), "{long}");
    }
    assert_eq!(done(folder.path(), &["-V"]).lines().count(), 1);
}

#[test]
fn a_build_for_serving_chooses_what_the_memory_holds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    Tiny::odd().write(&path.join("model"), 1).unwrap();
    let output = jambac(path, &["build", "model", "-o", "x.plan", "--for-serving", "1GB"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("64 sequences") && stderr.contains("1.00 GB of --for-serving"), "{stderr}");
    assert!(stderr.contains("serve it with --cache-mib "), "{stderr}");
    refused(path, &["build", "model", "-o", "y.plan", "--for-serving", "10kB"], &["--for-serving: ", "too few for"]);
    assert!(!path.join("y.plan").exists());
}

#[test]
fn auto_chooses_formats_that_fit_the_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    Tiny::odd().write(&path.join("model"), 1).unwrap();
    fn with<'a>(args: &[&'a str]) -> Vec<&'a str> {
        [args, &["--max-context", "64", "--max-sequences", "1"]].concat()
    }
    let document: Value = serde_json::from_str(&done(path, &with(&["fit", "model", "--json"]))).unwrap();
    let [all, weights] = ["bytes", "weights"].map(|key| document["asked"][key].as_u64().unwrap());
    let memory = (all - weights / 3).to_string();
    let text = done(path, &with(&["fit", "model", "--weights", "auto", "--memory", &memory]));
    assert!(
        text.contains("predicted loss, relative to one format for all") && text.contains("mamba.in_proj"),
        "{text}"
    );
    let document: Value =
        serde_json::from_str(&done(path, &with(&["fit", "model", "--weights", "auto", "--memory", &memory, "--json"])))
            .unwrap();
    assert!(document["asked"]["bytes"].as_u64().unwrap() <= all - weights / 3, "{document}");
    assert!(document["formats"]["loss"].as_f64().unwrap() > 0.0, "{document}");
    let best = text.lines().last().unwrap().strip_prefix("best: jambac ").unwrap();
    let command: Vec<&str> = best.split(' ').chain(["--target", "native", "--calibrate", "none"]).collect();
    let output = jambac(path, &command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("the open plan takes"), "{said}");
    // The plan knows its formats: other limits need no choice.
    done(path, &["limits", "model.plan", "--context", "128", "-o", "longer.plan"]);

    refused(path, &with(&["build", "model", "-o", "p.plan", "--memory", "1G"]), &["--memory", "--weights auto"]);
    refused(
        path,
        &with(&["build", "model", "-o", "p.plan", "--weights", "auto", "--memory", "10k"]),
        &["with the smallest formats", "10000", "--memory"],
    );
}
