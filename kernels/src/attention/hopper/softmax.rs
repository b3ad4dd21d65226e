//! Softmax over row scores that arrive tile by tile ("online softmax", arXiv 1805.02867, as in arXiv 2205.14135).
//!
//! ```text
//! m' = max(m, maxⱼ sⱼ)      pⱼ = exp2(c · sⱼ − c · m')      total' = total · exp2(c · m − c · m') + Σⱼ pⱼ
//! ```
//!
//! Four lanes share a row and hold its scores. The maximum covers the whole row; the total covers only the lane's own
//! scores.

use crate::cpu::builder::Value;
use crate::hopper::{Builder, fragment};

/// Softmax state of a row; f32.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) maximum: Value,
    /// Sum of the probabilities of this lane's columns.
    pub(super) total: Value,
}

/// A row's state after one more tile.
pub(super) struct Update {
    pub(super) row: Row,
    /// Factor that rescales sums relative to the previous maximum.
    pub(super) rescale: Value,
    /// Probabilities of the tile, relative to the new maximum.
    pub(super) probabilities: Vec<Value>,
}

impl Row {
    /// The state of a row without scores.
    #[track_caller]
    pub(super) fn empty(b: &Builder) -> Row {
        Row { maximum: b.f32(f32::NEG_INFINITY), total: b.f32(0.0) }
    }

    /// Adds the lane's scores of a tile; their number is a power of two.
    #[track_caller]
    pub(super) fn update(self, b: &Builder, c: f32, scores: &[Value]) -> Update {
        let c = b.f32(c);
        let greatest = fragment::quad_max(b, pairwise(scores.to_vec(), |x, y| b.greater(x, y)));
        let maximum = b.greater(self.maximum, greatest);
        let below = -(maximum * c);
        let rescale = b.exp2(self.maximum.mul_add(c, below));
        let probabilities: Vec<Value> = scores.iter().map(|&score| b.exp2(score.mul_add(c, below))).collect();
        let of_tile = pairwise(probabilities.clone(), |x, y| x + y);
        Update { row: Row { maximum, total: self.total.mul_add(rescale, of_tile) }, rescale, probabilities }
    }
}

/// Combines neighbours, then neighbouring results, and so on.
fn pairwise(mut values: Vec<Value>, combine: impl Fn(Value, Value) -> Value) -> Value {
    while values.len() > 1 {
        values = values.as_chunks().0.iter().map(|&[x, y]| combine(x, y)).collect();
    }
    values[0]
}
