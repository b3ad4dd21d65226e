//! Levels of CPUs, by which a plan names its code, and the levels that this machine's CPU runs.

use std::env::consts::ARCH;

#[cfg(target_arch = "x86_64")]
mod tiles;

/// Levels of an architecture, the lowest first, with the features that each adds, by their LLVM names.
pub type Levels = &'static [(&'static str, &'static [&'static str])];

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
            ("x86-64-v4-bf16", &["avx512bf16"]),
            ("x86-64-v4-amx", &["amx-int8", "amx-tile"]),
            ("x86-64-v4-amx-bf16", &["amx-bf16"]),
        ],
    ),
    ("aarch64", &[("aarch64", &["crc", "dotprod", "lse", "neon", "rdm"]), ("aarch64-i8mm", &["i8mm"])]),
];

/// The levels of this machine's architecture; none if it has no kernels.
pub fn levels() -> Levels {
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

/// Whether this CPU has a feature, by its LLVM name, and the system lets this process use it; None for features that cannot be
/// detected. Asks the system for the right to use AMX tiles.
#[cfg(target_arch = "x86_64")]
pub fn has(feature: &str) -> Option<bool> {
    if let Some(bit) = tiles::bit(feature) {
        return Some(tiles::usable(bit));
    }
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

/// Whether this CPU has a feature, by its LLVM name; None for features that std cannot detect.
#[cfg(target_arch = "aarch64")]
pub fn has(feature: &str) -> Option<bool> {
    detect!(is_aarch64_feature_detected, feature,
        "crc" => "crc", "dotprod" => "dotprod", "lse" => "lse", "neon" => "neon", "rdm" => "rdm", "i8mm" => "i8mm",
        "bf16" => "bf16", "fullfp16" => "fp16", "sve" => "sve", "sve2" => "sve2",
    )
}

/// Other architectures run no CPU target.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub fn has(_feature: &str) -> Option<bool> {
    Some(false)
}

/// What `target` needs and this CPU lacks: features, or the architecture; None if `target` is not a CPU target.
pub fn missing(target: &str) -> Option<Vec<String>> {
    let lacks = |feature: &&str| has(feature) == Some(false);
    let level_in = |levels: Levels| levels.iter().position(|(name, _)| *name == target);
    if let Some(level) = level_in(levels()) {
        let features = levels()[..=level].iter().flat_map(|(_, features)| features.iter().copied());
        return Some(features.filter(lacks).map(str::to_owned).collect());
    }
    let of_another = ARCHITECTURES.iter().find(|(_, levels)| level_in(levels).is_some());
    of_another.map(|(architecture, _)| vec![format!("the architecture {architecture}")])
}

/// Whether this CPU runs the code of a target.
pub fn runs(target: &str) -> bool {
    missing(target).is_some_and(|missing| missing.is_empty())
}

/// The targets that this CPU runs, the lowest first.
pub fn targets() -> Vec<&'static str> {
    levels().iter().map(|(target, _)| *target).filter(|target| runs(target)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_of_a_level_can_be_asked_for() {
        for (_, features) in levels() {
            assert!(features.iter().all(|feature| has(feature).is_some()));
        }
    }

    #[test]
    fn targets_that_run_are_a_prefix_of_the_levels() {
        let all = levels().iter().map(|(target, _)| *target);
        assert!(all.zip(targets()).all(|(level, target)| level == target));
    }

    #[test]
    fn what_another_architecture_needs_is_that_architecture() {
        let other = if ARCH == "aarch64" { "x86-64-v3" } else { "aarch64" };
        let missing = missing(other).unwrap();
        assert!(missing.len() == 1 && missing[0].starts_with("the architecture"), "{missing:?}");
        assert_eq!(super::missing("sm_90a"), None);
    }
}
