//! Barrier placement: the steps before which all threads synchronize.
//!
//! Threads execute the steps independently. A step that accesses data which an earlier step writes, or writes data which an
//! earlier step reads, must wait until all threads have finished the earlier step. Each barrier is placed as late as possible:
//! before the first step with such a hazard against any step since the last barrier. This is the minimum number of barriers for
//! the given order.
//!
//! Hazards are between values, not addresses: values that are live in the same run (the steps between two barriers) never share
//! bytes. Sharing memory adds a barrier only if a run would otherwise need more memory than the arena must have in any case
//! ([`crate::liveness::split_runs`]).

use std::collections::BTreeSet;

use jamba_plan::format::Arg;
use jambac_kernels::kernel::Access;

use crate::select::{DraftStep, Slot};

/// Whether each step needs a barrier before it.
pub(crate) fn place(steps: &[DraftStep]) -> Vec<bool> {
    let mut read = BTreeSet::new();
    let mut written = BTreeSet::new();
    let mut barriers = Vec::with_capacity(steps.len());
    for step in steps {
        let (reads, writes) = touched(step);
        let hazard = reads.iter().any(|place| written.contains(place))
            || writes.iter().any(|place| written.contains(place) || read.contains(place));
        if hazard {
            read.clear();
            written.clear();
        }
        read.extend(reads);
        written.extend(writes);
        barriers.push(hazard);
    }
    barriers
}

/// A location on which steps can conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Buffer(usize),
    /// A state, by its offset in the slot.
    State(u64),
    /// Keys or values, by their offset in the page.
    Kv(u64),
}

/// The locations that a step reads and those that it writes. Read-only data is omitted.
fn touched(step: &DraftStep) -> (Vec<Place>, Vec<Place>) {
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    for (access, slot) in step.accesses() {
        let place = match slot {
            Slot::Buffer(id) => Place::Buffer(id.0),
            Slot::Final(Arg::State(offset)) => Place::State(offset),
            Slot::Final(Arg::Kv(offset)) => Place::Kv(offset),
            Slot::Final(_) => continue,
        };
        match access {
            Some(Access::Read) => reads.push(place),
            Some(Access::Write | Access::WriteOver) => writes.push(place),
            Some(Access::ReadWrite) => {
                reads.push(place);
                writes.push(place);
            }
            None => {}
        }
    }
    (reads, writes)
}
