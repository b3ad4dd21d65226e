//! `jambac completions` and `jambac man`: completion scripts and manual pages, generated from the definition of the command line.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::error::ErrorKind;
use clap::{Args, Command};
use clap_complete::Shell;

use crate::outputs::{ForceArg, MANUAL};
use crate::report::{Ours, print};

/// The options of `jambac man`.
#[derive(Args)]
pub struct Man {
    /// The subcommand.
    subcommand: Option<String>,
    /// Write all pages into this folder.
    #[arg(long, value_name = "DIR", conflicts_with = "subcommand")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    force: ForceArg,
}

/// Prints or writes manual pages.
pub fn run(command: Command, options: &Man) -> Result<()> {
    match &options.dir {
        Some(folder) => write_pages(command, folder, options.force),
        None => page(command, options.subcommand.as_deref()),
    }
}

/// Prints the completion script of a shell.
pub fn completions(mut command: Command, shell: Shell) -> Result<()> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    print(&String::from_utf8(script).ours("completions")?)
}

/// Prints the page of the program or of a subcommand.
fn page(mut command: Command, subcommand: Option<&str>) -> Result<()> {
    let all = pages(command.clone())?;
    let found = match subcommand {
        None => all.first(),
        Some(wanted) => {
            all.iter().skip(1).find(|(name, _)| name.split_once('-').is_some_and(|(_, name)| name == wanted))
        }
    };
    match found {
        Some((_, text)) => print(text),
        None => {
            let found = subcommand.unwrap_or_default();
            command.error(ErrorKind::InvalidValue, format!("man: found {found}, expected a subcommand")).exit()
        }
    }
}

/// Writes every page into a folder: `jambac.1`, `jambac-build.1`, ….
fn write_pages(command: Command, folder: &Path, force: ForceArg) -> Result<()> {
    let mut outputs = force.outputs([]);
    outputs.folder("--dir", folder)?;
    let claim = |(name, text)| Ok((outputs.claim("--dir", &folder.join(format!("{name}.1")), MANUAL)?, text));
    let pages = pages(command)?.into_iter().map(claim).collect::<Result<Vec<(_, String)>>>()?;
    pages.into_iter().try_for_each(|(page, text)| Ok(page.write(text.as_bytes())?))
}

/// Every page by name, the page of the program first.
fn pages(mut command: Command) -> Result<Vec<(String, String)>> {
    command.build(); // names the subcommands: jambac-build
    let shown = |command: &&Command| !command.is_hide_set() && command.get_name() != "help";
    std::iter::once(&command)
        .chain(command.get_subcommands().filter(shown))
        .map(|command| {
            let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
            let mut text = Vec::new();
            clap_mangen::Man::new(command.clone()).render(&mut text).ours("man")?;
            Ok((name, String::from_utf8(text).ours("man")?))
        })
        .collect()
}
