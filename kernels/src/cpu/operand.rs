//! Operands of CPU kernels: f32 rows padded to whole vectors, parameters in panels of 16 outputs.

use std::ops::Range;

use jamba_plan::format::{Layout, PartOrder, Transform};

use crate::cpu::integer;
use crate::elem::Elem;
use crate::kernel::{LANES, padded};
use crate::operand::{Extent, Operand, Param, Source, Weight};

/// Rows of f32 that are read.
pub(crate) fn read(name: &'static str, cols: usize, operand: usize) -> Operand {
    Operand::input(Param::read(name, Elem::F32, &[padded(cols)]), operand)
}

/// Rows of f32 that are written.
pub(crate) fn write(name: &'static str, cols: usize, result: usize) -> Operand {
    Operand::output(Param::write(name, Elem::F32, &[padded(cols)]), result)
}

/// A vector of f32, padded to whole panels: the weight of a norm, a bias.
pub(crate) fn vector(name: &'static str, n: usize, operand: usize) -> Operand {
    Operand::weight(name, Elem::F32, Weight::of(operand, n, panels(1, &[n], 1)))
}

/// The layout of parts with these rows, `groups` times: panels of 16 outputs, each part padded to whole panels where there
/// are several.
pub(crate) fn panels(groups: usize, sizes: &[usize], k: usize) -> Layout {
    let n = Layout::rows_of(sizes.iter().map(|&n| n as u64), LANES as u64).unwrap_or(u64::MAX);
    Layout::in_panels(groups as u64, n, k as u64, LANES as u64)
}

/// The weight of a matrix product, and its scales where it is stored in integers.
pub(crate) fn matrix(format: Elem, weight: Weight) -> Vec<Operand> {
    let scales = integer::scales(format).map(|param| Operand::new(param, Source::Scales, Extent::fixed(0)));
    [Operand::weight("weight", format, weight)].into_iter().chain(scales).collect()
}

/// Gate and up, a panel of gate before each panel of up, of `groups` experts or of one feed-forward.
pub(crate) fn gate_and_up(groups: usize, operands: Range<usize>, n: usize, k: usize) -> Weight {
    let sizes = vec![n, n];
    let layout = panels(groups, &sizes, k);
    Weight { operands, sizes, order: PartOrder::Interleaved, layout, transform: Transform::None }
}
