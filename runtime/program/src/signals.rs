//! Signals that end a program: SIGINT, SIGTERM and SIGHUP.

use std::sync::mpsc;

use jamba_plan::output::unfinished;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use crate::say;

/// Exit codes of programs ended by a signal, less the signal's number.
pub const BY_SIGNAL: i32 = 128;

/// Exit code of a program ended by Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// Starts the thread that waits for signals and calls `act` with the number of each. Signals that the program was started with as
/// ignored stay ignored. Without the thread, signals have the effect that the system gives them.
pub fn begin(thread_name: &str, act: impl FnMut(i32) + Send + 'static) {
    // The thread registers the handlers, so that there are none without a thread to act on them. Waiting for it leaves no
    // time in which a signal has its default effect.
    let (registered, wait_for_it) = mpsc::channel();
    let thread = std::thread::Builder::new().name(thread_name.to_owned());
    if thread.spawn(move || wait(registered, act)).is_ok() {
        let _ = wait_for_it.recv();
    }
}

fn wait(registered: mpsc::Sender<()>, mut act: impl FnMut(i32)) {
    let handled = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| !unfinished::is_ignored(signal));
    let Ok(mut signals) = Signals::new(handled) else { return };
    drop(registered);
    for signal in &mut signals {
        act(signal);
    }
}

/// Removes temporary files, prints the message and ends the program with 128 plus the signal's number.
pub fn end(message: &str, signal: i32) -> ! {
    unfinished::remove();
    say!("{message}");
    low_level::exit(BY_SIGNAL + signal)
}
