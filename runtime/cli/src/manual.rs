//! `jamba completions` and `jamba man`: shell completions and manual pages, generated from the command line's definition.

use std::path::PathBuf;

use clap::Command;
use clap_complete::Shell;

use crate::failure::{Failure, print};
use crate::outputs::{ForceArg, MANUAL};

/// Arguments of `jamba completions`.
#[derive(clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Arguments of `jamba man`.
#[derive(clap::Args)]
pub(crate) struct ManArgs {
    /// The subcommand
    subcommand: Option<String>,
    /// Write all pages to this folder
    #[arg(long, value_name = "DIR", conflicts_with = "subcommand")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    force: ForceArg,
}

/// Prints a completion script.
pub(crate) fn completions(mut command: Command, args: CompletionsArgs) -> Result<(), Failure> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    print(&String::from_utf8(script).map_err(|error| Failure::Ours(error.to_string()))?)
}

/// Prints the page of the program or of a subcommand, or writes all pages: `jamba.1`, `jamba-run.1`, ….
pub(crate) fn man(command: Command, args: ManArgs) -> Result<(), Failure> {
    let all = pages(command)?;
    if let Some(folder) = &args.dir {
        let mut outputs = args.force.outputs([]);
        outputs.folder("--dir", folder)?;
        let claim = |(name, text)| Ok((outputs.claim("--dir", &folder.join(format!("{name}.1")), MANUAL)?, text));
        let pages = all.into_iter().map(claim).collect::<Result<Vec<(_, String)>, Failure>>()?;
        return pages.into_iter().try_for_each(|(page, text)| Ok(page.write(text.as_bytes())?));
    }
    let name = args.subcommand.as_ref().map_or("jamba".to_owned(), |subcommand| format!("jamba-{subcommand}"));
    match all.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => print(text),
        None => Err(Failure::Usage(format!("man: found {}, expected a subcommand", name.replace("jamba-", "")))),
    }
}

/// All pages by name, the program's first.
fn pages(mut command: Command) -> Result<Vec<(String, String)>, Failure> {
    let ours = |error: &dyn std::fmt::Display| Failure::Ours(error.to_string());
    command.build(); // sets the names of subcommands: jamba-run
    let shown = |command: &&Command| !command.is_hide_set() && command.get_name() != "help";
    std::iter::once(&command)
        .chain(command.get_subcommands().filter(shown))
        .map(|command| {
            let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
            let mut text = Vec::new();
            clap_mangen::Man::new(command.clone()).render(&mut text).map_err(|error| ours(&error))?;
            Ok((name, String::from_utf8(text).map_err(|error| ours(&error))?))
        })
        .collect()
}
