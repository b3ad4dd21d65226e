//! Signals. Ctrl-C cancels the current answer; without one, or a second time, it ends the program with exit code 130. SIGTERM and
//! SIGHUP end it with 128 plus the signal's number. Temporary files are removed first.

use std::sync::{Mutex, PoisonError};

use jamba_program::signals;
use jamba_runtime::Cancel;

use crate::echo;

pub(crate) use jamba_program::signals::INTERRUPTED;

/// The flag that the next Ctrl-C sets.
static CURRENT: Mutex<Option<Cancel>> = Mutex::new(None);

/// What the first signal does instead of ending the program.
static ON_STOP: Mutex<Option<Box<dyn FnOnce() + Send>>> = Mutex::new(None);

/// Sets what the first SIGINT, SIGTERM or SIGHUP does from now on. A second one ends the program.
#[cfg(feature = "serve")]
pub(crate) fn on_stop(act: impl FnOnce() + Send + 'static) {
    *ON_STOP.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(act));
}

/// Starts the thread that waits for signals. Without it, signals have the effect that the system gives them.
pub(crate) fn begin() {
    signals::begin("jamba-signals", |signal| {
        if let Some(act) = ON_STOP.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return act();
        }
        let current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_interrupt = signal == i32::from(INTERRUPTED) - signals::BY_SIGNAL;
        match current.filter(|cancel| is_interrupt && !cancel.is_cancelled()) {
            Some(cancel) => cancel.cancel(),
            None => {
                echo::restore();
                signals::end("jamba: interrupted: no file was changed", signal)
            }
        }
    });
}

/// The flag that Ctrl-C sets from now on. Another Ctrl-C before the flag is reset ends the program.
pub(crate) fn catch() -> Cancel {
    let cancel = Cancel::new();
    *CURRENT.lock().unwrap_or_else(PoisonError::into_inner) = Some(cancel.clone());
    cancel
}
