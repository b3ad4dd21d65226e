//! The likeliest token of each row.
//!
//!     tokens[i] = the v of the largest logits[i, v], ties to the lowest; NaN is never largest, −0 equals 0
//!     −1 where no logit of the row is largest and finite
//!
//! The host's `greedy`, exactly. Bound by memory: reads each row once, some microseconds by one multiprocessor.
//!
//! 1. the largest key and its lowest token, of each thread and then of the block
//! 2. store

use crate::hopper::{WARP, row_stride, row_threads};
use crate::kernel::{Cost, Counts, Elem, Param, Rows};
use jamba_plan::format::Launch;

/// What the kernel computes.
///
/// A plan runs it as the last step of an entry: `logits` is the entry's logits in the arena, `tokens` a buffer that the host
/// reads. Rows beyond the count keep their tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Logits in a row.
    pub vocab: usize,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        format!("sample_argmax_v{}_sm90", self.vocab)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        vec![
            Param::read("logits", Elem::F32, &[row_stride(Elem::F32, self.vocab)]),
            Param::write("tokens", Elem::I32, &[]),
            Param::count("outputs"),
        ]
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let logits = (counts.outputs * self.vocab) as f64;
        Cost { bytes: 4.0 * (logits + counts.outputs as f64), flops: logits }
    }

    pub(crate) fn launch(&self) -> Launch {
        let threads = row_threads(self.vocab);
        Launch::along_x(Rows::Outputs.blocks(1), threads, 8 * (threads / WARP))
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
