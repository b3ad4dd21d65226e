//! The step loop, and the only one.

use jamba_plan::format::Step;

/// One of the lanes that walk a step list together: a thread of the CPU, or the stream of a GPU.
pub(crate) trait Lane {
    /// Returns when every lane has finished its share of all earlier steps.
    fn wait_for_all(&mut self);

    /// Does this lane's share of a step.
    fn launch(&mut self, index: usize, step: &Step);
}

/// Walks steps of an entry, which come with their indices, in order.
pub(crate) fn execute<'a>(steps: impl Iterator<Item = (usize, &'a Step)>, lane: &mut dyn Lane) {
    for (index, step) in steps {
        if step.barrier {
            lane.wait_for_all();
        }
        lane.launch(index, step);
    }
    lane.wait_for_all();
}
