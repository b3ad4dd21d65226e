//! Parameters that a node reads → weights, one or several side by side.

use jamba_plan::format::{Arg, PartOrder};
use jambac_graph::{Op, op};
use jambac_kernels::kernel::{Elem, LANES};

use super::View;
use crate::ScheduleError;
use crate::select::Slot;
use crate::weights::{PartRef, Use};

/// Rows of an operand that is a parameter: from one on, so many or all.
#[derive(Clone, Copy)]
pub(super) struct WeightRows {
    pub(super) operand: usize,
    pub(super) first_row: u64,
    pub(super) rows: Option<u64>,
}

impl View<'_, '_> {
    /// A parameter: its weight, stored type and lanes.
    pub(super) fn weight(&mut self, operand: usize, use_: Use) -> Result<(Slot, Elem, usize), ScheduleError> {
        let index = self.add_weight(&[WeightRows { operand, first_row: 0, rows: None }], PartOrder::Stacked, use_)?;
        let weight = &self.context.weights.planned[index];
        let lanes = if weight.layout.lanes == 1 { 1 } else { LANES };
        Ok((Slot::Final(Arg::Weight(index as u32)), weight.format.into(), lanes))
    }

    /// Weights that lie together: where, and their stored type.
    pub(super) fn weight_of(
        &mut self,
        parts: &[WeightRows],
        order: PartOrder,
        use_: Use,
    ) -> Result<(Slot, Elem), ScheduleError> {
        let index = self.add_weight(parts, order, use_)?;
        let format = self.context.weights.planned[index].format;
        Ok((Slot::Final(Arg::Weight(index as u32)), format.into()))
    }

    /// The weights of a split_linear, a part for each of its results.
    pub(super) fn split_weight(&mut self, sizes: &[usize]) -> Result<(Slot, Elem), ScheduleError> {
        let rows = (1..self.operands.len()).map(|operand| self.dim(self.operand_ty(operand), 0));
        let parts = op::parts(sizes, &rows.collect::<Result<Vec<_>, _>>()?);
        let parts = parts.ok_or_else(|| self.fail(format!("weights are not cut into {sizes:?}")))?;
        let part = |part: op::Part| WeightRows {
            operand: 1 + part.weight,
            first_row: part.first_row as u64,
            rows: Some(part.rows as u64),
        };
        let parts: Vec<WeightRows> = parts.into_iter().map(part).collect();
        self.weight_of(&parts, PartOrder::Stacked, Use::Linear)
    }

    /// The index of the weight of some operands' rows, which must be parameters of one type.
    fn add_weight(&mut self, rows: &[WeightRows], order: PartOrder, use_: Use) -> Result<usize, ScheduleError> {
        let mut parts: Vec<PartRef> = Vec::with_capacity(rows.len());
        for &WeightRows { operand, first_row, rows } in rows {
            let Op::Parameter { name, ty } = self.graph.op(self.operands[operand].node) else {
                return Err(self.fail_operand(operand, "a parameter"));
            };
            if let Some(first) = parts.first()
                && first.ty.dtype != ty.dtype
            {
                let (first, found, expected) = (first.name, ty.dtype, first.ty.dtype);
                return Err(self.fail(format!("parameter {name} is {found}, expected {expected} as {first} beside it")));
            }
            parts.push(PartRef { name, ty, first_row, rows });
        }
        self.context.weights.add(&parts, order, use_)
    }
}
