//! The last step of decode attention on Hopper: one block per query head and sequence.
//!
//! ```text
//! out[s, h, :] = Σᵢ wᵢ · partial[s, h, i, :] / Σᵢ wᵢ · totalᵢ,   wᵢ = exp2(maximumᵢ − max over the splits)
//! ```
//!
//! Splits are summed in order. Bound by latency: a few hundred bytes for each split of 256 tokens or more.
//!
//! 1. the maximum over the splits
//! 2. weighted sums over the splits, one thread per column
//! 3. divide, round, store

use super::decode;
use crate::hopper::operand::write;
use crate::kernel::{Access, Amount, Blocks, Cost, Elem, Grid, Launch, Operand, Per, hopper_body};
use jamba_plan::format::Table;

/// Threads per block; thread i handles the columns i, i + 128, …
const THREADS: u32 = 128;

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    /// The kernel that produces the partial sums.
    pub partials: decode::Spec,
}

pub(super) fn launch(spec: &Spec) -> Launch {
    let decode::Spec { n_heads, n_kv_heads, d_head, .. } = spec.partials;
    let per_token = spec.partials.partial_bytes();
    Launch {
        op: "attention",
        symbol: format!("attention_combine_h{n_heads}_g{n_kv_heads}_e{d_head}_sm90"),
        operands: vec![
            spec.partials.partials(Access::Read),
            Operand::table(Table::Past),
            write("out", Elem::Bf16, n_heads * d_head, 0),
            Operand::count("sequences", Per::Sequence),
        ],
        cost: Cost {
            bytes: Amount {
                sequences: (n_heads * d_head * Elem::Bf16.bytes()) as f64,
                sequence_context: per_token,
                ..Amount::default()
            },
            operations: Amount { sequence_context: per_token / 2.0, ..Amount::default() },
        },
        grid: Some(Grid::along_x(Blocks::Of { per: Per::Sequence, factor: n_heads as u32, per_block: 1 }, THREADS, 0)),
        body: hopper_body!(spec, emit),
    }
}

#[cfg(feature = "emit")]
pub(crate) use emit::emit;

#[cfg(feature = "emit")]
mod emit;
