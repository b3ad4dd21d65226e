//! Operands of CPU kernels: f32 rows padded to whole vectors, and parameters in panels of 16 outputs.

use std::ops::Range;

use jamba_plan::format::{Elem, Layout, PartOrder, Transform};

use crate::cpu::integer;
use crate::kernel::{LANES, padded};
use crate::operand::{Extent, Operand, Param, Source, Weight};

/// f32 rows that the kernel reads.
pub(crate) fn read(name: &'static str, cols: usize, operand: usize) -> Operand {
    Operand::input(Param::read(name, Elem::F32, &[padded(cols)]), operand)
}

/// f32 rows that the kernel writes.
pub(crate) fn write(name: &'static str, cols: usize, result: usize) -> Operand {
    Operand::output(Param::write(name, Elem::F32, &[padded(cols)]), result)
}

/// An f32 vector padded to whole panels, such as a norm's weight or a bias.
pub(crate) fn vector(name: &'static str, n: usize, operand: usize) -> Operand {
    Operand::weight(name, Elem::F32, Weight::of(operand, n, panels(1, &[n], 1)))
}

/// Layout of parts with these row counts, `groups` times: panels of 16 outputs. If there are several parts, each is padded
/// to whole panels.
pub(crate) fn panels(groups: usize, sizes: &[usize], k: usize) -> Layout {
    let n = Layout::rows_of(sizes.iter().map(|&n| n as u64), LANES as u64).unwrap_or(u64::MAX);
    Layout::in_panels(groups as u64, n, k as u64, LANES as u64)
}

/// The weight of a matrix product, followed by its scales for integer formats.
pub(crate) fn matrix(format: Elem, weight: Weight) -> Vec<Operand> {
    let scales = integer::scales(format).map(|param| Operand::new(param, Source::Scales, Extent::fixed(0)));
    [Operand::weight("weight", format, weight)].into_iter().chain(scales).collect()
}

/// Gate and up with interleaved panels, gate first, for `groups` experts or one feed-forward.
pub(crate) fn gate_and_up(groups: usize, operands: Range<usize>, n: usize, k: usize) -> Weight {
    let sizes = vec![n, n];
    let layout = panels(groups, &sizes, k);
    Weight { operands, sizes, order: PartOrder::Interleaved, layout, transform: Transform::None }
}
