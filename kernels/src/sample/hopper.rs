//! Sampling on Hopper: a block for each row, which reads it over and over from the second-level cache.

pub mod argmax;
pub mod draw;
#[cfg(feature = "emit")]
mod row;

pub use jamba_plan::format::NO_TOKEN;

use crate::kernel::{Elem, Operand, Param, Unsupported};
use jamba_plan::format::TargetKind;

/// A token for each row.
fn tokens() -> Operand {
    Operand::output(Param::write("tokens", Elem::I32, &[]), 0)
}

/// A CPU's rows of logits are on the host, where the runtime picks.
fn on_gpus(target: TargetKind) -> Result<(), Unsupported> {
    match target {
        TargetKind::Sm90a => Ok(()),
        TargetKind::Cpu => Err(Unsupported("tokens are picked on the host, expected a GPU".into())),
    }
}
