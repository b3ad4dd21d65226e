//! `jambac doctor`: what building plans needs, what of it is here, and the command that installs the rest.

use anyhow::{Result, bail};

use crate::report::print;

/// Prints a line per tool; an error when something is missing.
pub fn run() -> Result<()> {
    let mut missing = 0;
    for (name, found) in jambac_codegen::toolchain() {
        match found {
            Ok(what) => print(&format!("ok       {name}: {what}\n"))?,
            Err(install) => {
                missing += 1;
                print(&format!("missing  {name}: {install}\n"))?;
            }
        }
    }
    if missing > 0 {
        bail!("{missing} of the tools that building plans needs are missing");
    }
    Ok(())
}
