//! Messages on stderr. Their failure is none of the program: its work goes on if the reader of stderr has closed the pipe, as `head`
//! does, or its disk is full. `eprintln!` would panic.

use std::fmt;
use std::io::{self, Write};

use jamba_plan::printable::printable;

/// Prints a line on stderr, as `eprintln!` does, and ignores failures.
#[macro_export]
macro_rules! say {
    ($($message:tt)*) => {
        $crate::say::line(::std::format_args!($($message)*))
    };
}

/// The function behind [`say!`](crate::say!).
pub fn line(message: fmt::Arguments<'_>) {
    // One write, so that lines of several processes do not mix.
    let _ = Stderr.write_all(format!("{message}\n").as_bytes());
}

/// Stderr as a writer that never fails.
#[derive(Clone, Copy, Debug)]
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Stderr for a log, as a writer that never fails. Names and messages from outside may hold control characters: they are shown as
/// escapes.
#[derive(Clone, Copy, Debug)]
pub struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = Stderr.write_all(printable(&String::from_utf8_lossy(bytes)).as_bytes());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
