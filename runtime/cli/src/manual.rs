//! `jamba completions` and `jamba man`: shell completions and manual pages, generated from the command line's definition.

use clap::Command;
use clap_complete::Shell;
use jamba_program::pages::{self, NoPage};

use crate::failure::{Failure, print};
use crate::outputs::MANUAL;

pub(crate) use jamba_program::pages::ManArgs;

/// Arguments of `jamba completions`.
#[derive(clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Prints a completion script.
pub(crate) fn completions(command: Command, args: CompletionsArgs) -> Result<(), Failure> {
    print(&pages::completions(command, args.shell))
}

/// Prints the page of the program or of a subcommand, or writes all pages: `jamba.1`, `jamba-run.1`, ….
pub(crate) fn man(command: Command, args: ManArgs) -> Result<(), Failure> {
    let page = pages::man(command, &args, MANUAL).map_err(|error| match error {
        NoPage::Usage(message) => Failure::Usage(message),
        NoPage::Output(error) => error.into(),
        NoPage::Ours(error) => Failure::Ours(error.to_string()),
    })?;
    print(&page)
}
