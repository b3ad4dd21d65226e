//! The terminal does not show what is typed while an answer is printed: it would stand in the middle of it. The keys are kept
//! for the next line. However the program ends, the terminal gets the modes that it had.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// The modes of the terminal when the program began to use it.
static BEFORE: OnceLock<Termios> = OnceLock::new();

/// Remembers the modes of the terminal, if standard input is one, for [`restore`]. Comes before anything that changes them.
pub(crate) fn remember() {
    if let Ok(modes) = tcgetattr(io::stdin()) {
        let _ = BEFORE.set(modes);
    }
}

/// Gives the terminal the modes again that it had. Safe in a signal's handler.
pub(crate) fn restore() {
    if let Some(modes) = BEFORE.get() {
        set(modes);
    }
}

/// A failure is no reason to end a chat.
fn set(modes: &Termios) {
    let _ = tcsetattr(io::stdin(), OptionalActions::Now, modes);
}

/// The terminal's echo is off until this is dropped.
pub(crate) struct NoEcho(());

impl NoEcho {
    /// Turns the echo off, if there is a terminal whose modes are remembered.
    pub(crate) fn begin() -> NoEcho {
        if let Some(before) = BEFORE.get().filter(|_| io::stdin().is_terminal()) {
            let mut quiet = before.clone();
            quiet.local_modes.remove(LocalModes::ECHO);
            set(&quiet);
        }
        NoEcho(())
    }
}

impl Drop for NoEcho {
    fn drop(&mut self) {
        restore();
    }
}
