//! Compilation targets. Compile-time facts only: except [`CpuTarget::native`] and [`CpuTarget::runs_here`], nothing here
//! inspects a live device.

use std::fmt;
use std::str::FromStr;

use jamba_plan::format::TargetKind;

mod kind;

pub use kind::{count, decode_sizes, draws, picks, refuses, steps_overlap, stored_format};

/// A microarchitecture level of the x86-64 psABI: the instruction set that a kernel may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum X86Level {
    /// SSE4.2, POPCNT: 16 vector registers of 16 bytes; no FMA, no F16C.
    V2,
    /// AVX2, FMA, F16C, BMI2: 16 vector registers of 32 bytes.
    V3,
    /// AVX-512 F, BW, CD, DQ, VL: 32 vector registers of 64 bytes.
    V4,
    /// V4 and AVX512-VNNI: multiply-add of 16-bit integer pairs into an accumulator in one instruction. Not a psABI level.
    V4Vnni,
}

/// A compilation target.
///
/// ```
/// # use jambac_kernels::target::Target;
/// assert_eq!("sm_90a".parse::<Target>()?, Target::Sm90a);
/// assert_eq!("x86-64-v3".parse::<Target>()?.name(), "x86-64-v3");
/// # Ok::<(), jambac_kernels::target::TargetError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// CPUs with an x86-64 level.
    Cpu(CpuTarget),
    /// NVIDIA GPUs of compute capability 9.0: H100, H200, GH200.
    Sm90a,
}

impl Target {
    /// Every name that parses.
    pub const NAMES: [&str; 6] = ["x86-64-v2", "x86-64-v3", "x86-64-v4", "x86-64-v4-vnni", "native", "sm_90a"];

    pub fn name(&self) -> &'static str {
        match self {
            Target::Cpu(target) => target.name(),
            Target::Sm90a => TargetKind::Sm90a.name(),
        }
    }

    /// The target's kind; targets of a kind share a program.
    pub fn kind(&self) -> TargetKind {
        match self {
            Target::Cpu(_) => TargetKind::Cpu,
            Target::Sm90a => TargetKind::Sm90a,
        }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(name: &str) -> Result<Self, TargetError> {
        if name == TargetKind::Sm90a.name() { Ok(Target::Sm90a) } else { name.parse().map(Target::Cpu) }
    }
}

/// A CPU target: an x86-64 level, parsed from its name.
///
/// ```
/// # use jambac_kernels::target::CpuTarget;
/// let target: CpuTarget = "x86-64-v3".parse()?;
/// assert!(target.has_fma());
/// assert!("x86-64-v9".parse::<CpuTarget>().is_err());
/// # Ok::<(), jambac_kernels::target::TargetError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuTarget {
    level: X86Level,
}

/// Errors of parsing or detecting a target.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TargetError {
    /// The name is not a known target.
    #[error("unknown target '{found}'; known targets: {known}", known = Target::NAMES.join(", "))]
    Unknown { found: String },
    /// `native` on a machine below the lowest level.
    #[error("target 'native': this machine's CPU lacks SSE4.2, which the lowest target, x86-64-v2, needs")]
    HostTooOld,
}

impl CpuTarget {
    /// Every name that parses, lowest level first; `native` means the highest level of this machine.
    pub const NAMES: [&str; 5] = ["x86-64-v2", "x86-64-v3", "x86-64-v4", "x86-64-v4-vnni", "native"];

    pub fn new(level: X86Level) -> Self {
        CpuTarget { level }
    }

    /// The highest psABI level of the host CPU; extensions beyond psABI levels must be requested by name. The result is a
    /// level, not a CPU model: a plan then states its exact requirements, and is identical on all machines of the level.
    pub fn native() -> Result<Self, TargetError> {
        [X86Level::V4, X86Level::V3, X86Level::V2]
            .into_iter()
            .map(CpuTarget::new)
            .find(|target| target.runs_here())
            .ok_or(TargetError::HostTooOld)
    }

