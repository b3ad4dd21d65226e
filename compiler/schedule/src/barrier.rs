//! Before which steps all threads must meet.
//!
//! Threads walk the steps on their own. A step that touches what an earlier one writes, or writes what an earlier one
//! reads, has to wait for all threads to be done with it. A barrier stands as late as it can: before the first step that
//! has such a hazard with any step since the last barrier; fewer cannot do for this order of steps.
//!
//! Hazards are between values here, not addresses: values that live in the same run, the steps between two barriers, never
//! share bytes. Sharing memory costs a barrier only where a run would need more than the arena must have anyway
//! ([`crate::liveness::split_runs`]).

use std::collections::BTreeSet;

use jamba_plan::format::Arg;
use jambac_kernels::kernel::Access;

use crate::select::{DraftStep, Slot};

/// True for each step that needs a barrier before it.
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

/// What steps can run into each other on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Buffer(usize),
    /// A state by its offset in every slot.
    State(u64),
    /// Keys and values by their offset in every page.
    Kv(u64),
}

/// What a step reads and what it writes, of what is ever written.
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
