//! `jambac doctor`: checks what building and running plans needs on this machine, and says how to install or fix the rest.

mod machine;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use jamba_program::check::{Check, Facts, Needs, failure, report};

use crate::report::{check_plan, print};
pub(crate) use jamba_plan::text::size;
use machine::Machine;

/// The options of `jambac doctor`.
#[derive(Args)]
pub struct Doctor {
    /// A plan that this machine should run.
    plan: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Prints one line for each check, or a JSON document.
///
/// # Errors
/// Something that is needed is missing.
pub fn run(options: &Doctor) -> Result<()> {
    let needs = match &options.plan {
        Some(path) => {
            check_plan(path)?;
            Some(Needs::read(path).with_context(|| path.display().to_string())?)
        }
        None => None,
    };
    let folder = std::env::current_dir().context("the current folder")?;
    let machine = Machine::read(&folder)?;
    let checks = checks(&machine, Facts::read().checks(needs.as_ref()));
    print(&report(&checks, options.json))?;
    match failure(&checks) {
        Some(missing) => bail!("{missing}"),
        None => Ok(()),
    }
}

/// What building plans needs, and `to_run`: what running them needs.
fn checks(machine: &Machine, to_run: Vec<Check>) -> Vec<Check> {
    let mut checks: Vec<Check> = jambac_codegen::toolchain()
        .into_iter()
        .map(|(name, found)| match found {
            Ok(what) => Check::ok(name, what),
            Err(install) => Check::missing(name, "not here", install),
        })
        .collect();
    checks.push(libraries(machine));
    checks.push(match &machine.objdump {
        Some(path) => Check::ok("llvm-objdump", path.display().to_string()),
        None => Check::warn("llvm-objdump", "not here; inspect --asm needs it", "compiler/setup"),
    });
    checks.extend(to_run);
    checks.push(disk(machine));
    checks.push(match &machine.ptxas {
        Some(path) => Check::ok("ptxas", path.display().to_string()),
        None => Check::warn(
            "ptxas",
            "not here; only tests of GPU kernels use it, the driver compiles what plans hold",
            "apt-get install nvidia-cuda-toolkit",
        ),
    });
    checks
}

/// The shared libraries of LLVM and its dependencies that are loaded.
fn libraries(machine: &Machine) -> Check {
    let Some(libraries) = &machine.libraries else {
        return Check::warn("libraries", "cannot be told without /proc", "mount -t proc proc /proc");
    };
    let found: Vec<String> = libraries.iter().map(|path| path.display().to_string()).collect();
    match found.is_empty() {
        true => Check::ok("libraries", "what LLVM needs is linked in"),
        false => Check::ok("libraries", found.join(", ")),
    }
}

/// Free bytes in the current folder; a warning below 1 GB.
fn disk(machine: &Machine) -> Check {
    let found = format!("{} free in {}", size(machine.disk_free), machine.folder.display());
    match machine.disk_free {
        free if free < 1_000_000_000 => Check::warn("disk", found, "write plans to another disk: jambac build -o PATH"),
        _ => Check::ok("disk", found),
    }
}

#[cfg(test)]
mod tests {
    use jamba_program::check::State;

    use super::*;

    #[test]
    fn what_is_not_as_it_should_be_says_how_to_mend_it() {
        let good = Machine {
            folder: PathBuf::from("/plans"),
            disk_free: 40_000_000_000,
            ptxas: None,
            objdump: Some(PathBuf::from("/usr/bin/llvm-objdump")),
            libraries: Some(vec![PathBuf::from("/usr/lib/libLLVM.so")]),
        };
        assert_eq!((disk(&good).state, libraries(&good).state), (State::Ok, State::Ok));
        let alone = Machine { libraries: Some(Vec::new()), ..good };
        assert_eq!(libraries(&alone).state, State::Ok);
        let poor = Machine { disk_free: 7, objdump: None, libraries: None, ..alone };
        assert_eq!((disk(&poor).state, libraries(&poor).state), (State::Warn, State::Warn));
        for check in checks(&poor, Facts::read().checks(None)) {
            assert_eq!(check.mend.is_none(), check.state == State::Ok, "{check:?}");
        }
    }
}
