//! What went wrong on a device, kept: after a fault nothing on it is worth anything.

use jamba_plan::format::Program;

use super::driver::DriverError;
use crate::RuntimeError;

/// The first thing that went wrong.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    /// What was being done: `copying state`, `some step of decode`, `prefill step 7 (linear_sm90, layers.3.mamba)`.
    place: String,
    /// Looking at single steps would tell more.
    is_vague: bool,
    error: DriverError,
}

impl Fault {
    /// A call beside the steps. What kernels do wrong is found by the next call that waits for them.
    pub(super) fn of_call(what: &str, error: DriverError) -> Fault {
        match error {
            DriverError::Fault(_) => Fault { place: format!("some step, found while {what}"), is_vague: true, error },
            error => Fault { place: what.to_owned(), is_vague: false, error },
        }
    }

    /// Drawing weights, as far as this parameter.
    pub(super) fn of_weights(last: &str, error: DriverError) -> Fault {
        Fault { place: format!("drawing weights up to {last}"), is_vague: false, error }
    }

    /// Some step of a run: errors of launches are found when the run is waited for.
    pub(super) fn of_run(program: &Program, entry: usize, error: DriverError) -> Fault {
        let place = format!("some step of {}", program.entries[entry].kind.name());
        Fault { place, is_vague: matches!(error, DriverError::Fault(_)), error }
    }

    /// One step.
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
