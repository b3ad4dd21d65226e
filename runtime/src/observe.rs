//! Opt-in: a caller sees the arena before and after every step of a run on the CPU.

/// Sees every step of [`Engine::step_observed`](crate::Engine::step_observed). `entry` and `step` are indices into the plan's
/// program; `arena` is the whole arena, in bytes.
pub trait StepObserver {
    /// Called before a step. It may change bytes of buffers that the step writes, no others.
    fn before(&mut self, entry: usize, step: usize, arena: &mut [u8]);

    /// Called after a step.
    fn after(&mut self, entry: usize, step: usize, arena: &[u8]);
}
