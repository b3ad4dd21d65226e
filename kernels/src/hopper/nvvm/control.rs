//! Registers of a warpgroup, and launches that overlap.

use crate::hopper::Builder;

impl Builder<'_> {
    /// Gives registers of this warpgroup back, down to `registers` a thread: a multiple of 8 in 24 … 256.
    #[track_caller]
    pub fn setmaxnreg_dec(&self, registers: u32) {
        assert_registers(registers);
        self.asm0(&format!("setmaxnreg.dec.sync.aligned.u32 {registers};"), &[]);
    }

    /// Takes registers for this warpgroup, up to `registers` a thread; waits until they are free.
    #[track_caller]
    pub fn setmaxnreg_inc(&self, registers: u32) {
        assert_registers(registers);
        self.asm0(&format!("setmaxnreg.inc.sync.aligned.u32 {registers};"), &[]);
    }

    /// Waits until the launches that this one was allowed to overlap are complete and their writes seen.
    #[track_caller]
    pub fn griddepcontrol_wait(&self) {
        self.asm0("griddepcontrol.wait;", &[]);
    }

    /// Lets the next launch begin where it may overlap this one.
    #[track_caller]
    pub fn griddepcontrol_launch_dependents(&self) {
        self.asm0("griddepcontrol.launch_dependents;", &[]);
    }
}

#[track_caller]
fn assert_registers(registers: u32) {
    assert!(registers.is_multiple_of(8) && (24..=256).contains(&registers), "setmaxnreg to {registers}");
}
