//! Selects the plan's target for this CPU.

use std::env::consts::ARCH;

use crate::RuntimeError;

/// Levels of an architecture, the lowest first, with the features that each adds, by their LLVM names.
type Levels = &'static [(&'static str, &'static [&'static str])];

/// Architectures with code: the x86-64 levels of the System V ABI and some of our own; Armv8.2-A with dot products,
/// and with products of matrices of bytes.
const ARCHITECTURES: [(&str, Levels); 2] = [
    (
        "x86_64",
        &[
            ("x86-64", &[]),
            ("x86-64-v2", &["cx16", "popcnt", "sse3", "sse4.1", "sse4.2", "ssse3"]),
            ("x86-64-v3", &["avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe"]),
            ("x86-64-v4", &["avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"]),
            ("x86-64-v4-vnni", &["avx512vnni"]),
        ],
    ),
    ("aarch64", &[("aarch64", &["crc", "dotprod", "lse", "neon", "rdm"]), ("aarch64-i8mm", &["i8mm"])]),
];

/// The levels of this machine's architecture.
fn levels() -> Levels {
    let own = ARCHITECTURES.iter().find(|(architecture, _)| *architecture == ARCH);
    own.map_or(&[], |(_, levels)| *levels)
}

macro_rules! detect {
    ($detected:ident, $name:expr, $($llvm:literal => $rust:tt),* $(,)?) => {
        match $name {
            $($llvm => Some(std::arch::$detected!($rust)),)*
            _ => None,
        }
    };
}

/// Whether this CPU has a feature, by its LLVM name; None for features that std cannot detect.
#[cfg(target_arch = "x86_64")]
fn has(feature: &str) -> Option<bool> {
    detect!(is_x86_feature_detected, feature,
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

#[cfg(target_arch = "aarch64")]
fn has(feature: &str) -> Option<bool> {
    detect!(is_aarch64_feature_detected, feature,
        "crc" => "crc", "dotprod" => "dotprod", "lse" => "lse", "neon" => "neon", "rdm" => "rdm", "i8mm" => "i8mm",
        "bf16" => "bf16", "fullfp16" => "fp16", "sve" => "sve", "sve2" => "sve2",
    )
}

/// Other architectures run no CPU target.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has(_feature: &str) -> Option<bool> {
    Some(false)
}

/// What `target` needs and this CPU lacks: features, or the architecture; None if `target` is not a CPU target.
fn missing(target: &str) -> Option<Vec<String>> {
    let lacks = |feature: &&str| has(feature) == Some(false);
    let level_in = |levels: Levels| levels.iter().position(|(name, _)| *name == target);
    if let Some(level) = level_in(levels()) {
        let features = levels()[..=level].iter().flat_map(|(_, features)| features.iter().copied());
        return Some(features.filter(lacks).map(str::to_owned).collect());
    }
    let of_another = ARCHITECTURES.iter().find(|(_, levels)| level_in(levels).is_some());
    of_another.map(|(architecture, _)| vec![format!("the architecture {architecture}")])
}

/// The targets that this CPU runs, the lowest first.
pub fn cpu_targets() -> Vec<&'static str> {
    let runs = |target: &&str| missing(target).is_some_and(|missing| missing.is_empty());
    levels().iter().map(|(target, _)| *target).filter(runs).collect()
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

    #[test]
    fn every_feature_of_a_level_can_be_asked_for() {
        for (_, features) in levels() {
            assert!(features.iter().all(|feature| has(feature).is_some()));
        }
    }
}
