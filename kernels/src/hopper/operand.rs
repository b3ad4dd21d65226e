//! Operands of Hopper kernels: rows padded to whole lines, in f32 or bf16, and parameters stored in rows
//! ([`super::weight`]).

use std::ops::Range;

use jamba_plan::format::{Elem, Layout, PartOrder, Transform};

use super::row_stride;
use super::weight::{BLOCK_ROWS, GATE_ROWS, INTERLEAVED};
use crate::operand::{Operand, Param, Weight};

/// Rows that the kernel reads.
pub(crate) fn read(name: &'static str, elem: Elem, cols: usize, operand: usize) -> Operand {
    Operand::input(Param::read(name, elem, &[row_stride(elem, cols)]), operand)
}

/// Rows that the kernel writes.
pub(crate) fn write(name: &'static str, elem: Elem, cols: usize, result: usize) -> Operand {
    Operand::output(Param::write(name, elem, &[row_stride(elem, cols)]), result)
}

/// An f32 vector, such as a norm's weight or a bias.
pub(crate) fn vector(name: &'static str, n: usize, operand: usize) -> Operand {
    small(name, n, 1, operand, Transform::None)
}

/// A small f32 matrix, row-major without padding: convolution taps, decay rates.
pub(crate) fn small(name: &'static str, n: usize, k: usize, operand: usize, transform: Transform) -> Operand {
    let layout = Layout::in_panels(1, n as u64, k as u64, 1);
    Operand::weight(name, Elem::F32, Weight { transform, ..Weight::of(operand, n, layout) })
}

/// One matrix with its rows in order: a linear's weight, an embedding table.
pub(crate) fn matrix(format: Elem, operand: usize, n: usize, k: usize) -> Weight {
    Weight::of(operand, n, rows(format, 1, &[n], k, (1, 1)))
}

/// Several consecutive matrices, each padded to whole blocks of rows.
pub(crate) fn stacked(format: Elem, operands: Range<usize>, sizes: &[usize], k: usize) -> Weight {
    let layout = rows(format, 1, sizes, k, (BLOCK_ROWS, BLOCK_ROWS));
    Weight { operands, sizes: sizes.to_vec(), order: PartOrder::Stacked, layout, transform: Transform::None }
}

/// One matrix per expert, each padded to whole blocks of rows.
pub(crate) fn experts(format: Elem, operand: usize, n_experts: usize, n: usize, k: usize) -> Weight {
    Weight::of(operand, n, rows(format, n_experts, &[n], k, (BLOCK_ROWS, BLOCK_ROWS)))
}

/// Gate and up, interleaved by 8 rows with gate first, for `groups` experts or one feed-forward.
pub(crate) fn gate_and_up(format: Elem, groups: usize, operands: Range<usize>, n: usize, k: usize) -> Weight {
    let sizes = vec![n, n];
    let layout = rows(format, groups, &sizes, k, (INTERLEAVED, GATE_ROWS));
    Weight { operands, sizes, order: PartOrder::Interleaved, layout, transform: Transform::None }
}

fn rows(format: Elem, groups: usize, sizes: &[usize], k: usize, (lanes, multiple): (usize, usize)) -> Layout {
    let n = Layout::rows_of(sizes.iter().map(|&n| n as u64), multiple as u64).unwrap_or(u64::MAX);
    let stride = row_stride(format, k) as u64;
    Layout::in_rows(groups as u64, n, k as u64, stride, (lanes as u64, multiple as u64))
}
