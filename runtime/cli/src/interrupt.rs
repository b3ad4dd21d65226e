//! Ctrl-C: the first one cancels the answer, the second one ends the program.

use jamba_runtime::Cancel;

use crate::failure::Failure;

/// Exit code of a program ended by Ctrl-C.
const INTERRUPTED: i32 = 130;

/// Installs a handler. The first Ctrl-C sets the returned flag; another one before the flag is reset ends the program.
pub(crate) fn catch() -> Result<Cancel, Failure> {
    let cancel = Cancel::new();
    let flag = cancel.clone();
    let handle = move || {
        if flag.is_cancelled() {
            std::process::exit(INTERRUPTED);
        }
        flag.cancel();
    };
    ctrlc::set_handler(handle)
        .map_err(|error| Failure::Input(format!("cannot install a handler for Ctrl-C: {error}")))?;
    Ok(cancel)
}
