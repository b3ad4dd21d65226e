//! `jamba doctor`: checks what running plans needs on this machine, and says how to install or fix the rest. `jambac doctor` also checks
//! what building plans needs.

use std::path::PathBuf;

use jamba_plan::format::TargetKind;
use jamba_plan::text::size;
use jamba_runtime::machine::{self, Memory};
use serde::Serialize;

use crate::checkpoint::check_plan;
use crate::failure::{Failure, print, print_json};

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

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// Works with limits, or slower.
    Warn,
    /// Something that the plan needs does not work.
    Missing,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    found: String,
    /// How to fix it; None when the state is ok.
    mend: Option<String>,
}

impl Check {
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

fn ok(name: &'static str, found: String) -> Check {
    Check { name, state: State::Ok, found, mend: None }
}

/// Requirements of a plan.
struct Needs {
    targets: Vec<String>,
    /// Bytes of an open plan on the CPU; None if it has no program for it.
    memory: Option<u64>,
    /// Bytes of an open plan with limits of one sequence of one page.
    least: Option<u64>,
}

/// Facts about the machine.
struct Facts {
    cpu: Vec<&'static str>,
    memory: Option<Memory>,
    huge_pages: Option<String>,
    driver: Option<String>,
}

/// Prints one line for each check, or JSON. Fails if the machine lacks something that the plan needs.
pub(crate) fn doctor(args: Args) -> Result<(), Failure> {
    let needs = args.plan.map(needs).transpose()?;
    let facts = Facts {
        cpu: jamba_runtime::cpu_targets(),
        memory: machine::memory(),
        huge_pages: machine::huge_pages(),
        driver: machine::nvidia_driver(),
    };
    let checks = [cpu(&facts, &needs), memory(&facts, &needs), huge_pages(&facts), driver(&facts, &needs)];
    let missing: Vec<&str> =
        checks.iter().filter(|check| check.state == State::Missing).map(|check| check.name).collect();
    match args.json {
        true => print_json(&serde_json::json!({ "ok": missing.is_empty(), "checks": checks }))?,
        false => print(&checks.iter().map(Check::line).collect::<String>())?,
    }
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Failure::Input(format!("missing: {}", missing.join(", ")))),
    }
}

fn needs(path: PathBuf) -> Result<Needs, Failure> {
    check_plan(&path)?;
    let manifest = jamba_plan::peek::manifest(&path).map_err(|error| match error {
        error @ jamba_plan::PlanError::Io { .. } => Failure::Input(error.to_string()),
        error => Failure::Input(format!("{}: {error}", path.display())),
    })?;
    let on_cpu = manifest.of(TargetKind::Cpu);
    let least = jamba_plan::format::Limits {
        max_sequences: 1,
        kv_tokens: jamba_plan::format::KV_PAGE_TOKENS,
        ..manifest.limits.clone()
    };
    Ok(Needs {
        targets: manifest.targets().map(str::to_owned).collect(),
        memory: on_cpu.map(|info| info.memory.total(&manifest.limits)),
        least: on_cpu.map(|info| info.memory.total(&least)),
    })
}

fn cpu(facts: &Facts, needs: &Option<Needs>) -> Check {
    let name = "CPU";
    let best = facts.cpu.last().copied().unwrap_or("none of the targets");
    let found = format!("runs {best}");
    let runs = |target: &String| facts.cpu.contains(&target.as_str());
    match needs {
        Some(Needs { targets, memory: Some(_), .. }) if !targets.iter().any(runs) => Check {
            name,
            state: State::Missing,
            found: format!("{found}; the plan has code for {}", targets.join(", ")),
            mend: Some(format!("jambac build MODEL -o PLAN --target {best}")),
        },
        _ => ok(name, found),
    }
}

