//! The most likely token of each row.
//!
//! ```text
//! tokens[i] = the v of the largest logits[i, v], ties to the lowest; NaN is never largest, −0 equals 0
//! −1 where no logit of the row is largest and finite
//! ```
//!
//! Identical to the host's `greedy`. Bound by memory: one SM reads a row once, which takes some microseconds.
//!
//! 1. the largest key and its lowest token, per thread and then over the block
//! 2. store

use jamba_plan::format::TargetKind;

use crate::hopper::facts::WARP;
use crate::hopper::operand::read;
use crate::hopper::row_threads;
use crate::kernel::{Amount, Blocks, Config, Cost, Elem, Grid, Kernel, Launch, Operand, Per, Unsupported, hopper_body};

/// Greedy sampling.
///
/// A plan runs it as the last step of an entry: `logits` are the entry's logits in the arena, `tokens` is a buffer that the
/// host reads. The kernel does not write the tokens of rows beyond the count.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    /// Logits per row.
    pub vocab: usize,
}

impl Kernel for Spec {
    fn supports(&self, target: TargetKind) -> Result<(), Unsupported> {
        super::on_gpus(target)
    }

    fn lower(&self, _: TargetKind, _: Config) -> Vec<Launch> {
        let (vocab, threads) = (self.vocab, row_threads(self.vocab));
        vec![Launch {
            op: "sample",
            symbol: format!("sample_argmax_v{vocab}_sm90"),
            operands: vec![
                read("logits", Elem::F32, vocab, 0),
                super::tokens(),
                Operand::count("outputs", Per::Output),
            ],
            cost: Cost {
                bytes: Amount { outputs: 4.0 * (vocab + 1) as f64, ..Amount::default() },
                operations: Amount { outputs: vocab as f64, ..Amount::default() },
            },
            grid: Some(Grid::along_x(
                Blocks::Of { per: Per::Output, factor: 1, per_block: 1 },
                threads,
                8 * (threads / WARP),
            )),
            body: hopper_body!(self, emit),
        }]
    }
}

#[cfg(feature = "emit")]
use super::row::Row;
#[cfg(feature = "emit")]
use crate::hopper::Builder;

#[cfg(feature = "emit")]
pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let number = b.block();
    b.if_(number.lt(b.count("outputs")), || {
        // 1. largest
        let row = Row::new(b, spec.vocab, number);
        let token = row.largest().token;
        // 2. store
        b.if_(b.thread().eq(0), || {
            b.store(token, b.at(b.pointer("tokens"), number * 4));
        });
    });
}
