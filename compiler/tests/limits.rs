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
        let limits = ["--max-context", context, "--max-sequences", sequences];
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
        "best: jambac build model -o model.plan",
    ] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    let best = text.lines().last().unwrap().strip_prefix("best: jambac ").unwrap();
    done(path, &best.split(' ').chain(["--emit", "schedule"]).collect::<Vec<_>>());
    let document: Value =
        serde_json::from_str(&done(path, &["fit", "model", "--json", "--max-context", "64"])).unwrap();
    let rows = document["matrix"]["formats"].as_array().unwrap();
    assert_eq!((rows.len(), rows[0]["memory"].as_array().unwrap().len()), (4, 7));
    assert!(document["memory"].as_u64().unwrap() > 1 << 28, "this machine's");
    assert!(document["best"].as_str().unwrap().ends_with("--max-context 64 --max-sequences 64"));
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
