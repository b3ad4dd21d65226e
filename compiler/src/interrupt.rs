//! Signals: Ctrl-C, SIGTERM and SIGHUP remove temporary files and end the program with 128 plus the signal's number.

use jamba_program::signals;

/// Starts the thread that waits for signals. Without it, signals have the effect that the system gives them.
pub fn begin() {
    signals::begin("jambac-signals", |signal| {
        signals::end("jambac: interrupted: unfinished outputs are dropped, their old files unchanged", signal)
    });
}
