//! The step loop, shared by all devices.

use jamba_plan::format::Step;

/// One of the lanes that run a step list together: a CPU thread, or the stream of a GPU.
pub(crate) trait Lane {
    /// Returns when every lane has finished its share of all earlier steps.
    fn wait_for_all(&mut self);

    /// Runs this lane's share of a step.
    fn launch(&mut self, index: usize, step: &Step);
}

/// Runs `steps`, pairs of index and step, in order.
pub(crate) fn execute<'a>(steps: impl Iterator<Item = (usize, &'a Step)>, lane: &mut dyn Lane) {
    for (index, step) in steps {
        if step.barrier {
            lane.wait_for_all();
        }
        lane.launch(index, step);
    }
    lane.wait_for_all();
}
