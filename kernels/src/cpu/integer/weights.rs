//! Loads of packed integer weights on CPUs: a vector register of i16 holds two inputs of each of its outputs.

use super::{GROUP, activation_group, padded_inputs};
use crate::cpu::builder::{Buffer, Builder, Num, Range, Value};
use crate::kernel::{Elem, LANES};
use crate::target::CpuTarget;

/// Bytes of a cache line, which holds whole pairs of inputs of a panel in both formats.
pub(super) const LINE: usize = 64;

/// Halves of a line: each has one byte of each of a panel's outputs, twice.
pub(super) const HALVES: usize = LINE / (2 * LANES);

/// Packed weights with their scales.
#[derive(Clone, Copy)]
pub(crate) struct Integers {
    /// Inputs.
    pub(super) k: usize,
    /// I8 or I4.
    pub(super) format: Elem,
    pub(super) panels: Buffer,
    /// The panels' scales.
    scales: Buffer,
}

impl Integers {
    /// The slots `weight` and `scales` of a kernel, if the format is an integer format.
    pub(in crate::cpu) fn of(b: &Builder, format: Elem, k: usize) -> Option<Integers> {
        let is_integer = matches!(format, Elem::I8 | Elem::I4);
        is_integer.then(|| Integers { k, format, panels: b.buffer("weight"), scales: b.buffer("scales") })
    }

    /// Number of input groups for the quantization of x.
    pub(super) fn n_groups(&self) -> usize {
        padded_inputs(self.k).div_ceil(activation_group(self.format))
    }

    /// Lines of a group within its panel; the last group may be shorter.
    pub(super) fn group_lines(&self, group: Value) -> Range {
        let (lines, in_group) = (self.panel_bytes() / LINE, activation_group(self.format) / self.line_inputs());
        let start = group * in_group;
        let end = start + in_group;
        Range { start, end: if lines.is_multiple_of(in_group) { end } else { end.min(lines) } }
    }

    /// Pairs of inputs per line.
    pub(super) fn line_pairs(&self) -> usize {
        self.line_inputs() / 2
    }

    /// Byte offset of a panel.
    pub(super) fn panel(&self, panel: Value) -> Value {
        panel * self.panel_bytes()
    }

    /// The weights of the line at byte `line`, indexed by pair of inputs and register of outputs.
    pub(super) fn load_line(&self, b: &Builder, line: Value) -> Vec<Vec<Value>> {
        (0..HALVES).flat_map(|half| self.load_half(b, line, half)).collect()
    }

    /// The same for half a line.
    pub(super) fn load_half(&self, b: &Builder, line: Value, half: usize) -> Vec<Vec<Value>> {
        let load = |register: usize| {
            let at = line + (2 * LANES * half + register);
            b.load_vector(self.panels, at, 2 * lanes(b.target())).to_i16()
        };
        let bytes: Vec<Value> = (0..2 * LANES).step_by(2 * lanes(b.target())).map(load).collect();
        if self.format == Elem::I8 {
            return vec![bytes];
        }
        let low = bytes.iter().map(|&bytes| (bytes << 12).shr_signed(12)).collect();
        let high = bytes.iter().map(|&bytes| bytes.shr_signed(4)).collect();
        vec![low, high]
    }

    /// Factors of a group's integer sums, per register of a panel's lanes; `None` means 1.
    pub(super) fn group_scales(&self, b: &Builder, panel: Value, group: Value) -> Option<Vec<Value>> {
        (self.format == Elem::I4).then(|| {
            let first = (panel * (padded_inputs(self.k) / GROUP) + group) * LANES;
            let registers = (0..LANES).step_by(lanes(b.target()));
            registers.map(|lane| b.load_vector(self.scales, first + lane, lanes(b.target())).to_f32()).collect()
        })
    }

    /// A panel's results from its sums over all groups.
    pub(super) fn scale_channels(&self, b: &Builder, panel: Value, sums: Value) -> Value {
        match self.format {
            Elem::I8 => sums * b.load_vector(self.scales, panel * LANES, LANES),
            _ => sums,
        }
    }

    /// Inputs of a panel per line.
    pub(super) fn line_inputs(&self) -> usize {
        8 * LINE / self.format.bits() / LANES
    }

    fn panel_bytes(&self) -> usize {
        LANES * padded_inputs(self.k) * self.format.bits() / 8
    }
}

/// i32 lanes per vector register.
pub(super) fn lanes(target: CpuTarget) -> usize {
    target.vector_bytes() / Num::I32.bytes()
}
