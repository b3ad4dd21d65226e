//! `jambac predict`: tables, JSON, measured times beside predicted ones, and what it refuses.

use std::path::Path;
use std::process::{Command, Output};

use jambac_models::tiny::Tiny;
use serde_json::{Value, json};

fn jambac(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_jambac")).args(args).current_dir(folder).output().unwrap()
}

#[track_caller]
fn done(folder: &Path, args: &[&str]) -> String {
    let output = jambac(folder, args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(folder: &Path, args: &[&str], says: &str) {
    let output = jambac(folder, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && stderr.contains(says), "{args:?}: {stderr}");
}

fn build(folder: &Path) {
    Tiny::odd().write(&folder.join("model"), 1).unwrap();
    let options = ["--target", "x86-64-v2", "--target", "sm_90a", "--max-context", "64", "--max-sequences", "4"];
    done(folder, &[&["build", "model", "-o", "x.plan"], &options[..]].concat());
}

#[test]
fn steps_are_predicted_and_compared_with_what_was_measured() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    build(path);
    let table = done(path, &["predict", "x.plan", "--sequences", "2", "--context", "30"]);
    assert!(table.starts_with("H100, one token for each of 2 sequences after 30: "), "{table}");
    assert!(table.contains("of the card's limit") && table.contains("the host"), "{table}");
    let document: Value = serde_json::from_str(&done(path, &["predict", "x.plan", "--json"])).unwrap();
    let launches = document["steps"][0].as_array().unwrap();
    let seconds = |launch: &Value| launch["seconds"].as_f64().unwrap();
    let total = launches.iter().map(seconds).sum::<f64>() + document["card"]["host"].as_f64().unwrap();
    assert!((document["seconds"].as_f64().unwrap() / total - 1.0).abs() < 1e-9);
    // A step on a card with more bandwidth takes no longer, and a prompt is its chunks.
    let on_h200: Value = serde_json::from_str(&done(path, &["predict", "x.plan", "--json", "--card", "h200"])).unwrap();
    assert!(on_h200["seconds"].as_f64() <= document["seconds"].as_f64());
    let prompt = done(path, &["predict", "x.plan", "--prefill", "100"]);
    assert!(prompt.contains("a prompt of 100 tokens in "), "{prompt}");

    // Launches that take 1 µs longer than predicted: the fitted gap says so, and nothing is off any more.
    let kernels: Vec<Value> = launches
        .iter()
        .map(|launch| json!({ "entry": "decode", "symbol": launch["symbol"], "launches": 1, "seconds": seconds(launch) + 1e-6 }))
        .collect();
    let row =
        json!({ "decode_tokens_per_s": 1.0, "prefill_tokens_per_s": 1.0, "overhead_s": 3.15e-6, "kernels": kernels });
    std::fs::write(path.join("row.json"), row.to_string()).unwrap();
    let compared = done(path, &["predict", "x.plan", "--measured", "row.json"]);
    assert!(compared.contains("fitted: "), "{compared}");
    let symbol = launches[0]["symbol"].as_str().unwrap();
    assert!(compared.matches(symbol).count() == 2, "{compared}");
}

#[test]
fn what_cannot_be_predicted_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    build(path);
    refused(path, &["predict", "x.plan", "--sequences", "5"], "found 5 sequences, expected at most 4: jambac limits");
    refused(path, &["predict", "x.plan", "--card", "cpu"], "jamba bench x.plan --json");
    std::fs::write(path.join("row.json"), "{}").unwrap();
    refused(path, &["predict", "x.plan", "--measured", "row.json"], "row.json: expected a row of gpu-bench time");
    refused(
        path,
        &["predict", "x.plan", "--card", "cpu", "--measured", "row.json"],
        "expected the output of jamba bench",
    );
    done(path, &["build", "model", "-o", "cpu.plan", "--target", "x86-64-v2", "--max-context", "64"]);
    refused(
        path,
        &["predict", "cpu.plan"],
        "found a program for cpu, expected one for sm_90a: jambac build --target sm_90a",
    );
}