    /// Whether the host CPU has every instruction of the level.
    pub fn runs_here(&self) -> bool {
        host_has(self.level)
    }

    pub fn level(&self) -> X86Level {
        self.level
    }

    /// The psABI name of the level, plus any extension.
    pub fn name(&self) -> &'static str {
        match self.level {
            X86Level::V2 => "x86-64-v2",
            X86Level::V3 => "x86-64-v3",
            X86Level::V4 => "x86-64-v4",
            X86Level::V4Vnni => "x86-64-v4-vnni",
        }
    }

    /// LLVM's CPU name, and additional features.
    pub fn llvm(&self) -> (&'static str, &'static str) {
        match self.level {
            X86Level::V4Vnni => (CpuTarget::new(X86Level::V4).name(), "+avx512vnni"),
            _ => (self.name(), ""),
        }
    }

    /// Whether a·b + c is a single instruction with one rounding.
    pub fn has_fma(&self) -> bool {
        self.level >= X86Level::V3
    }

    /// Whether the hardware converts half precision.
    pub fn has_f16c(&self) -> bool {
        self.level >= X86Level::V3
    }

    /// Bytes per vector register.
    pub fn vector_bytes(&self) -> usize {
        match self.level {
            X86Level::V2 => 16,
            X86Level::V3 => 32,
            X86Level::V4 | X86Level::V4Vnni => 64,
        }
    }

    pub fn n_vector_registers(&self) -> usize {
        match self.level {
            X86Level::V2 | X86Level::V3 => 16,
            X86Level::V4 | X86Level::V4Vnni => 32,
        }
    }
}

impl FromStr for CpuTarget {
    type Err = TargetError;

    fn from_str(name: &str) -> Result<Self, TargetError> {
        match name {
            "x86-64-v2" => Ok(CpuTarget::new(X86Level::V2)),
            "x86-64-v3" => Ok(CpuTarget::new(X86Level::V3)),
            "x86-64-v4" => Ok(CpuTarget::new(X86Level::V4)),
            "x86-64-v4-vnni" => Ok(CpuTarget::new(X86Level::V4Vnni)),
            "native" => CpuTarget::native(),
            _ => Err(TargetError::Unknown { found: name.into() }),
        }
    }
}

impl fmt::Display for CpuTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(target_arch = "x86_64")]
fn host_has(level: X86Level) -> bool {
    use std::is_x86_feature_detected as has;
    match level {
        X86Level::V2 => has!("sse4.2") && has!("ssse3") && has!("popcnt") && has!("cmpxchg16b"),
        X86Level::V3 => {
            host_has(X86Level::V2)
                && has!("avx2")
                && has!("fma")
                && has!("f16c")
                && has!("bmi1")
                && has!("bmi2")
                && has!("lzcnt")
                && has!("movbe")
        }
        X86Level::V4 => {
            host_has(X86Level::V3)
                && has!("avx512f")
                && has!("avx512bw")
                && has!("avx512cd")
                && has!("avx512dq")
                && has!("avx512vl")
        }
        X86Level::V4Vnni => host_has(X86Level::V4) && has!("avx512vnni"),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn host_has(_level: X86Level) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_to_themselves() {
        for name in &CpuTarget::NAMES[..4] {
            assert_eq!(name.parse::<CpuTarget>().unwrap().to_string(), *name);
        }
    }

    #[test]
    fn unknown_names_list_the_known() {
        let unknown = "x86-64".parse::<CpuTarget>().unwrap_err().to_string();
        assert_eq!(
            unknown,
            "unknown target 'x86-64'; known targets: x86-64-v2, x86-64-v3, x86-64-v4, x86-64-v4-vnni, native, sm_90a"
        );
    }

    #[test]
    fn native_is_the_highest_level_that_runs_here() {
        if let Ok(native) = CpuTarget::native() {
            assert!(native.runs_here());
            assert!(native.level() == X86Level::V4 || !CpuTarget::new(X86Level::V4).runs_here());
        }
    }
}
