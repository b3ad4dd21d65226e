//! `jambac completions` and `jambac man`: what shells and `man` know of the command line, from its one definition.

use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Command;
use clap_complete::Shell;

use crate::report::{Ours, print};

/// Prints the script that completes command lines in a shell.
pub fn completions(mut command: Command, shell: Shell) -> Result<()> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    print(&String::from_utf8(script).ours("completions")?)
}

/// Prints the page of the program, or of one of its subcommands.
pub fn page(command: Command, subcommand: Option<&str>) -> Result<()> {
    let all = pages(command)?;
    let found = match subcommand {
        None => all.first(),
        Some(wanted) => {
            all.iter().skip(1).find(|(name, _)| name.split_once('-').is_some_and(|(_, name)| name == wanted))
        }
    };
    match found {
        Some((_, text)) => print(text),
        None => bail!("man: found {}, expected a subcommand", subcommand.unwrap_or_default()),
    }
}

/// Writes every page into a folder: `jambac.1`, `jambac-build.1`, ….
pub fn write_pages(command: Command, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    for (name, text) in pages(command)? {
        let path = folder.join(format!("{name}.1"));
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Every page by name, the program's own first.
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
