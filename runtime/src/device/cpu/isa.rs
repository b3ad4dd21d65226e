//! Selects the plan's target for this CPU.

use std::env::consts::ARCH;

use jamba_plan::cpu::{levels, missing, runs, targets as cpu_targets};

use crate::RuntimeError;

/// The target to load: `wanted`, or else the first of the plan's targets (best first) that this CPU runs.
pub(super) fn choose<'a>(targets: &'a [String], wanted: Option<&str>) -> Result<&'a str, RuntimeError> {
    if let Some(wanted) = wanted {
        let found = targets.iter().find(|target| *target == wanted);
        let missing = missing(wanted);
        return match (found, missing) {
            (Some(target), Some(missing)) if missing.is_empty() => Ok(target),
            (Some(target), Some(missing)) => {
                Err(RuntimeError::CpuLacks { target: target.clone(), missing: missing.join(", ") })
            }
            _ => Err(RuntimeError::NoSuchTarget { wanted: wanted.to_owned(), targets: targets.to_vec() }),
        };
    }
    targets.iter().find(|target| runs(target)).map(String::as_str).ok_or_else(|| {
        let found = match (cpu_targets().last(), levels().first()) {
            (Some(level), _) => format!("{level} and below"),
            (None, Some((lowest, _))) => format!("{ARCH} without {}", missing(lowest).unwrap_or_default().join(", ")),
            (None, None) => format!("{ARCH}, which has no kernels"),
        };
        RuntimeError::NoCodeForCpu { targets: targets.to_vec(), found }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_first_target_that_runs_is_chosen() {
        let targets = names(&["sm_90a", "x86-64", "x86-64-v2"]);
        assert_eq!(choose(&targets, None).unwrap(), "x86-64");
        assert_eq!(choose(&targets, Some("x86-64")).unwrap(), "x86-64");
    }

    #[test]
    fn refusals_say_what_there_is() {
        let targets = names(&["sm_90a"]);
        let error = choose(&targets, None).unwrap_err().to_string();
        assert!(error.contains("sm_90a") && error.contains("and below"), "{error}");
        assert!(matches!(choose(&targets, Some("x86-64")), Err(RuntimeError::NoSuchTarget { .. })));
        assert!(matches!(choose(&targets, Some("sm_90a")), Err(RuntimeError::NoSuchTarget { .. })));
    }

    #[test]
    fn code_of_another_architecture_is_passed_over() {
        let [own, other] = if ARCH == "aarch64" { ["aarch64", "x86-64"] } else { ["x86-64", "aarch64"] };
        let targets = names(&[other, own]);
        assert_eq!(choose(&targets, None).unwrap(), own);
        let error = choose(&targets, Some(other)).unwrap_err().to_string();
        assert!(error.contains(other) && error.contains("the architecture"), "{error}");
    }
}
