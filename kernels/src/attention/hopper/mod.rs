//! Attention on Hopper, over the pages that [`crate::kv_append::hopper`] writes: [`prefill`] for any number of tokens per
//! sequence, [`decode`] and [`combine`] for one token per sequence.
//!
//! The scale of the scores includes log₂(e), so that probabilities are computed by exp2. Maxima, sums and products are f32;
//! probabilities and values are bf16 in products. Query heads that share a KV head are rows of the same product.

use super::Spec;
use crate::kernel::{Candidate, Config, Hopper, Launch, Lowering, StepSize, Unsupported};
use crate::kv_append;
use jamba_plan::format::EntryKind;

pub mod combine;
pub mod decode;
pub mod prefill;
pub mod split;

impl Lowering<Hopper> for Spec {
    fn supports(&self) -> Result<(), Unsupported> {
        kv_append::hopper::check_heads(self.d_head, self.format)
    }

    fn configs(&self, step: &StepSize) -> Vec<Candidate> {
        match step.entry {
            EntryKind::Prefill => vec![
                Candidate::accepted(Config::Prefill),
                Candidate::rejected(Config::Decode, "takes one token of each sequence"),
            ],
            EntryKind::Decode => vec![
                Candidate::accepted(Config::Decode),
                Candidate::rejected(Config::Prefill, "one token of a sequence does not fill a tile of queries"),
            ],
        }
    }

    fn lower(&self, config: Config) -> Vec<Launch> {
        let &Spec { n_heads, n_kv_heads, d_head, scale, .. } = self;
        match config {
            Config::Decode => {
                let partials = decode::Spec { n_heads, n_kv_heads, d_head, scale };
                vec![decode::launch(&partials), combine::launch(&combine::Spec { partials })]
            }
            _ => vec![prefill::launch(&prefill::Spec { n_heads, n_kv_heads, d_head, scale }, self.cost(2.0))],
        }
    }
}

#[cfg(feature = "emit")]
mod softmax;

#[cfg(feature = "emit")]
use crate::cpu::builder::Value;
#[cfg(feature = "emit")]
use crate::hopper::Builder;

/// Factor of the scores: probabilities are exp2(factor · s − factor · maximum).
#[cfg(feature = "emit")]
fn factor(scale: f64) -> f32 {
    (scale * std::f64::consts::LOG2_E) as f32
}

/// The start of KV head `head` in page `nth` of sequence s.
#[cfg(feature = "emit")]
#[track_caller]
fn page(b: &Builder, d_head: usize, s: Value, nth: Value, head: Value) -> Value {
    let page = b.at(b.pointer("cache"), kv_append::hopper::page_offset(b, s, nth));
    b.at(page, head * kv_append::hopper::head_bytes(d_head))
}
