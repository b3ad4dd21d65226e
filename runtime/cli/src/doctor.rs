//! `jamba doctor`: checks what running plans needs on this machine, and says how to install or fix the rest. `jambac doctor` also checks
//! what building plans needs.

use std::path::{Path, PathBuf};

use jamba_plan::PlanError;
use jamba_program::check::{Facts, Needs, failure, report};

use crate::checkpoint::check_plan;
use crate::failure::{Failure, print};

/// Arguments of `jamba doctor`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A plan that this machine should run
    #[arg(value_name = "PLAN")]
    plan: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints one line for each check, or JSON. Fails if the machine lacks something that the plan needs.
pub(crate) fn doctor(args: Args) -> Result<(), Failure> {
    let needs = args.plan.as_deref().map(needs).transpose()?;
    let checks = Facts::read().checks(needs.as_ref());
    print(&report(&checks, args.json))?;
    failure(&checks).map_or(Ok(()), |missing| Err(Failure::Input(missing)))
}

fn needs(path: &Path) -> Result<Needs, Failure> {
    check_plan(path)?;
    Needs::read(path).map_err(|error| match error {
        error @ PlanError::Io { .. } => Failure::Input(error.to_string()),
        error => Failure::Input(format!("{}: {error}", path.display())),
    })
}
