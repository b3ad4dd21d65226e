//! Selects the plan's target for this CPU.

use crate::RuntimeError;

/// The x86-64 levels of the System V ABI and one of our own, with the features that each adds, by their LLVM names.
const LEVELS: [(&str, &[&str]); 5] = [
    ("x86-64", &[]),
    ("x86-64-v2", &["cx16", "popcnt", "sse3", "sse4.1", "sse4.2", "ssse3"]),
    ("x86-64-v3", &["avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe"]),
    ("x86-64-v4", &["avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"]),
    ("x86-64-v4-vnni", &["avx512vnni"]),
];

macro_rules! detect {
    ($name:expr, $($llvm:literal => $rust:tt),* $(,)?) => {
        match $name {
            $($llvm => Some(std::arch::is_x86_feature_detected!($rust)),)*
            _ => None,
        }
    };
}

/// Whether this CPU has a feature, by its LLVM name; None for features that std cannot detect.
#[cfg(target_arch = "x86_64")]
fn has(feature: &str) -> Option<bool> {
    detect!(feature,
        "cx16" => "cmpxchg16b", "popcnt" => "popcnt", "sse3" => "sse3", "ssse3" => "ssse3", "sse4a" => "sse4a",
        "sse4.1" => "sse4.1", "sse4.2" => "sse4.2", "avx" => "avx", "avx2" => "avx2", "bmi" => "bmi1",
        "bmi2" => "bmi2", "f16c" => "f16c", "fma" => "fma", "lzcnt" => "lzcnt", "movbe" => "movbe",
        "avx512bw" => "avx512bw", "avx512cd" => "avx512cd", "avx512dq" => "avx512dq", "avx512f" => "avx512f",
        "avx512vl" => "avx512vl", "avx512vnni" => "avx512vnni", "avx512bf16" => "avx512bf16",
        "avx512fp16" => "avx512fp16", "avx512ifma" => "avx512ifma", "avx512vbmi" => "avx512vbmi",
        "avx512vbmi2" => "avx512vbmi2", "avx512bitalg" => "avx512bitalg", "avx512vpopcntdq" => "avx512vpopcntdq",
        "avxvnni" => "avxvnni", "avxifma" => "avxifma", "avxneconvert" => "avxneconvert",
        "avxvnniint8" => "avxvnniint8", "gfni" => "gfni", "vaes" => "vaes", "vpclmulqdq" => "vpclmulqdq",
        "adx" => "adx", "aes" => "aes", "pclmul" => "pclmulqdq", "sha" => "sha",
    )
}

/// Other architectures run no CPU target.
#[cfg(not(target_arch = "x86_64"))]
fn has(_feature: &str) -> Option<bool> {
    Some(false)
}

/// Features that `target` needs and this CPU lacks; None if `target` is not a CPU target.
fn missing(target: &str) -> Option<Vec<String>> {
    let lacks = |feature: &&str| has(feature) == Some(false);
    let level = LEVELS.iter().position(|(name, _)| *name == target)?;
    let features = LEVELS[..=level].iter().flat_map(|(_, features)| features.iter().copied());
    Some(features.filter(lacks).map(str::to_owned).collect())
}

/// The targets that this CPU runs, the lowest first.
pub fn cpu_targets() -> Vec<&'static str> {
    let runs =
        |target: &&str| cfg!(target_arch = "x86_64") && missing(target).is_some_and(|missing| missing.is_empty());
    LEVELS.iter().map(|(target, _)| *target).filter(runs).collect()
}

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
    let runs = |target: &&String| missing(target).is_some_and(|missing| missing.is_empty());
    targets.iter().find(runs).map(String::as_str).ok_or_else(|| {
        let runs = LEVELS.iter().rev().find(|(level, _)| missing(level).is_some_and(|missing| missing.is_empty()));
        let found = match runs {
            Some((level, _)) if cfg!(target_arch = "x86_64") => format!("{level} and below"),
            _ => format!("{}, which has no kernels", std::env::consts::ARCH),
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
    fn every_feature_of_a_level_can_be_asked_for() {
        for (_, features) in LEVELS {
            assert!(features.iter().all(|feature| has(feature).is_some()));
        }
    }
}
