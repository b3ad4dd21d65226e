//! Ctrl-C: the first one ends the answer, the second one the program.

use jamba_runtime::Cancel;

use crate::failure::Failure;

/// What a shell reports of a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// From here on Ctrl-C cancels this; once more before it is reset ends the program.
pub(crate) fn catch() -> Result<Cancel, Failure> {
    let cancel = Cancel::new();
    let told = cancel.clone();
    let handle = move || {
        if told.is_cancelled() {
            std::process::exit(INTERRUPTED);
        }
        told.cancel();
    };
    ctrlc::set_handler(handle).map_err(|error| Failure::Input(format!("cannot listen for Ctrl-C: {error}")))?;
    Ok(cancel)
}
