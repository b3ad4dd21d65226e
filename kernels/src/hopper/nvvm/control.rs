//! Register reallocation of warpgroups, and programmatic dependent launch.

use crate::hopper::Builder;

impl Builder<'_> {
    /// Releases registers of this warpgroup, down to `registers` per thread: a multiple of 8 in 24 … 256.
    #[track_caller]
    pub fn setmaxnreg_dec(&self, registers: u32) {
        assert_registers(registers);
        self.asm0(&format!("setmaxnreg.dec.sync.aligned.u32 {registers};"), &[]);
    }

    /// Requests registers for this warpgroup, up to `registers` per thread; waits until they are free.
    #[track_caller]
    pub fn setmaxnreg_inc(&self, registers: u32) {
        assert_registers(registers);
        self.asm0(&format!("setmaxnreg.inc.sync.aligned.u32 {registers};"), &[]);
    }

    /// Waits until prerequisite launches are complete and their writes are visible.
    #[track_caller]
    pub fn griddepcontrol_wait(&self) {
        self.asm0("griddepcontrol.wait;", &[]);
    }

    /// Allows dependent launches to start.
    #[track_caller]
    pub fn griddepcontrol_launch_dependents(&self) {
        self.asm0("griddepcontrol.launch_dependents;", &[]);
    }
}

#[track_caller]
fn assert_registers(registers: u32) {
    assert!(registers.is_multiple_of(8) && (24..=256).contains(&registers), "setmaxnreg to {registers}");
}
