//! `jambac doctor`: checks what building and running plans needs on this machine, and says how to install or fix the rest.

pub(crate) mod machine;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use jamba_plan::format::{Manifest, TargetKind};
use jambac_kernels::target::CpuTarget;
use serde::Serialize;

use crate::report::{Ours, check_plan, print};
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

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// Works with limits, or slower.
    Warn,
    /// Something that was requested does not work.
    Missing,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    found: String,
    /// How to fix it, usually a command; `None` when the state is ok.
    mend: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Check {
        Check { name, state: State::Ok, found: found.into(), mend: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Check {
        Check { name, state: State::Warn, found: found.into(), mend: Some(mend.into()) }
    }

    fn missing(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Check {
        Check { name, state: State::Missing, found: found.into(), mend: Some(mend.into()) }
    }

    fn line(&self) -> String {
        let state = match self.state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Missing => "missing",
        };
        let mend = self.mend.as_ref().map(|mend| format!("\n           {mend}")).unwrap_or_default();
        format!("{state:<8} {}: {}{mend}\n", self.name, self.found)
    }
}

/// Requirements of a plan.
struct Needs {
    targets: Vec<String>,
    /// Bytes of an open plan on a CPU.
    memory: u64,
}

impl Needs {
    fn new(manifest: &Manifest) -> Needs {
        let on_cpu = manifest.of(TargetKind::Cpu);
        Needs {
            targets: manifest.targets().map(str::to_owned).collect(),
            memory: on_cpu.map_or(0, |info| info.memory.total(&manifest.limits)),
        }
    }

    fn a_gpu(&self) -> bool {
        self.targets.iter().all(|target| target.starts_with("sm_"))
    }
}

/// Prints one line for each check, or a JSON document.
///
/// # Errors
/// Something that is needed is missing.
pub fn run(options: &Doctor) -> Result<()> {
    let needs = match &options.plan {
        Some(path) => {
            check_plan(path)?;
            let manifest = jamba_plan::peek::manifest(path).with_context(|| path.display().to_string())?;
            Some(Needs::new(&manifest))
        }
        None => None,
    };
    let folder = std::env::current_dir().context("the current folder")?;
    let machine = Machine::read(&folder)?;
    let checks = checks(&machine, needs.as_ref());
    let missing: Vec<&str> =
        checks.iter().filter(|check| check.state == State::Missing).map(|check| check.name).collect();
    if options.json {
        let document = serde_json::json!({ "ok": missing.is_empty(), "checks": checks });
        print(&(serde_json::to_string_pretty(&document).ours("doctor")? + "\n"))?;
    } else {
        checks.iter().try_for_each(|check| print(&check.line()))?;
    }
    if !missing.is_empty() {
        bail!("missing: {}", missing.join(", "));
    }
    Ok(())
}

fn checks(machine: &Machine, needs: Option<&Needs>) -> Vec<Check> {
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
    checks.push(cpu(needs));
    checks.push(memory(machine, needs));
    checks.push(huge_pages(machine));
    checks.push(disk(machine));
    checks.push(driver(machine, needs));
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
    let found: Vec<String> = machine.libraries.iter().map(|path| path.display().to_string()).collect();
    match found.is_empty() {
        false => Check::ok("libraries", found.join(", ")),
        true => Check::warn("libraries", "cannot be told without /proc", "mount -t proc proc /proc"),
    }
}

fn cpu(needs: Option<&Needs>) -> Check {
    let name = "CPU";
    let native = match CpuTarget::native() {
        Ok(native) => native,
        Err(error) => {
            return Check::missing(name, error.to_string(), "run plans on an x86-64 machine of 2009 or later");
        }
    };
    let found = format!("runs {native}");
    let runs =
        |target: &String| target == "native" || target.parse::<CpuTarget>().is_ok_and(|target| target.runs_here());
    match needs {
        Some(needs) if !needs.a_gpu() && !needs.targets.iter().any(runs) => Check::missing(
            name,
            format!("{found}; the plan has code for {}", needs.targets.join(", ")),
            format!("jambac build MODEL -o PLAN --target {native}"),
        ),
        _ => Check::ok(name, found),
    }
}

fn memory(machine: &Machine, needs: Option<&Needs>) -> Check {
    let name = "memory";
    let Some(memory) = &machine.memory else {
        return Check::warn(name, "cannot be told without /proc/meminfo", "mount -t proc proc /proc");
    };
    let mut found = format!("{} in all, {} available", size(memory.total), size(memory.available));
    if let Some(limit) = memory.limit {
        found += &format!(", at most {} for this group of processes", size(limit));
    }
    let Some(needs) = needs.filter(|needs| !needs.a_gpu()) else { return Check::ok(name, found) };
    let found = format!("{found}; the open plan takes {}", size(needs.memory));
    let most = memory.limit.map_or(memory.total, |limit| limit.min(memory.total));
    if needs.memory > most {
        let mend = format!("jambac fit MODEL --memory {most} says which limits and formats of weights fit");
        Check::missing(name, found, mend)
    } else if needs.memory > memory.available {
        Check::warn(name, found, "end other programs first: ps aux --sort -rss | head")
    } else {
        Check::ok(name, found)
    }
}

fn huge_pages(machine: &Machine) -> Check {
    let name = "huge pages";
    let path = machine::HUGE_PAGES;
    match machine.huge_pages.as_deref() {
        Some(mode @ ("always" | "madvise")) => Check::ok(name, mode),
        Some(mode) => Check::warn(name, format!("{mode}; large plans run slower"), format!("echo madvise > {path}")),
        None => {
            Check::warn(name, format!("{path} is not here; large plans may run slower"), "use a kernel that has them")
        }
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

fn driver(machine: &Machine, needs: Option<&Needs>) -> Check {
    let (name, install) = ("NVIDIA driver", "apt-get install nvidia-driver");
    match (&machine.driver, needs) {
        (Some(driver), _) => Check::ok(name, driver.clone()),
        (None, Some(needs)) if needs.a_gpu() => {
            Check::missing(name, format!("not here; the plan has code for {} alone", needs.targets.join(", ")), install)
        }
        (None, _) => Check::warn(name, "not here; plans run on the CPU", install),
    }
}

#[cfg(test)]
mod tests {
    use super::machine::Memory;
    use super::*;

    fn machine() -> Machine {
        Machine {
            memory: Some(Memory { total: 8_000_000_000, available: 5_000_000_000, limit: None }),
            huge_pages: Some("madvise".to_owned()),
            folder: PathBuf::from("/plans"),
            disk_free: 40_000_000_000,
            driver: None,
            ptxas: None,
            objdump: Some(PathBuf::from("/usr/bin/llvm-objdump")),
            libraries: vec![PathBuf::from("/usr/lib/libLLVM.so")],
        }
    }

    fn needs(memory: u64, target: &str) -> Needs {
        Needs { targets: vec![target.to_owned()], memory }
    }

    #[test]
    fn memory_is_held_against_the_plan() {
        let state = |bytes: u64| memory(&machine(), Some(&needs(bytes, "x86-64-v2"))).state;
        assert_eq!([5_000_000_000, 8_000_000_000, 8_000_000_001].map(state), [State::Ok, State::Warn, State::Missing]);
        let mut small = machine();
        small.memory = Some(Memory { limit: Some(6_000_000_000), ..small.memory.unwrap() });
        let check = memory(&small, Some(&needs(7_000_000_000, "x86-64-v2")));
        assert_eq!(check.state, State::Missing);
        assert!(check.mend.unwrap().contains("--memory 6000000000"));
        // What a GPU holds is no matter of this memory.
        assert_eq!(memory(&small, Some(&needs(7_000_000_000, "sm_90a"))).state, State::Ok);
    }

    #[test]
    fn a_plan_for_other_machines_is_named() {
        assert_eq!(cpu(None).state, State::Ok);
        assert_eq!(cpu(Some(&needs(0, "x86-64-v2"))).state, State::Ok);
        let check = cpu(Some(&needs(0, "x86-64-v9")));
        assert_eq!(check.state, State::Missing);
        assert!(check.found.contains("x86-64-v9") && check.mend.unwrap().contains("--target x86-64-v"));
        assert_eq!(driver(&machine(), Some(&needs(0, "sm_90a"))).state, State::Missing);
        assert_eq!(driver(&machine(), Some(&needs(0, "x86-64-v2"))).state, State::Warn);
        assert_eq!(driver(&Machine { driver: Some("550".to_owned()), ..machine() }, None).state, State::Ok);
    }

    #[test]
    fn what_is_not_as_it_should_be_says_how_to_mend_it() {
        let poor = Machine { huge_pages: Some("never".to_owned()), disk_free: 7, objdump: None, ..machine() };
        for check in checks(&poor, None) {
            assert_eq!(check.mend.is_none(), check.state == State::Ok, "{check:?}");
        }
        assert_eq!((huge_pages(&poor).state, disk(&poor).state), (State::Warn, State::Warn));
        assert_eq!((huge_pages(&machine()).state, disk(&machine()).state), (State::Ok, State::Ok));
        assert!(huge_pages(&poor).line().contains("\n           echo madvise > /sys"));
    }
}
