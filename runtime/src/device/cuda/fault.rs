//! Device faults. The first one is kept and reported by all later calls, since the device is unusable after it.

use jamba_plan::format::Program;

use super::driver::DriverError;
use crate::RuntimeError;

/// A fault and the operation that found it.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    /// The operation: `copying state`, `some step of decode`, `prefill step 7 (linear_sm90, layers.3.mamba)`.
    place: String,
    /// True if checked execution would tell which step failed.
    is_vague: bool,
    error: DriverError,
}

impl Fault {
    /// A fault in a call outside of steps. Faults of kernels surface in the next call that waits for them.
    pub(super) fn of_call(what: &str, error: DriverError) -> Fault {
        match error {
            DriverError::Fault(_) => Fault { place: format!("some step, found while {what}"), is_vague: true, error },
            error => Fault { place: what.to_owned(), is_vague: false, error },
        }
    }

    /// A fault while drawing weights up to parameter `last`.
    pub(super) fn of_weights(last: &str, error: DriverError) -> Fault {
        Fault { place: format!("drawing weights up to {last}"), is_vague: false, error }
    }

    /// A fault in an unknown step of a run: launch errors surface when the run is synchronized.
    pub(super) fn of_run(program: &Program, entry: usize, error: DriverError) -> Fault {
        let place = format!("some step of {}", program.entries[entry].kind.name());
        Fault { place, is_vague: matches!(error, DriverError::Fault(_)), error }
    }

    /// A fault in a known step.
    pub(super) fn of_step(program: &Program, entry: usize, index: usize, error: DriverError) -> Fault {
        let entry = &program.entries[entry];
        let step = &entry.steps[index];
        let kernel = &program.kernels[step.kernel as usize].symbol;
        let place = format!("{} step {index} ({kernel}, {})", entry.kind.name(), step.source);
        Fault { place, is_vague: false, error }
    }

    /// The error that the engine returns.
    pub(super) fn error(&self, device: &str) -> RuntimeError {
        let (device, place) = (device.to_owned(), self.place.clone());
        match &self.error {
            DriverError::Lost(reason) => RuntimeError::DeviceLost { device, place, reason: reason.clone() },
            error => {
                let hint = if self.is_vague { "; checking every step (--check) tells which" } else { "" };
                RuntimeError::DeviceFault { device, place, reason: format!("{error}{hint}") }
            }
        }
    }
}
