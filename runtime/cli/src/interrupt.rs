//! Signals. Ctrl-C cancels the current answer; without one, or a second time, it ends the program with exit code 130. SIGTERM and
//! SIGHUP end it with 128 plus the signal's number. Temporary files are removed first.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError, mpsc};

use jamba_plan::output::unfinished;
use jamba_runtime::Cancel;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use crate::echo;

/// Exit code of a program ended by Ctrl-C.
pub(crate) const INTERRUPTED: u8 = 130;

/// Exit codes of programs ended by a signal, less the signal's number.
const BY_SIGNAL: i32 = 128;

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
    // The thread registers the handlers, so that there are none without a thread to act on them. Waiting for it leaves no
    // time in which a signal has its default effect.
    let (registered, wait_for_it) = mpsc::channel();
    let thread = std::thread::Builder::new().name("jamba-signals".to_owned());
    if thread.spawn(move || wait(registered)).is_ok() {
        let _ = wait_for_it.recv();
    }
}

/// The flag that Ctrl-C sets from now on. Another Ctrl-C before the flag is reset ends the program.
pub(crate) fn catch() -> Cancel {
    let cancel = Cancel::new();
    *CURRENT.lock().unwrap_or_else(PoisonError::into_inner) = Some(cancel.clone());
    cancel
}

fn wait(registered: mpsc::Sender<()>) {
    let handled = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| !unfinished::is_ignored(signal));
    let Ok(mut signals) = Signals::new(handled) else { return };
    drop(registered);
    for signal in &mut signals {
        if let Some(act) = ON_STOP.lock().unwrap_or_else(PoisonError::into_inner).take() {
            act();
            continue;
        }
        let current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match current.filter(|cancel| signal == SIGINT && !cancel.is_cancelled()) {
            Some(cancel) => cancel.cancel(),
            None => end(signal),
        }
    }
}

fn end(signal: i32) -> ! {
    unfinished::remove();
    echo::restore();
    let _ = writeln!(io::stderr(), "jamba: interrupted: no file was changed");
    low_level::exit(BY_SIGNAL + signal)
}
