//! Compares weight formats on a trained checkpoint: prediction quality and plan size.
//!
//!     cargo bench -p jambac-benches --bench formats
//!
//! Inputs are `models/tiny/heldout.txt` and `models/tiny/questions.jsonl`; `quality` defines the measures.

use std::error::Error;
use std::path::Path;

use jambac_benches::quality::{Format, Predictions, documents, exact_answers, open, questions};

const FORMATS: &[Format] = &[
    Format::all("f32"),
    Format::all("bf16"),
    Format::all("int8"),
    Format::all("int8").calibrated(),
    Format::all("int8").with_experts("int4"),
    Format::all("int8").with_experts("int4").calibrated(),
    Format::all("int4").with("lm_head=int4"),
    Format::all("int4"),
    Format::all("int4").calibrated(),
];

fn main() -> Result<(), Box<dyn Error>> {
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny");
    let documents = documents(&checkpoint.join("heldout.txt"))?;
    let questions = questions(&checkpoint.join("questions.jsonl"))?;
    let folder = tempfile::tempdir()?;
    println!(
        "| weights | bits | bytes of the plan | perplexity | divergence from f32, nats | p99 | same top-1 | exact answers |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let mut truth: Option<Predictions> = None;
    let mut n_places = 0;
    for &format in FORMATS {
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