fn memory(facts: &Facts, needs: &Option<Needs>) -> Check {
    let name = "memory";
    let Some(memory) = facts.memory else {
        let (found, mend) = ("unknown without /proc/meminfo".to_owned(), Some("mount -t proc proc /proc".to_owned()));
        return Check { name, state: State::Warn, found, mend };
    };
    let mut found = format!("{} in all, {} available", size(memory.total), size(memory.available));
    if let Some(limit) = memory.limit {
        found += &format!(", at most {} for this group of processes", size(limit));
    }
    let Some(Needs { memory: Some(bytes), least: Some(least), .. }) = *needs else { return ok(name, found) };
    let found = format!("{found}; the open plan takes {}", size(bytes));
    let (state, mend) = match memory.most() {
        most if least > most => (State::Missing, format!("jambac fit MODEL --memory {most} lists formats that fit")),
        most if bytes > most => {
            (State::Missing, "lower its limits: jamba run PLAN --context N --sequences N".to_owned())
        }
        _ if bytes > memory.available => {
            (State::Warn, "end other programs first: ps aux --sort -rss | head".to_owned())
        }
        _ => return ok(name, found),
    };
    Check { name, state, found, mend: Some(mend) }
}

fn huge_pages(facts: &Facts) -> Check {
    let name = "huge pages";
    match facts.huge_pages.as_deref() {
        Some(mode @ ("always" | "madvise")) => ok(name, mode.to_owned()),
        mode => Check {
            name,
            state: State::Warn,
            found: format!("{}; large plans run slower", mode.unwrap_or("unknown")),
            mend: Some(format!("echo madvise > {}", machine::HUGE_PAGES)),
        },
    }
}

fn driver(facts: &Facts, needs: &Option<Needs>) -> Check {
    let (name, mend) = ("NVIDIA driver", Some("apt-get install nvidia-driver".to_owned()));
    let (state, found) = match (&facts.driver, needs) {
        (Some(driver), _) => return ok(name, driver.clone()),
        (None, Some(Needs { memory: None, targets, .. })) => {
            (State::Missing, format!("not installed; the plan has code for {} alone", targets.join(", ")))
        }
        (None, _) => (State::Warn, "not installed; plans run on the CPU".to_owned()),
    };
    Check { name, state, found, mend }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            cpu: vec!["x86-64", "x86-64-v2"],
            memory: Some(Memory { total: 8_000_000_000, available: 5_000_000_000, limit: None }),
            huge_pages: Some("madvise".to_owned()),
            driver: None,
        }
    }

    fn needs(memory: Option<u64>, target: &str) -> Option<Needs> {
        Some(Needs { targets: vec![target.to_owned()], memory, least: memory.map(|bytes| bytes / 2) })
    }

    #[test]
    fn a_plan_is_compared_with_the_machine() {
        let state = |bytes| memory(&facts(), &needs(Some(bytes), "x86-64-v2")).state;
        assert_eq!([5_000_000_000, 8_000_000_000, 8_000_000_001].map(state), [State::Ok, State::Warn, State::Missing]);
        let lower = memory(&facts(), &needs(Some(9_000_000_000), "x86-64-v2"));
        assert!(lower.mend.unwrap().contains("--context"));
        let fit = memory(&facts(), &needs(Some(90_000_000_000), "x86-64-v2"));
        assert!(fit.mend.unwrap().contains("jambac fit MODEL --memory 8000000000"));
        assert_eq!(memory(&facts(), &needs(None, "sm_90a")).state, State::Ok);
        assert_eq!(cpu(&facts(), &needs(Some(0), "x86-64-v2")).state, State::Ok);
        let check = cpu(&facts(), &needs(Some(0), "x86-64-v4"));
        assert!(check.state == State::Missing && check.mend.unwrap().ends_with("--target x86-64-v2"));
        assert_eq!(driver(&facts(), &needs(None, "sm_90a")).state, State::Missing);
        assert_eq!(driver(&facts(), &None).state, State::Warn);
        let poor = Facts { huge_pages: None, memory: None, ..facts() };
        assert!([huge_pages(&poor), memory(&poor, &None)].iter().all(|check| check.mend.is_some()));
    }
}
