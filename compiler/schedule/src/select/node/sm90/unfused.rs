//! Ops that fusions make part of others: a kernel for each.
//!
//! Rows of slots stay sorted by expert between the kernels that make them and the sum over a token's experts: element-wise
//! kernels take them in any order.

use jambac_graph::{Dim, Op, ValueId};
use jambac_kernels::elementwise::{self, Function};
use jambac_kernels::hopper::row_stride;
use jambac_kernels::kernel::Elem;
use jambac_kernels::{grouped_linear, moe_combine, moe_gather, moe_permute, slice, softmax, top_k};

use super::{Kernels, View, bind, one};
use crate::ScheduleError;
use crate::select::Slot;
use crate::weights::Use;

impl View<'_, '_> {
    pub(super) fn sm90_slice(&mut self, start: usize, len: usize) -> Result<Kernels, ScheduleError> {
        let (rows, count) = self.rows()?;
        let (x, out) = (self.buffer(0)?, self.result(0));
        let (cols, types) = (self.operand_cols(0)?, [x, out].map(|slot| self.stored(slot)));
        let spec = slice::hopper::Spec { cols, start, len, x: types[0], out: types[1], rows };
        one(spec, [("x", x), ("out", out), ("rows", count)])
    }

    pub(super) fn sm90_elementwise(&mut self, function: Function) -> Result<Kernels, ScheduleError> {
        let (rows, count) = self.rows()?;
        let per_row = match self.result_ty(0).shape[..] {
            [_, Dim::Fixed(per_row), _] => per_row,
            _ => 1,
        };
        self.same_slots()?;
        let (first, out) = (self.buffer(0)?, self.result(0));
        let second = match function {
            Function::Silu | Function::Softplus => None,
            Function::Add | Function::Mul | Function::Swiglu => Some(self.buffer(1)?),
            Function::MulRow => Some(self.weight(1, Use::Vector)?.0),
        };
        let spec = elementwise::hopper::Spec {
            function,
            cols: self.result_cols(0)?,
            a: self.stored(first),
            b: second.map(|slot| self.stored(slot)),
            out: self.stored(out),
            rows,
            per_row,
        };
        one(spec, [("a", first), ("out", out), ("rows", count)].into_iter().chain(second.map(|slot| ("b", slot))))
    }

    pub(super) fn sm90_softmax(&mut self) -> Result<Kernels, ScheduleError> {
        let (rows, count) = self.rows()?;
        let (cols, most) = (self.result_cols(0)?, softmax::hopper::MAX_COLS);
        if cols > most {
            return Err(self.fail(format!("found rows of {cols} columns, expected at most {most} on sm_90a")));
        }
        one(softmax::hopper::Spec { cols, rows }, [("x", self.buffer(0)?), ("out", self.result(0)), ("rows", count)])
    }

    pub(super) fn sm90_top_k(&mut self, k: usize) -> Result<Kernels, ScheduleError> {
        let (rows, count) = self.rows()?;
        let (cols, most) = (self.operand_cols(0)?, top_k::hopper::MAX_COLS);
        if cols > most {
            return Err(self.fail(format!("found rows of {cols} columns, expected at most {most} on sm_90a")));
        }
        let results = [("weights", self.result(0)), ("experts", self.result(1)), ("rows", count)];
        one(top_k::hopper::Spec { cols, k, rows }, [("p", self.buffer(0)?)].into_iter().chain(results))
    }

    pub(super) fn sm90_permute(&mut self, n_experts: usize) -> Result<Kernels, ScheduleError> {
        let (rows, count) = self.rows()?;
        let spec = moe_permute::hopper::Spec { n_experts, top_k: self.operand_cols(0)?, rows };
        self.check_experts(n_experts)?;
        let results = [("slots", self.result(0)), ("offsets", self.result(1)), ("rows", count)];
        one(spec, [("experts", self.buffer(0)?)].into_iter().chain(results))
    }

    /// One matrix of each slot's expert; rows of tokens are sorted by expert before it.
    pub(super) fn sm90_grouped_linear(&mut self) -> Result<Kernels, ScheduleError> {
        let (weight, format, _) = self.weight(1, Use::Experts)?;
        let (n, k, top_k) = (self.result_cols(0)?, self.operand_cols(0)?, self.operand_cols(2)?);
        let (n_experts, rows) = (self.dim(self.operand_ty(1), 0)?, self.rows()?.0);
        let n_slots = self.most(rows) * top_k as u64;
        let method = self.method(n_experts * n, n_slots.div_ceil(n_experts as u64));
        let out = self.stored(self.result(0));
        let product = grouped_linear::hopper::Spec { n_experts, n, k, format, out, top_k, rows, method };
        let (slots, offsets) = (("slots", self.buffer(2)?), ("offsets", self.buffer(3)?));
        let result = self.result(0);
        let of_product = |x: Slot| [("x", x), ("weight", weight), offsets, ("out", result)];
        if self.operand_ty(0).shape.len() != 2 {
            self.same_slots()?;
            return one(product, of_product(self.buffer(0)?));
        }
        let gathered = self.scratch(n_slots, row_stride(Elem::Bf16, k), Elem::Bf16)?;
        // The result has a row for each slot.
        let of_gather = [("x", self.buffer(0)?), slots, ("out", gathered), ("slot_rows", self.rows()?.1)];
        Ok(vec![
            bind(moe_gather::hopper::Spec { cols: k, top_k, rows }, of_gather),
            bind(product, of_product(gathered)),
        ])
    }

    pub(super) fn sm90_combine(&mut self) -> Result<Kernels, ScheduleError> {
        let (rows, count) = self.rows()?;
        let spec = moe_combine::hopper::Spec { cols: self.result_cols(0)?, top_k: self.operand_cols(1)?, rows };
        let slots = self.slots_of(self.operands[0]).and_then(|slots| self.buffer_of.get(&slots));
        let slots = slots.ok_or_else(|| self.fail_operand(0, "rows of slots that a grouped product made"))?;
        let operands = [("y", self.buffer(0)?), ("weights", self.buffer(1)?), ("slots", Slot::Buffer(*slots))];
        one(spec, operands.into_iter().chain([("out", self.result(0)), ("rows", count)]))
    }

    /// The slots by which the rows of a value are sorted.
    fn slots_of(&self, value: ValueId) -> Option<ValueId> {
        let operands = self.graph.operands(value.node);
        match self.graph.op(value.node) {
            Op::GroupedLinear => Some(operands[2]),
            Op::GroupedSwiglu => Some(operands[3]),
            Op::Silu | Op::Softplus | Op::Add | Op::Mul | Op::Swiglu => self.slots_of(operands[0]),
            _ => None,
        }
    }

    /// Checks that operands with a row for each slot are sorted alike, and as the node's own slots say where it has some.
    fn same_slots(&self) -> Result<(), ScheduleError> {
        let rows: Vec<usize> = (0..self.operands.len()).filter(|&at| self.operand_ty(at).shape.len() == 3).collect();
        let own = if matches!(self.graph.op(self.node), Op::GroupedLinear) { Some(self.operands[2]) } else { None };
        let mut sorted = own;
        for operand in rows {
            // The stacked weights of experts have three dimensions too.
            if matches!(self.graph.op(self.operands[operand].node), Op::Parameter { .. }) {
                continue;
            }
            let slots = self.slots_of(self.operands[operand]);
            if slots.is_none() || sorted.is_some_and(|sorted| Some(sorted) != slots) {
                return Err(self.fail_operand(operand, "rows of slots in the order of the others"));
            }
            sorted = slots;
        }
        Ok(())
    }
}
