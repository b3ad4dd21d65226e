//! `jamba tokenize`, `perplexity`, `bench`, `classify`, `embed` and `run --jsonl` with plans of a toy model.

#[path = "../../tests/fixture/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod fixture;

use std::path::Path;
use std::process::{Command, Output};

use fixture::{Toy, VOCAB};
use jamba_plan::format::{Activation, Head};
use serde_json::Value;

fn jamba(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_jamba")).args(args).output().unwrap()
}

#[track_caller]
fn stdout(args: &[&str]) -> String {
    let output = jamba(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*stderr), (Some(0), ""));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn json(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(args)).unwrap()
}

#[track_caller]
fn refused(args: &[&str], code: i32, says: &[&str]) {
    let output = jamba(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*output.stdout), (Some(code), &b""[..]), "{stderr}");
    assert!(says.iter().all(|part| stderr.contains(part)), "{stderr}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn text_becomes_tokens_and_text_again() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Toy::with_text().write(folder.path(), "toy.plan");
    let plan = text(&plan);
    let tokens = stdout(&["tokenize", plan, "--prompt", "Once upon"]);
    let tokens = tokens.trim_end();
    assert!(tokens.starts_with("1,"), "the start token comes first: {tokens}");
    // As transformers' decode: special tokens are shown unless they are to be hidden.
    assert_eq!(stdout(&["tokenize", plan, "--tokens", tokens]), "<|startoftext|>Once upon\n");
    assert_eq!(stdout(&["tokenize", plan, "--tokens", tokens, "--hide-special"]), "Once upon\n");
    let plain = stdout(&["tokenize", plan, "--plain", "--prompt", "Once upon"]);
    assert_eq!(format!("1,{}", plain.trim_end()), tokens);
    let report = json(&["tokenize", plan, "--prompt", "Once upon", "--json"]);
    let ids: Vec<String> = report["tokens"].as_array().unwrap().iter().map(Value::to_string).collect();
    let pieces: String = report["pieces"].as_array().unwrap().iter().map(|piece| piece.as_str().unwrap()).collect();
    assert_eq!(
        (ids.join(","), pieces.as_str(), &report["text"]),
        (tokens.to_owned(), "<|startoftext|>Once upon", &"<|startoftext|>Once upon".into())
    );
    let hidden = json(&["tokenize", plan, "--tokens", tokens, "--json", "--hide-special"]);
    assert_eq!((&hidden["pieces"][0], &hidden["text"]), (&"".into(), &"Once upon".into()));
    // The same tokens as those of `jamba run`.
    assert_eq!(json(&["run", plan, "--prompt", "Once upon", "-n", "0", "--json"])["prompt_tokens"], report["tokens"]);
    refused(&["tokenize", plan, "--tokens", "1,300"], 1, &["found 300", "below 300"]);
    let none = Toy::new().write(folder.path(), "none.plan");
    refused(&["tokenize", text(&none), "--prompt", "a"], 1, &["no tokenizer"]);
}

/// The mean over the second half of each chunk, from the logits that `jamba logits` writes.
fn expected(folder: &Path, plan: &str, tokens: &[u32], chunk: usize) -> (u64, f64) {
    let (mut n, mut nats) = (0, 0.0);
    for part in tokens.chunks_exact(chunk) {
        let mut part = part.to_vec();
        part[0] = 1;
        let list = part.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let path = folder.join("logits.safetensors");
        assert_eq!(jamba(&["logits", plan, "--tokens", &list, "-o", text(&path)]).status.code(), Some(0));
        let bytes = std::fs::read(&path).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let data = tensors.tensor("logits").unwrap().data().to_vec();
        for at in chunk / 2..chunk - 1 {
            let row: Vec<f64> = data[at * VOCAB as usize * 4..][..VOCAB as usize * 4]
                .chunks(4)
                .map(|bytes| f64::from(f32::from_le_bytes(bytes.try_into().unwrap())))
                .collect();
            let sum: f64 = row.iter().map(|logit| logit.exp()).sum();
            nats += sum.ln() - row[part[at + 1] as usize];
            n += 1;
        }
    }
    (n, nats)
}

