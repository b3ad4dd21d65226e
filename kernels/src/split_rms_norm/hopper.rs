//! RMS norms of the parts of a row on Hopper: a warp for each row.
//!
//!     out_p[r, i] = x[r, start_p + i] · weight_p[i] / sqrt(mean(part²) + eps)       part = x[r, start_p … start_p + cols_p]
//!
//! x f32, sums in f32, each result f32 or rounded to bf16.
//! Bound by memory: each row read once and written once. Parts begin at any column, so accesses are of single elements, coalesced
//! over the lanes of a warp.
//!
//! For each part:
//! 1. load; the lanes' sums of squares, and the warp's
//! 2. scale, multiply by the weight, round, store

use jambac_graph::op::MAX_PARTS;

use crate::hopper::{WARP, row_stride};
use crate::kernel::{Cost, Counts, Elem, Param, Rows};
use jamba_plan::format::Launch;

/// Rows of a block: warps.
const ROWS: u32 = 4;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Columns of each part and the element type of its result, one after another; [`MAX_PARTS`] at most.
    pub parts: Vec<(usize, Elem)>,
    /// Added to the means of squares.
    pub eps: f64,
    /// What the rows are.
    pub rows: Rows,
}

impl Spec {
    /// The slots of the parts in order: weight and result.
    pub fn slots(&self) -> &'static [(&'static str, &'static str)] {
        assert!(self.parts.len() <= MAX_PARTS, "{} parts", self.parts.len());
        &super::SLOTS[..self.parts.len()]
    }

    fn cols(&self) -> usize {
        self.parts.iter().map(|&(cols, _)| cols).sum()
    }

    pub(crate) fn symbol(&self) -> String {
        let parts: String = self.parts.iter().map(|(cols, elem)| format!("_{}{cols}", elem.name())).collect();
        format!("split_rms_norm{parts}_e{:x}_sm90", (self.eps as f32).to_bits())
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        let slots = || self.slots().iter().zip(&self.parts);
        let mut params = vec![Param::read("x", Elem::F32, &[row_stride(Elem::F32, self.cols())])];
        params.extend(slots().map(|(&(weight, _), _)| Param::read(weight, Elem::F32, &[])));
        params.extend(slots().map(|(&(_, out), &(cols, elem))| Param::write(out, elem, &[row_stride(elem, cols)])));
        params.push(Param::count("rows"));
        params
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let bytes: usize = self.parts.iter().map(|(cols, elem)| cols * (4 + elem.bytes())).sum();
        let rows = self.rows.count(counts) as f64;
        Cost { bytes: rows * bytes as f64, flops: rows * self.cols() as f64 * 4.0 }
    }

    pub(crate) fn launch(&self) -> Launch {
        Launch::along_x(self.rows.blocks(ROWS), ROWS * WARP, 0)
    }
}

#[cfg(feature = "emit")]
use crate::cpu::builder::{Num, Type, Value};
#[cfg(feature = "emit")]
use crate::hopper::Builder;

#[cfg(feature = "emit")]
pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let row = b.block() * ROWS as usize + b.warp();
    b.if_(row.lt(b.count("rows")), || {
        let x = b.row(b.pointer("x"), row, 4 * row_stride(Elem::F32, spec.cols()));
        let mut start = 0;
        for (&(weight, out), &(cols, elem)) in spec.slots().iter().zip(&spec.parts) {
            let columns = cols.div_ceil(WARP as usize);
            let column = |number: usize| b.lane() + number * WARP as usize;
            let inside = |number: usize, then: &dyn Fn() -> Value| {
                let is_column = column(number).lt(cols);
                if (number + 1) * WARP as usize <= cols { then() } else { b.if_else(is_column, then, || b.f32(0.0)) }
            };
            let f32_at = |from: Value, number: usize| b.load(b.at(from, column(number) * 4), Type::scalar(Num::F32));
            // 1. squares
            let part = b.at_byte(x, 4 * start);
            let x: Vec<Value> = (0..columns).map(|number| inside(number, &|| f32_at(part, number))).collect();
            let squares = x.iter().fold(b.f32(0.0), |squares, &x| x.mul_add(x, squares));
            let mean = b.warp_sum(squares) * (1.0 / cols as f32);
            let scale = b.rsqrt(mean + spec.eps as f32);
            // 2. scale
            let out = b.row(b.pointer(out), row, elem.bytes() * row_stride(elem, cols));
            for (number, &x) in x.iter().enumerate() {
                inside(number, &|| {
                    let y = x * scale * f32_at(b.pointer(weight), number);
                    let to = b.at(out, column(number) * elem.bytes());
                    b.store(if elem == Elem::Bf16 { b.round_bf16(y) } else { y }, to);
                    y
                });
            }
            start += cols;
        }
    });
}
