//! Sampling on Hopper: one block per row, which reads the row repeatedly from L2.

pub mod argmax;
pub mod draw;
#[cfg(feature = "emit")]
mod row;

pub use jamba_plan::format::NO_TOKEN;

use crate::kernel::{Elem, Operand, Param, Unsupported};
use jamba_plan::format::TargetKind;

/// The operand with one token per row.
fn tokens() -> Operand {
    Operand::output(Param::write("tokens", Elem::I32, &[]), 0)
}

/// On CPUs, the runtime picks on the host, which holds the logits.
fn on_gpus(target: TargetKind) -> Result<(), Unsupported> {
    match target {
        TargetKind::Sm90a => Ok(()),
        TargetKind::Cpu => Err(Unsupported("tokens are picked on the host, expected a GPU".into())),
    }
}
