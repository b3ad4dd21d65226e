//! The two steps at the end of an entry for a GPU that pick a token of each row of logits; a run makes one of them at most.

use jamba_plan::format::{Arg, Count, Table};
use jambac_kernels::hopper;
use jambac_kernels::kernel::{Elem, Kernel, Param};
use jambac_kernels::sample::hopper::{argmax, draw};

use super::{BufferId, Draft, DraftBuffer, DraftStep, Slot, fill};
use crate::ScheduleError;

/// Where the steps come from.
const SOURCE: &str = "sampler";

/// Adds the steps, and a buffer for the tokens of each.
pub(super) fn add(draft: &mut Draft, max_outputs: u64) -> Result<(), ScheduleError> {
    let (logits, vocab) = draft.logits;
    let first = draft.buffers.len();
    let logits = ("logits", Slot::Buffer(logits));
    let outputs = ("outputs", Slot::Final(Arg::Count(Count::Outputs, 1)));
    let settings = ("settings", Slot::Final(Arg::Table(Table::Settings)));
    let tokens = [0, 1].map(|nth| BufferId(first + nth));
    let bound = |nth: usize| vec![logits, ("tokens", Slot::Buffer(tokens[nth])), outputs];
    let steps = [
        (hopper::Kernel::from(argmax::Spec { vocab }), bound(0)),
        (draw::Spec { vocab }.into(), [bound(1), vec![settings]].concat()),
    ];
    for (kernel, bound) in steps {
        let kernel = Kernel::Sm90(kernel);
        let params = kernel.params();
        let unsupported = |reason| ScheduleError::Unsupported { place: SOURCE.to_owned(), op: kernel.op(), reason };
        let slots = fill(&params, bound).map_err(unsupported)?;
        let accesses = params.iter().map(Param::access).collect();
        draft.buffers.push(DraftBuffer { bytes: max_outputs * Elem::I32.bytes() as u64, elem: Elem::I32 });
        draft.steps.push(DraftStep { kernel, slots, accesses, source: SOURCE.to_owned() });
    }
    draft.picks = Some(tokens);
    Ok(())
}
