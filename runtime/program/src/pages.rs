//! Completion scripts and manual pages, generated from the definition of a command line.

use std::io;
use std::path::PathBuf;

use clap::Command;
use clap_complete::Shell;
use jamba_plan::output::{Kind, OutputError};

use crate::files::ForceArg;

/// The options of `man`.
#[derive(clap::Args)]
pub struct ManArgs {
    /// The subcommand
    subcommand: Option<String>,
    /// Write all pages into this folder
    #[arg(long, value_name = "DIR", conflicts_with = "subcommand")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    force: ForceArg,
}

/// Why there is no page.
#[derive(Debug)]
pub enum NoPage {
    /// There is no such subcommand.
    Usage(String),
    /// A page cannot be written.
    Output(OutputError),
    /// A page cannot be generated.
    Ours(io::Error),
}

impl From<OutputError> for NoPage {
    fn from(error: OutputError) -> NoPage {
        NoPage::Output(error)
    }
}

/// The completion script of a shell.
pub fn completions(mut command: Command, shell: Shell) -> String {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// The page of the program or of a subcommand, to be printed; with `--dir`, writes all pages and returns nothing. `kind` recognizes
/// older pages.
///
/// # Errors
/// See [`NoPage`].
pub fn man(command: Command, args: &ManArgs, kind: Kind) -> Result<String, NoPage> {
    let program = command.get_name().to_owned();
    let mut all = pages(command).map_err(NoPage::Ours)?;
    if let Some(folder) = &args.dir {
        let mut outputs = args.force.outputs([]);
        outputs.folder("--dir", folder)?;
        let claim = |(name, text)| Ok((outputs.claim("--dir", &folder.join(format!("{name}.1")), kind)?, text));
        let claimed = all.into_iter().map(claim).collect::<Result<Vec<(_, String)>, OutputError>>()?;
        claimed.into_iter().try_for_each(|(page, text)| page.write(text.as_bytes()))?;
        return Ok(String::new());
    }
    let name = args.subcommand.as_ref().map_or(program.clone(), |subcommand| format!("{program}-{subcommand}"));
    match all.iter().position(|(known, _)| *known == name) {
        Some(index) => Ok(all.swap_remove(index).1),
        None => {
            let found = args.subcommand.as_deref().unwrap_or_default();
            Err(NoPage::Usage(format!("man: found {found}, expected a subcommand")))
        }
    }
}

/// All pages by name, the program's first.
fn pages(mut command: Command) -> io::Result<Vec<(String, String)>> {
    command.build(); // sets the names of subcommands: jamba-run
    let shown = |command: &&Command| !command.is_hide_set() && command.get_name() != "help";
    std::iter::once(&command)
        .chain(command.get_subcommands().filter(shown))
        .map(|command| {
            let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
            let mut text = Vec::new();
            clap_mangen::Man::new(command.clone()).render(&mut text)?;
            Ok((name, String::from_utf8_lossy(&text).into_owned()))
        })
        .collect()
}