#[test]
fn perplexity_is_that_of_the_logits() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Toy::with_text().write(folder.path(), "toy.plan");
    let (plan, file) = (text(&plan), folder.path().join("a.txt"));
    std::fs::write(&file, "Once upon a time there was a kite. It was red, and it flew over the hills and the sea.\n")
        .unwrap();
    let args = ["perplexity", plan, text(&file), "--chunk", "20", "--json"];
    let report = json(&args);
    let tokens = json(&["tokenize", plan, "--prompt", &std::fs::read_to_string(&file).unwrap(), "--json"]);
    let tokens: Vec<u32> = serde_json::from_value(tokens["tokens"].clone()).unwrap();
    let (n, nats) = expected(folder.path(), plan, &tokens, 20);
    assert!(n >= 18, "two chunks at least");
    assert_eq!((&report["predicted"], &report["tokens"]), (&n.into(), &tokens.len().into()));
    assert_eq!(report["chunks"], tokens.len() / 20);
    let found = report["nats"].as_f64().unwrap();
    assert!((found - nats).abs() < 1e-9 * nats, "{found} {nats}");
    let perplexity = report["perplexity"].as_f64().unwrap();
    assert!((perplexity - (nats / n as f64).exp()).abs() < 1e-9 * perplexity);
    // One chunk; the text as a whole, where it is shorter than a chunk; and the table.
    assert_eq!(json(&[&args[..], &["--chunks", "1"]].concat())["predicted"], 9);
    let whole = json(&["perplexity", plan, text(&file), "--json"]);
    assert_eq!((&whole["chunks"], &whole["chunk"]), (&1.into(), &tokens.len().into()));
    assert!(stdout(&args[..5]).starts_with(&format!("perplexity      {perplexity:.5} ± ")));

    assert_eq!(json(&["perplexity", "-m", plan, text(&file), "--json"]), whole, "the plan as an option");
    refused(&["perplexity", "-m", plan, text(&file), "b.txt"], 2, &["the plan once and one file"]);
    refused(&["perplexity", plan], 2, &["jamba perplexity PLAN FILE"]);
    refused(&["perplexity", plan, "no.txt"], 1, &["no.txt", "cannot read it"]);
    refused(&["perplexity", plan, text(&file), "--chunk", "500"], 2, &["--chunk", "context of 100"]);
    std::fs::write(&file, "a").unwrap();
    refused(&["perplexity", plan, text(&file)], 1, &["a.txt", "at least 4"]);
}

#[test]
fn bench_measures_each_batch() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Toy::new().write(folder.path(), "toy.plan");
    let args = ["bench", text(&plan), "--prompt", "20", "--generate", "4", "--runs", "3", "--batch", "1,3"];
    let report = json(&[&args[..], &["--json"]].concat());
    let plan = &report["plans"][0];
    for (batch, size) in plan["batches"].as_array().unwrap().iter().zip([1, 3]) {
        assert_eq!((&batch["batch"], &batch["first_token_s"]["n"]), (&size.into(), &(3 * size).into()));
        assert_eq!(batch["token_s"]["n"], 3 * 4);
        for times in ["first_token_s", "token_s"] {
            let at = |name: &str| batch[times][name].as_f64().unwrap();
            assert!(0.0 < at("p50") && at("p50") <= at("p90") && at("p90") <= at("p99") && at("p99") <= at("max"));
        }
    }
    assert_eq!(plan["decode_tokens_per_s"], plan["batches"][0]["decode_tokens_per_s"]);
    let kernels: Vec<&str> =
        plan["kernels"].as_array().unwrap().iter().map(|kernel| kernel["kind"].as_str().unwrap()).collect();
    assert!(kernels.contains(&"recur"), "{kernels:?}");
    let table = stdout(&args);
    assert!(table.contains("the first token") && table.contains("the next token"), "{table}");
    assert_eq!(table.lines().filter(|line| line.contains("the first token")).count(), 2, "{table}");
    refused(&["bench", "a.plan", "--batch", "0"], 2, &["--batch"]);
}

#[test]
fn lines_of_json_come_with_the_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Toy::with_text().write(folder.path(), "toy.plan");
    let args = ["run", text(&plan), "--prompt", "Once", "-n", "5", "--ignore-eos"];
    let whole = json(&[&args[..], &["--json"]].concat());
    let lines = |rest: &[&str]| -> Vec<Value> {
        let text = stdout(&[&args[..], &["--jsonl"], rest].concat());
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let events = lines(&[]);
    let names: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["begin", "token", "token", "token", "token", "token", "end"]);
    assert_eq!((&events[0]["prompt_tokens"], &events[0]["device"]), (&whole["prompt_tokens"], &"cpu".into()));
    let tokens: Vec<&Value> = events[1..6].iter().map(|event| &event["token"]).collect();
    assert_eq!(tokens, whole["tokens"].as_array().unwrap().iter().collect::<Vec<_>>());
    let end = &events[6];
    let told: String = events[1..6].iter().map(|event| event["text"].as_str().unwrap()).collect();
    assert_eq!(told + end["rest"].as_str().unwrap(), whole["text"].as_str().unwrap());
    for key in ["tokens", "text", "finish", "saved_tokens"] {
        assert_eq!(end[key], whole[key], "{key}");
    }
    assert!(end["timing"]["decode_s"].is_number() && events[1].get("logprob").is_none());
    let events = lines(&["--logprobs", "2"]);
    assert!(events[1]["logprob"].as_f64().unwrap() < 0.0 && events[1]["top"].as_array().unwrap().len() == 2);
    refused(&[&args[..], &["--json", "--jsonl"]].concat(), 2, &["cannot be used with"]);
}

