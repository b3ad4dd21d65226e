//! A selective scan → its kernel.

use jamba_plan::format::{Arg, Table};
use jambac_graph::Selection;
use jambac_kernels::kernel::Kernel;
use jambac_kernels::selective_scan::{self, Projection};

use super::View;
use crate::ScheduleError;
use crate::select::{Bound, Slot};
use crate::weights::Use;

impl View<'_, '_> {
    /// The kernel, and a value for each of its slots by name.
    pub(super) fn scan(&mut self, selection: Selection, gated: bool) -> Result<(Kernel, Bound), ScheduleError> {
        let (channels, d_state) = (self.result_cols(0)?, self.operand_cols(1)?);
        let mut bound = vec![("u", self.buffer(0)?), ("a", self.weight(1, Use::DecayRates)?.0), ("y", self.result(0))];
        let selection = self.selection(selection, &mut bound)?;
        if gated {
            let n = self.operands.len();
            bound.extend([("d", self.weight(n - 2, Use::Vector)?.0), ("z", self.buffer(n - 1)?)]);
        }
        let sequence_of = ("sequence_of", Slot::Final(Arg::Table(Table::SequenceOf)));
        bound.extend([sequence_of, ("tokens", self.tokens(0)?)]);
        let spec = selective_scan::Spec { channels, d_state, selection, gated };
        self.bind(spec, bound.into_iter().chain(self.state_slot()?))
    }

    /// Binds the operands that Δ, B and C are made from.
    fn selection(
        &mut self,
        selection: Selection,
        bound: &mut Bound,
    ) -> Result<selective_scan::Selection, ScheduleError> {
        let slots = selection.operands();
        Ok(match selection {
            Selection::Given => {
                self.rows_of_selection(bound)?;
                selective_scan::Selection::Given
            }
            Selection::Projected => {
                self.rows_of_selection(bound)?;
                selective_scan::Selection::Projected(self.projection(slots.end - 2, bound)?)
            }
            Selection::Normed { eps } => {
                bound.push(("x", self.buffer(slots.start)?));
                for (name, slot) in ["dt_norm", "b_norm", "c_norm"].into_iter().zip(slots.start + 1..) {
                    bound.push((name, self.weight(slot, Use::Vector)?.0));
                }
                selective_scan::Selection::Normed { projection: self.projection(slots.end - 2, bound)?, eps }
            }
        })
    }

    /// Δ or what it is projected from, B and C.
    fn rows_of_selection(&self, bound: &mut Bound) -> Result<(), ScheduleError> {
        let start = Selection::Given.operands().start;
        for (name, slot) in ["dt", "b", "c"].into_iter().zip(start..) {
            bound.push((name, self.buffer(slot)?));
        }
        Ok(())
    }

    /// The projection whose weight is operand `weight`, and whose bias is the next.
    fn projection(&mut self, weight: usize, bound: &mut Bound) -> Result<Projection, ScheduleError> {
        let dt_rank = self.operand_cols(weight)?;
        let (slot, format, _) = self.weight(weight, Use::StepSize)?;
        bound.extend([("dt_weight", slot), ("dt_bias", self.weight(weight + 1, Use::Vector)?.0)]);
        Ok(Projection { dt_rank, format })
    }
}
