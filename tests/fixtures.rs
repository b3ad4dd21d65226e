//! Recorded fixtures: checkpoints and the results of Hugging Face transformers (`tests/record/record.py`).

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

/// Names of the fixtures, each a folder in tests/fixtures.
pub const FIXTURES: &[&str] = &["tiny", "dense_tied", "sharded_moe", "odd", "old_names"];

/// Prompt lengths recorded for each fixture.
pub const PROMPT_LENGTHS: &[usize] = &[1, 2, 4, 17, 128, 300];

/// A checkpoint and its recorded results.
pub struct Fixture {
    pub name: &'static str,
    /// The Hugging Face folder.
    pub checkpoint: PathBuf,
    golden: Vec<u8>,
}

/// Results of transformers for one prompt.
pub struct Prompt {
    pub ids: Vec<u32>,
    /// Positions whose logits were recorded.
    pub rows: Vec<usize>,
    /// \[rows, vocab\].
    pub logits: Vec<f32>,
    /// Of the logits of all positions.
    pub logits_std: f32,
    /// Greedy continuation past end-of-text tokens, if recorded.
    pub greedy: Option<Vec<u32>>,
}

impl Prompt {
    /// Largest allowed difference of a logit: f32 sums in another order, and nothing else.
    pub fn tolerance(&self) -> f32 {
        1e-4 * self.logits_std.max(1.0)
    }
}

impl Fixture {
    /// Reads a fixture. Panics if a file is missing.
    pub fn open(name: &'static str) -> Fixture {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = tests.join("fixtures").join(name);
        let checkpoint = if name == "tiny" { tests.join("../models/tiny") } else { folder.clone() };
        let path = folder.join("golden.safetensors");
        let golden = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Fixture { name, checkpoint, golden }
    }

    /// Every fixture.
    pub fn all() -> Vec<Fixture> {
        FIXTURES.iter().map(|name| Fixture::open(name)).collect()
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.golden).expect("a golden is a safetensors file")
    }

    /// One recorded prompt.
    pub fn prompt(&self, length: usize) -> Prompt {
        let tensors = self.tensors();
        let integers = |name: &str| integers(&tensors, &format!("p{length}.{name}"));
        let prompt = Prompt {
            ids: integers("ids").expect("ids").iter().map(|&id| id as u32).collect(),
            rows: integers("rows").expect("rows").iter().map(|&row| row as usize).collect(),
            logits: floats(&tensors, &format!("p{length}.logits")).expect("logits"),
            logits_std: floats(&tensors, &format!("p{length}.logits_std")).expect("logits_std")[0],
            greedy: integers("greedy64").map(|ids| ids.iter().map(|&id| id as u32).collect()),
        };
        assert_eq!(prompt.ids.len(), length);
        assert!(!prompt.rows.is_empty() && prompt.logits.len().is_multiple_of(prompt.rows.len()));
        prompt
    }

    /// A recorded activation, \[tokens, d_model\]: `embed`, a layer's number, or `final_norm`.
    pub fn hidden(&self, length: usize, what: &str) -> Option<Vec<f32>> {
        let name =
            if what == "final_norm" { format!("p{length}.final_norm") } else { format!("p{length}.hidden.{what}") };
        floats(&self.tensors(), &name)
    }
}

pub fn integers(tensors: &SafeTensors<'_>, name: &str) -> Option<Vec<i64>> {
    let view = tensors.tensor(name).ok()?;
    assert_eq!(view.dtype(), Dtype::I64, "{name}");
    Some(view.data().chunks_exact(8).map(|bytes| i64::from_le_bytes(bytes.try_into().expect("8 bytes"))).collect())
}

pub fn floats(tensors: &SafeTensors<'_>, name: &str) -> Option<Vec<f32>> {
    let view = tensors.tensor(name).ok()?;
    assert_eq!(view.dtype(), Dtype::F32, "{name}");
    Some(view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("4 bytes"))).collect())
}

/// Whether this CPU runs the code of a target; if not, says what it lacks.
pub fn runs(target: &str) -> bool {
    let missing = jamba_plan::cpu::missing(target).unwrap_or_default();
    if !missing.is_empty() {
        eprintln!("SKIPPED: this CPU lacks {} of {target}", missing.join(", "));
    }
    missing.is_empty()
}

/// The largest difference and its index.
pub fn max_difference(found: &[f32], expected: &[f32]) -> (f32, usize) {
    assert_eq!(found.len(), expected.len());
    let mut worst = (0.0, 0);
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        let difference = (a - b).abs();
        assert!(!difference.is_nan(), "NaN at {i}: found {a}, expected {b}");
        if difference > worst.0 {
            worst = (difference, i);
        }
    }
    worst
}