/// The toy's 300 logits as scores of labels, or as hidden states.
fn with_head(folder: &Path, name: &str, head: Head) -> String {
    let mut toy = Toy::with_text();
    (toy.manifest.model.head, toy.manifest.model.d_model) = (head, 300);
    text(&toy.write(folder, name)).to_owned()
}

#[test]
fn texts_are_classified() {
    let folder = tempfile::tempdir().unwrap();
    let labels = (0..300).map(|id| format!("label {id}")).collect();
    let plan = &*with_head(folder.path(), "c.plan", Head::Scores { labels, activation: Activation::Softmax });
    let found = json(&["classify", plan, "Once upon", "--json"]);
    let rows = found["labels"].as_array().unwrap();
    let probability = |row: &Value| row["probability"].as_f64().unwrap();
    assert_eq!(rows.len(), 300);
    assert!(rows.is_sorted_by(|a, b| probability(a) >= probability(b)));
    assert!((rows.iter().map(probability).sum::<f64>() - 1.0).abs() < 1e-4);
    // A softmax keeps the order of scores and the ratio that their difference says.
    let score = |row: &Value| row["score"].as_f64().unwrap();
    let (first, last) = (&rows[0], &rows[299]);
    assert!(((probability(first) / probability(last)).ln() - (score(first) - score(last))).abs() < 1e-3);
    let best = first["label"].as_str().unwrap();
    let shown = stdout(&["classify", "-m", plan, "Once upon"]);
    assert_eq!(shown.lines().count(), 300);
    assert!(shown.lines().next().unwrap().ends_with(&format!("\t{best}")), "{shown}");
    let each = stdout(&["classify", plan, "Once upon\n\nthe mill\n", "--lines"]);
    assert_eq!(each.lines().count(), 2, "a label for each line: {each}");
    assert!(each.lines().next().unwrap().ends_with(best));
    for command in [&["run", plan, "a"][..], &["bench", plan, "--prompt", "2", "--generate", "2"], &["chat", plan]] {
        refused(command, 1, &["computes scores of labels, expected logits", "jamba classify"]);
    }
    refused(&["embed", plan, "a"], 1, &["expected hidden states", "--embeddings"]);
}

#[test]
fn texts_have_embeddings() {
    let folder = tempfile::tempdir().unwrap();
    let plan = &*with_head(folder.path(), "e.plan", Head::Hidden);
    let numbers = |args: &[&str]| {
        let line = stdout(&[&["embed", plan, "Once upon"], args].concat());
        line.split_whitespace().map(|number| number.parse::<f32>().unwrap()).collect::<Vec<_>>()
    };
    let norm = |vector: &[f32]| vector.iter().map(|value| f64::from(value * value)).sum::<f64>().sqrt();
    let (unit, raw, mean) = (numbers(&[]), numbers(&["--no-normalize"]), numbers(&["--pooling", "mean"]));
    assert_eq!([unit.len(), raw.len(), mean.len()], [300; 3]);
    assert!((norm(&unit) - 1.0).abs() < 1e-5 && (norm(&mean) - 1.0).abs() < 1e-5 && unit != mean);
    let length = norm(&raw);
    assert!(raw.iter().zip(&unit).all(|(raw, unit)| (f64::from(*raw) / length - f64::from(*unit)).abs() < 1e-6));
    let found = json(&["embed", plan, "Once upon", "--json"]);
    assert_eq!(found["embedding"].as_array().unwrap().len(), 300);
    assert!(found["tokens"].as_u64().unwrap() > 1);
    let both = stdout(&["embed", plan, "--lines", "-p", "Once upon\nthe mill"]);
    assert_eq!(both.lines().count(), 2);
    refused(&["classify", plan, "a"], 1, &["computes hidden states, expected scores of labels"]);
    refused(&["perplexity", plan, plan], 1, &["e.plan"]);
    refused(&["embed", plan], 2, &["a prompt is needed"]);
}
