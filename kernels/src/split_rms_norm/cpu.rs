//! RMS norms of the parts of a row on CPUs: each thread processes a range of rows.
//!
//! 1. for each part: 1 / sqrt(mean square + eps) ([`crate::rms_norm`])
//! 2. scale, multiply by the weight, store

use super::Spec;
use crate::cpu::builder::{Buffer, Builder, Value};
use crate::cpu::rows::Row;
use crate::kernel::{LANES, padded};
use crate::rms_norm;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    b.parallel_for(b.scalar("rows"), |row| {
        let mut start = 0;
        for (&(weight, out), &(cols, _)) in spec.slots().iter().zip(&spec.parts) {
            let part = Part { x: b.buffer("x"), start, cols, eps: spec.eps, weight: b.buffer(weight) };
            part.emit(b, row, Row { buffer: b.buffer(out), row });
            start += cols;
        }
    });
}

/// A range of columns, and its norm.
pub(crate) struct Part {
    pub(crate) x: Buffer,
    /// The part's first column.
    pub(crate) start: usize,
    pub(crate) cols: usize,
    /// Added to the mean of squares.
    pub(crate) eps: f64,
    /// Multiplies each column; padded to whole vectors.
    pub(crate) weight: Buffer,
}

impl Part {
    /// Norms the part of `row`; lanes of `out` beyond the last column are unspecified.
    pub(crate) fn emit(&self, b: &Builder, row: Value, out: Row) {
        let load = |column: Value| b.load_vector(self.x, (row, column + self.start), LANES);
        // 1. 1 / sqrt
        let scale = rms_norm::cpu::scale(b, self.cols, self.eps, load);
        // 2. scale
        b.for_each(0, padded(self.cols), LANES, |column| {
            let x = load(column) * scale;
            out.store(b, x * b.load_vector(self.weight, column, LANES), column);
        });
    }
}
