//! `jambac build --calibrate` and formats by pattern.

use std::path::Path;
use std::process::{Command, Output};

use jamba_plan::Plan;
use jambac_models::tiny::Tiny;

fn jambac(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_jambac")).args(args).current_dir(folder).output().unwrap()
}

/// The options of small plans.
const SMALL: [&str; 6] = ["--max-context", "32", "--max-sequences", "1", "--target", "native"];

/// Builds a plan of `model` and returns its bytes and what was said on stderr.
#[track_caller]
fn built(folder: &Path, args: &[&str]) -> (Vec<u8>, String) {
    let output = jambac(folder, &[&["build", "model", "-o", "x.plan", "--force"], &SMALL[..], args].concat());
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
    let left: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("jamba-")), "{left:?}");
    (std::fs::read(folder.join("x.plan")).unwrap(), stderr)
}

#[track_caller]
fn refused(folder: &Path, args: &[&str], says: &[&str]) {
    let output = jambac(folder, &[&["build", "model", "-o", "no.plan"], &SMALL[..], args].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code().is_some_and(|code| code != 0), "{args:?}");
    assert!(says.iter().all(|part| stderr.contains(part)), "{args:?}: {stderr}");
    assert!(!folder.join("no.plan").exists());
}

fn option(plan: &[u8], key: &str) -> String {
    let plan = Plan::parse(plan).unwrap();
    let options = &plan.manifest().provenance.as_ref().unwrap().options;
    options.iter().find(|(known, _)| known == key).unwrap().1.clone()
}

/// The formats of the weights with parts of this parameter.
fn formats(plan: &[u8], parameter: &str) -> Vec<&'static str> {
    let plan = Plan::parse(plan).unwrap();
    let weights =
        plan.first().1.weights.iter().filter(|weight| weight.transform == jamba_plan::format::Transform::None);
    let of = weights.filter(|weight| weight.parts.iter().any(|part| part.parameter.contains(parameter)));
    of.map(|weight| weight.format.name()).collect()
}

#[test]
fn int4_is_calibrated_on_samples_by_default_and_always_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    Tiny::odd().write(&path.join("model"), 1).unwrap();
    let (plan, _) = built(path, &["--weights", "int4"]);
    assert_eq!(option(&plan, "weights.calibrate"), "self");
    assert!(built(path, &["--weights", "int4", "--calibrate", "self"]).0 == plan, "the same bytes");
    let (nearest, _) = built(path, &["--weights", "int4", "--calibrate", "none"]);
    assert!(nearest.len() == plan.len() && nearest != plan);
    let (int8, _) = built(path, &["--weights", "int8"]);
    assert_eq!(option(&int8, "weights.calibrate"), "none");
    assert!(built(path, &["--weights", "int8", "--calibrate", "self"]).0 != int8);
    // Other limits keep the packed weights.
    let limits = jambac(path, &["limits", "x.plan", "--context", "48", "-o", "y.plan"]);
    assert_eq!(limits.status.code(), Some(0), "{}", String::from_utf8_lossy(&limits.stderr));
    assert_eq!(option(&std::fs::read(path.join("y.plan")).unwrap(), "weights.calibrate"), "self");
}

#[test]
fn texts_of_a_calibration_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    Tiny::odd().write(&path.join("model"), 1).unwrap();
    refused(path, &["--calibrate", "no.txt"], &["--calibrate: found no.txt, expected self, none, or a file with text"]);
    std::fs::write(path.join("text"), "once").unwrap();
    refused(
        path,
        &["--calibrate", "text", "--weights", "int8"],
        &["--calibrate FILE needs the checkpoint's tokenizer"],
    );
    refused(path, &["--calibrate", "self", "--synthetic-weights", "1"], &["--calibrate", "--synthetic-weights"]);

    let trained = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny");
    let (trained, plan) = (trained.to_str().unwrap(), path.join("x.plan"));
    let build = |text: &str| {
        let args = ["build", trained, "-o", "x.plan", "--force", "--weights", "int8", "--calibrate", text];
        jambac(path, &[&args, &SMALL[..]].concat())
    };
    let short = build("text");
    let said = String::from_utf8_lossy(&short.stderr).into_owned();
    assert!(said.contains("--calibrate text: found") && said.contains("expected at least 128"), "{said}");
    std::fs::write(path.join("text"), "Anna has a red kite. Ben likes soup. ".repeat(40)).unwrap();
    assert_eq!(build("text").status.code(), Some(0));
    assert_eq!(option(&std::fs::read(plan).unwrap(), "weights.calibrate"), "text");
}

#[test]
fn patterns_give_parameters_formats_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    Tiny::odd().write(&path.join("model"), 1).unwrap();
    let none = ["--weights", "int4", "--calibrate", "none"];
    let (plan, _) = built(path, &none);
    assert_eq!((formats(&plan, "lm_head"), formats(&plan, "0.mamba.out_proj")), (vec!["int8"], vec!["int4"]));
    let given = ["--format", "lm_head=int4", "--format", "*.mamba.out_proj=bf16"];
    let (plan, _) = built(path, &[&none, &given[..]].concat());
    assert_eq!((formats(&plan, "lm_head"), formats(&plan, "0.mamba.out_proj")), (vec!["int4"], vec!["bf16"]));
    assert_eq!(option(&plan, "weights.patterns"), "lm_head=int4 *.mamba.out_proj=bf16");
    // The plan says what it was built from, so that its limits can change.
    let limits = jambac(path, &["limits", "x.plan", "--context", "48", "-o", "y.plan"]);
    assert_eq!(limits.status.code(), Some(0), "{}", String::from_utf8_lossy(&limits.stderr));

    refused(path, &["--format", "*.nothing=int8"], &["weights.*.nothing: matches no parameter", "--emit checkpoint"]);
    refused(path, &["--format", "lm_head"], &["expected PATTERN=FORMAT"]);
    refused(path, &["--format", "lm_head=int5"], &["weights.lm_head: found int5"]);
    let twice = ["--format", "lm_*=int8", "--format", "lm_head=bf16"];
    refused(path, &twice, &["found bf16 for lm_head.weight, and another pattern says int8"]);
    refused(
        path,
        &["--weights", "int8", "--format", "*.up_proj=int4", "--calibrate", "none"],
        &["found int4 for ", "up_proj", "expected int8, the format of", "gate_proj", "give both the same"],
    );
    refused(path, &["--format", "*.router=int8"], &["router", "it decides on experts or step sizes"]);
}
