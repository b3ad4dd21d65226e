//! `jambac completions` and `jambac man`: completion scripts and manual pages, generated from the definition of the command line.

use anyhow::Result;
use clap::Command;
use clap::error::ErrorKind;
use clap_complete::Shell;
use jamba_program::pages::{self, NoPage};

use crate::outputs::MANUAL;
use crate::report::{Ours, print};

pub use jamba_program::pages::ManArgs;

/// Prints the page of the program or of a subcommand, or writes all pages: `jambac.1`, `jambac-build.1`, ….
pub fn run(mut command: Command, options: &ManArgs) -> Result<()> {
    match pages::man(command.clone(), options, MANUAL) {
        Ok(page) => print(&page),
        Err(NoPage::Usage(message)) => command.error(ErrorKind::InvalidValue, message).exit(),
        Err(NoPage::Output(error)) => Err(error.into()),
        Err(NoPage::Ours(error)) => Err(error).ours("man"),
    }
}

/// Prints the completion script of a shell.
pub fn completions(command: Command, shell: Shell) -> Result<()> {
    print(&pages::completions(command, shell))
}
