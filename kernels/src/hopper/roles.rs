//! Blocks with warp roles: the first warpgroup copies, the others multiply. Each role reallocates its registers.

use super::Builder;
use super::facts::{CONSUMER_REGISTERS, PRODUCER_REGISTERS, WARP, WARPGROUP};
use crate::cpu::builder::Value;

/// The role of a thread.
pub(crate) struct Role {
    /// Warpgroup in the block, i32.
    warpgroup: Value,
}

impl Role {
    #[track_caller]
    pub(crate) fn of(b: &Builder) -> Role {
        Role { warpgroup: b.uniform_warp() >> (WARPGROUP / WARP).ilog2() }
    }

    /// Runs `produce` in the first warpgroup and `consume` in the others; `consume` receives their number, from 0.
    #[track_caller]
    pub(crate) fn run(self, b: &Builder, produce: impl FnOnce(), consume: impl FnOnce(Value)) {
        let produce = || {
            b.setmaxnreg_dec(PRODUCER_REGISTERS);
            produce();
            []
        };
        let consume = || {
            b.setmaxnreg_inc(CONSUMER_REGISTERS);
            consume(self.warpgroup - 1);
            []
        };
        b.if_else(self.warpgroup.eq(0), produce, consume);
    }
}
