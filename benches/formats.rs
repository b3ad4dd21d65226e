//! Compares weight formats on a trained checkpoint: prediction quality and plan size.
//!
//!     cargo bench -p jambac-benches --bench formats [-- FORMAT]
//!
//! A FORMAT measures its rows alone, and f32.
//!
//! `-- sensitivities` prints instead what the parameters of each kind contribute when they alone are rounded to int4: the divergence for
//! a squared relative error of 1 of one parameter (`compiler/src/precision.rs`).
//!
//! Inputs are `models/tiny/heldout.txt` and `models/tiny/questions.jsonl`; `quality` defines the measures.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use jamba_plan::cpu::runs;
use jambac_benches::quality::{Format, Predictions, documents, exact_answers, open, questions};

const FORMATS: &[Format] = &[
    Format::all("f32"),
    Format::all("bf16"),
    Format::all("bf16").on("x86-64-v4-bf16"),
    Format::all("bf16").on("x86-64-v4-amx-bf16"),
    Format::all("int8"),
    Format::all("int8").calibrated(),
    Format::all("int8").with_experts("int4"),
    Format::all("int8").with_experts("int4").calibrated(),
    Format::all("int4").with("lm_head=int4"),
    Format::all("int4"),
    Format::all("int4").calibrated(),
    Format::all("int8").with_experts("int3"),
    Format::all("int8").with_experts("int3").calibrated(),
    Format::all("int4").with_experts("int3").calibrated(),
    Format::all("int3").calibrated(),
    Format::all("int4").mixed().calibrated(),
    Format::all("int8").with_experts("int4").mixed().calibrated(),
];

/// Kinds of parameters, and patterns that round one of them.
const KINDS: &[(&str, &str)] = &[
    ("in_proj", "*.mamba.in_proj=int4"),
    ("x_proj", "*.mamba.x_proj=int4"),
    ("out_proj", "*.mamba.out_proj=int4"),
    ("q_proj, k_proj, v_proj", "*.q_proj=int4 *.k_proj=int4 *.v_proj=int4"),
    ("o_proj", "*.o_proj=int4"),
    ("experts' gate_proj, up_proj", "*.experts.*.gate_proj=int4 *.experts.*.up_proj=int4"),
    ("experts' down_proj", "*.experts.*.down_proj=int4"),
    ("other gate_proj, up_proj", "*.feed_forward.gate_proj=int4 *.feed_forward.up_proj=int4"),
    ("other down_proj", "*.feed_forward.down_proj=int4"),
    ("lm_head", "lm_head=int4"),
];

fn sensitivities(checkpoint: &Path, folder: &Path, documents: &[String]) -> Result<(), Box<dyn Error>> {
    let mut f32 = open(checkpoint, folder, Format::all("f32"))?;
    let truth = Predictions::of(&mut f32.engine, documents)?;
    println!("| parameters rounded to int4 | n | relative error | divergence | divergence / Σ error² |");
    println!("|---|---|---|---|---|");
    for &(kind, pattern) in KINDS {
        let mut opened = open(checkpoint, folder, Format::all("f32").with(pattern))?;
        let found = Predictions::of(&mut opened.engine, documents)?;
        let (divergence, _) = found.divergence(&truth);
        // Weights that kernels read in parts have a loss for each part.
        let mut parameters: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
        for loss in &opened.losses {
            let (squares, n_values) = parameters.entry(&loss.parameter).or_default();
            *squares += loss.relative_rms.powi(2) * loss.n_values as f64;
            *n_values += loss.n_values as f64;
        }
        let squares: f64 = parameters.values().map(|(squares, n_values)| squares / n_values).sum();
        let n = parameters.len();
        let error = (squares / n as f64).sqrt();
        println!("| {kind} | {n} | {error:.4} | {divergence:.2e} | {:.1e} |", divergence / squares);
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny");
    let documents = documents(&checkpoint.join("heldout.txt"))?;
    let questions = questions(&checkpoint.join("questions.jsonl"))?;
    let folder = tempfile::tempdir()?;
    if std::env::args().any(|arg| arg == "sensitivities") {
        return sensitivities(&checkpoint, folder.path(), &documents);
    }
    println!(
        "| weights | bits | bytes of the plan | perplexity | divergence from f32, nats | p99 | same top-1 | exact answers |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let mut truth: Option<Predictions> = None;
    let mut n_places = 0;
    let only = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    for &format in FORMATS {
        let is_named = only.as_ref().is_none_or(|only| format.linears == Some(only.as_str()));
        if truth.is_some() && !is_named {
            continue;
        }
        if format.target != "native" && !runs(format.target) {
            println!("| {} | this CPU lacks its instructions | | | | | | |", format.name());
            continue;
        }
        let mut opened = open(&checkpoint, folder.path(), format)?;
        let found = Predictions::of(&mut opened.engine, &documents)?;
        let beside = truth.as_ref().unwrap_or(&found);
        let (divergence, p99) = found.divergence(beside);
        println!(
            "| {} | {:.1} | {} | {:.4} | {divergence:.2e} | {p99:.1e} | {:.1} % | {} of {} |",
            format.name(),
            opened.bits,
            opened.bytes,
            found.perplexity(),
            100.0 * found.agreement(beside),
            exact_answers(&mut opened.engine, &questions)?,
            questions.len(),
        );
        n_places = found.len();
        truth.get_or_insert(found);
    }
    println!("{} documents, {n_places} tokens predicted", documents.len());
    Ok(())
}
