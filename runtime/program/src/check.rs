//! Checks of the machine for `doctor`: what running plans needs, what was found, and how to install or fix the rest.

use std::path::Path;

use jamba_plan::PlanError;
use jamba_plan::format::{KV_PAGE_TOKENS, Limits, Manifest, TargetKind};
use jamba_plan::text::size;
use jamba_runtime::machine::{self, HUGE_PAGES, Memory};
use serde::Serialize;

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    /// Works with limits, or slower.
    Warn,
    /// Something that was requested does not work.
    Missing,
}

/// One line of the report.
#[derive(Debug, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub state: State,
    pub found: String,
    /// How to fix it, usually a command; `None` when the state is ok.
    pub mend: Option<String>,
}

impl Check {
    /// Nothing to do.
    pub fn ok(name: &'static str, found: impl Into<String>) -> Check {
        Check { name, state: State::Ok, found: found.into(), mend: None }
    }

    /// Plans run, with limits or slower.
    pub fn warn(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Check {
        Check { name, state: State::Warn, found: found.into(), mend: Some(mend.into()) }
    }

    /// What was requested does not work.
    pub fn missing(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Check {
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

/// The checks as text, or as a JSON document.
pub fn report(checks: &[Check], json: bool) -> String {
    if json {
        let document = serde_json::json!({ "ok": failure(checks).is_none(), "checks": checks });
        return format!("{document:#}\n");
    }
    checks.iter().map(Check::line).collect()
}

/// The names of what is missing, as a message; `None` if nothing is.
pub fn failure(checks: &[Check]) -> Option<String> {
    let missing: Vec<&str> =
        checks.iter().filter(|check| check.state == State::Missing).map(|check| check.name).collect();
    (!missing.is_empty()).then(|| format!("missing: {}", missing.join(", ")))
}

/// Requirements of a plan.
pub struct Needs {
    targets: Vec<String>,
    /// None if the plan has no program for the CPU: what a GPU holds is no matter of this machine's memory.
    memory: Option<NeededMemory>,
}

/// Bytes of an open plan on the CPU.
#[derive(Clone, Copy)]
struct NeededMemory {
    whole: u64,
    /// With limits of one sequence of one page.
    least: u64,
}

impl Needs {
    /// Reads the manifest of a plan.
    ///
    /// # Errors
    /// The file cannot be read, or is no plan.
    pub fn read(plan: &Path) -> Result<Needs, PlanError> {
        jamba_plan::peek::manifest(plan).map(|manifest| Needs::new(&manifest))
    }

    fn new(manifest: &Manifest) -> Needs {
        let least = Limits { max_sequences: 1, kv_tokens: KV_PAGE_TOKENS, ..manifest.limits.clone() };
        Needs {
            targets: manifest.targets().map(str::to_owned).collect(),
            memory: manifest.of(TargetKind::Cpu).map(|info| NeededMemory {
                whole: info.memory.total(&manifest.limits),
                least: info.memory.total(&least),
            }),
        }
    }
}

/// Facts about the machine.
pub struct Facts {
    /// The targets that the CPU runs, the lowest first.
    pub cpu: Vec<&'static str>,
    /// `None` without /proc/meminfo.
    pub memory: Option<Memory>,
    /// `always`, `madvise` or `never`.
    pub huge_pages: Option<String>,
    /// Version of the NVIDIA driver, and the GPUs.
    pub driver: Option<String>,
}

impl Facts {
    /// Of this machine.
    pub fn read() -> Facts {
        Facts {
            cpu: jamba_runtime::cpu_targets(),
            memory: machine::memory(),
            huge_pages: machine::huge_pages(),
            driver: machine::nvidia_driver(),
        }
    }

    /// What running plans needs: CPU, memory, huge pages, driver.
    pub fn checks(&self, needs: Option<&Needs>) -> Vec<Check> {
        vec![self.check_cpu(needs), self.check_memory(needs), self.check_huge_pages(), self.check_driver(needs)]
    }

    fn check_cpu(&self, needs: Option<&Needs>) -> Check {
        let name = "CPU";
        let Some(best) = self.cpu.last() else {
            return Check::missing(
                name,
                "runs none of the targets",
                "run plans on an x86-64 machine, or on Armv8.2-A with dot products",
            );
        };
        let runs = |target: &String| self.cpu.contains(&target.as_str());
        match needs {
            Some(Needs { targets, memory: Some(_) }) if !targets.iter().any(runs) => Check::missing(
                name,
                format!("runs {best}; the plan has code for {}", targets.join(", ")),
                format!("jambac build MODEL -o PLAN --target {best}"),
            ),
            _ => Check::ok(name, format!("runs {best}")),
        }
    }

    fn check_memory(&self, needs: Option<&Needs>) -> Check {
        let name = "memory";
        let Some(memory) = self.memory else {
            return Check::warn(name, "unknown without /proc/meminfo", "mount -t proc proc /proc");
        };
        let mut found = format!("{} in all, {} available", size(memory.total), size(memory.available));
        if let Some(limit) = memory.limit {
            found += &format!(", at most {} for this group of processes", size(limit));
        }
        let Some(NeededMemory { whole, least }) = needs.and_then(|needs| needs.memory) else {
            return Check::ok(name, found);
        };
        let found = format!("{found}; the open plan takes {}", size(whole));
        match memory.most() {
            most if least > most => {
                Check::missing(name, found, format!("jambac fit MODEL --memory {most} lists formats that fit"))
            }
            most if whole > most => {
                Check::missing(name, found, "lower its limits: jamba run PLAN --context N --sequences N")
            }
            _ if whole > memory.available => {
                Check::warn(name, found, "end other programs first: ps aux --sort -rss | head")
            }
            _ => Check::ok(name, found),
        }
    }

    fn check_huge_pages(&self) -> Check {
        let name = "huge pages";
        match self.huge_pages.as_deref() {
            Some(mode @ ("always" | "madvise")) => Check::ok(name, mode),
            Some(mode) => {
                Check::warn(name, format!("{mode}; large plans run slower"), format!("echo madvise > {HUGE_PAGES}"))
            }
            None => {
                let found = format!("{HUGE_PAGES} is not here; large plans may run slower");
                Check::warn(name, found, "use a kernel that has them")
            }
        }
    }

    fn check_driver(&self, needs: Option<&Needs>) -> Check {
        let (name, install) = ("NVIDIA driver", "apt-get install nvidia-driver");
        match (&self.driver, needs) {
            (Some(driver), _) => Check::ok(name, driver.clone()),
            (None, Some(Needs { memory: None, targets })) => {
                let found = format!("not installed; the plan has code for {} alone", targets.join(", "));
                Check::missing(name, found, install)
            }
            (None, _) => Check::warn(name, "not installed; plans run on the CPU", install),
        }
    }
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

    fn needs(memory: Option<u64>, target: &str) -> Needs {
        let memory = memory.map(|whole| NeededMemory { whole, least: whole / 2 });
        Needs { targets: vec![target.to_owned()], memory }
    }

    #[test]
    fn memory_is_compared_with_the_plan() {
        let check = |facts: &Facts, bytes: u64| facts.check_memory(Some(&needs(Some(bytes), "x86-64-v2")));
        let state = |bytes| check(&facts(), bytes).state;
        assert_eq!([5_000_000_000, 8_000_000_000, 8_000_000_001].map(state), [State::Ok, State::Warn, State::Missing]);
        assert!(check(&facts(), 9_000_000_000).mend.unwrap().contains("--context"));
        assert!(check(&facts(), 90_000_000_000).mend.unwrap().contains("jambac fit MODEL --memory 8000000000"));
        let memory = facts().memory.map(|memory| Memory { limit: Some(6_000_000_000), ..memory });
        let limited = Facts { memory, ..facts() };
        assert_eq!(check(&limited, 7_000_000_000).state, State::Missing);
        assert!(check(&limited, 90_000_000_000).mend.unwrap().contains("--memory 6000000000"));
        assert_eq!(limited.check_memory(Some(&needs(None, "sm_90a"))).state, State::Ok);
    }

    #[test]
    fn a_plan_for_other_machines_is_named() {
        let cpu = |needs: Option<Needs>| facts().check_cpu(needs.as_ref());
        assert_eq!(cpu(None).state, State::Ok);
        assert_eq!(cpu(Some(needs(Some(0), "x86-64-v2"))).state, State::Ok);
        let check = cpu(Some(needs(Some(0), "x86-64-v4")));
        assert!(check.state == State::Missing && check.mend.unwrap().ends_with("--target x86-64-v2"));
        let driver = |facts: Facts, needs: Option<Needs>| facts.check_driver(needs.as_ref()).state;
        assert_eq!(driver(facts(), Some(needs(None, "sm_90a"))), State::Missing);
        assert_eq!(driver(facts(), Some(needs(Some(0), "x86-64-v2"))), State::Warn);
        assert_eq!(driver(Facts { driver: Some("550".to_owned()), ..facts() }, None), State::Ok);
    }

    #[test]
    fn what_is_not_as_it_should_be_says_how_to_mend_it() {
        let poor = Facts { cpu: Vec::new(), memory: None, huge_pages: None, driver: None };
        let checks = poor.checks(None);
        assert!(checks.iter().all(|check| check.mend.is_some()));
        assert_eq!(failure(&checks).as_deref(), Some("missing: CPU"));
        assert_eq!(report(&checks, false).lines().count(), 8);
        assert!(report(&checks, true).contains("\"ok\": false"));
        for check in facts().checks(None) {
            assert_eq!(check.mend.is_none(), check.state == State::Ok, "{check:?}");
        }
        assert_eq!(failure(&facts().checks(None)), None);
    }
}
