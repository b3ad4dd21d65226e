//! Signals: Ctrl-C, SIGTERM and SIGHUP remove temporary files and end the program with 128 plus the signal's number.

use std::io::{self, Write};
use std::sync::mpsc;

use jamba_plan::output::unfinished;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

/// Exit codes of programs ended by a signal, less the signal's number.
const BY_SIGNAL: i32 = 128;

/// Starts the thread that waits for signals. Without it, signals have the effect that the system gives them.
pub fn begin() {
    // The thread registers the handlers, so that there are none without a thread to act on them. Waiting for it leaves no
    // time in which a signal has its default effect.
    let (registered, wait_for_it) = mpsc::channel();
    let thread = std::thread::Builder::new().name("jambac-signals".to_owned());
    if thread.spawn(move || wait(registered)).is_ok() {
        let _ = wait_for_it.recv();
    }
}

fn wait(registered: mpsc::Sender<()>) {
    let handled = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| !unfinished::is_ignored(signal));
    let Ok(mut signals) = Signals::new(handled) else { return };
    drop(registered);
    if let Some(signal) = signals.forever().next() {
        unfinished::remove();
        let _ =
            writeln!(io::stderr(), "jambac: interrupted: unfinished outputs are dropped, their old files unchanged");
        low_level::exit(BY_SIGNAL + signal);
    }
}
