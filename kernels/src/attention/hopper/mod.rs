//! Attention on Hopper, over the pages that [`crate::kv_append::hopper`] writes: [`prefill`] for any number of tokens per
//! sequence, [`decode`] and [`combine`] for one token per sequence.
//!
//! The scale of the scores includes log₂(e), so that probabilities are computed by exp2. Maxima, sums and products are f32;
//! probabilities and values are bf16 in products. Query heads that share a KV head are rows of the same product.

use super::Spec;
use crate::kernel::{Candidate, Config, Launch, StepSize, Unsupported};
use crate::kv_append;
use jamba_plan::format::EntryKind;

pub mod combine;
pub mod decode;
pub mod prefill;
pub mod split;

pub(super) fn supports(spec: &Spec) -> Result<(), Unsupported> {
    kv_append::hopper::check_heads(spec.d_head, spec.format)
}

pub(super) fn configs(step: &StepSize) -> Vec<Candidate> {
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

pub(super) fn lower(spec: &Spec, config: Config) -> Vec<Launch> {
    let &Spec { n_heads, n_kv_heads, d_head, scale, .. } = spec;
    match config {
        Config::Decode => {
            let partials = decode::Spec { n_heads, n_kv_heads, d_head, scale };
            vec![decode::launch(&partials), combine::launch(&combine::Spec { partials })]
        }
        _ => vec![prefill::launch(&prefill::Spec { n_heads, n_kv_heads, d_head, scale }, spec.cost(2.0))],
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
