//! Compilation targets. Compile-time facts only: except [`CpuTarget::native`] and [`CpuTarget::runs_here`], nothing here
//! inspects a live device.

use std::fmt;
use std::str::FromStr;

use jamba_plan::format::TargetKind;

mod kind;

pub use kind::{count, decode_sizes, draws, looks_up, picks, refuses, steps_overlap, stored_format, widest};

/// A microarchitecture level of the x86-64 psABI: the instruction set that a kernel may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum X86Level {
    /// SSE4.2, POPCNT: 16 vector registers of 16 bytes; no FMA, no F16C.
    V2,
    /// AVX2, FMA, F16C, BMI2: 16 vector registers of 32 bytes.
    V3,
    /// AVX-512 F, BW, CD, DQ, VL: 32 vector registers of 64 bytes.
    V4,
    /// V4 and AVX512-VNNI: multiply-add of 16-bit integer pairs into an accumulator in one instruction. Not a psABI level, nor are
    /// those that follow.
    V4Vnni,
    /// V4Vnni and AVX512-BF16: multiply-add of bf16 pairs. Products of bf16 weights round their inputs to bf16.
    V4Bf16,
    /// V4Bf16 and AMX-INT8: products of matrices of bytes in tiles of 1 KiB. Its results have the bits of [`V4Vnni`](Self::V4Vnni).
    Amx,
    /// Amx and AMX-BF16: products of matrices of bf16. Products of bf16 weights round their inputs to bf16.
    AmxBf16,
}

/// The instruction set of a 64-bit Arm core that a kernel may use: 32 vector registers of 16 bytes, FMA, half precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ArmLevel {
    /// Armv8.2-A with dot products of bytes.
    V82,
    /// V82 and products of matrices of bytes.
    I8mm,
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
    /// CPUs of a level.
    Cpu(CpuTarget),
    /// NVIDIA GPUs of compute capability 9.0: H100, H200, GH200.
    Sm90a,
}

impl Target {
    /// Every name that parses.
    pub const NAMES: [&str; 11] = [
        "x86-64-v2",
        "x86-64-v3",
        "x86-64-v4",
        "x86-64-v4-vnni",
        "x86-64-v4-bf16",
        "x86-64-v4-amx",
        "x86-64-v4-amx-bf16",
        "aarch64",
        "aarch64-i8mm",
        "native",
        "sm_90a",
    ];

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

/// A CPU target: a level of an architecture, parsed from its name.
///
/// ```
/// # use jambac_kernels::target::CpuTarget;
/// let target: CpuTarget = "x86-64-v3".parse()?;
/// assert!(target.has_fma());
/// assert!("x86-64-v9".parse::<CpuTarget>().is_err());
/// # Ok::<(), jambac_kernels::target::TargetError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CpuTarget {
    Arm(ArmLevel),
    X86(X86Level),
}

/// What LLVM calls a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Llvm {
    /// Determines the object format and the calling convention; kernels use neither the operating system nor a C library.
    pub triple: &'static str,
    pub cpu: &'static str,
    /// Features beyond the CPU's, each with a sign.
    pub features: &'static str,
}

/// Errors of parsing or detecting a target.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TargetError {
    /// The name is not a known target.
    #[error("unknown target '{found}'; known targets: {known}", known = Target::NAMES.join(", "))]
    Unknown { found: String },
    /// `native` on a machine below the lowest level.
    #[error(
        "target 'native': this machine's CPU has not all instructions of x86-64-v2 or of aarch64 (with dot products)"
    )]
    HostTooOld,
}

impl CpuTarget {
    /// Every level, the lowest of each architecture first.
    pub const ALL: [CpuTarget; 9] = [
        CpuTarget::X86(X86Level::V2),
        CpuTarget::X86(X86Level::V3),
        CpuTarget::X86(X86Level::V4),
        CpuTarget::X86(X86Level::V4Vnni),
        CpuTarget::X86(X86Level::V4Bf16),
        CpuTarget::X86(X86Level::Amx),
        CpuTarget::X86(X86Level::AmxBf16),
        CpuTarget::Arm(ArmLevel::V82),
        CpuTarget::Arm(ArmLevel::I8mm),
    ];

    pub fn new(level: impl Into<CpuTarget>) -> Self {
        level.into()
    }

    /// The highest level of the host CPU, without those that [round inputs](Self::rounds_inputs). The result is a level, not a CPU
    /// model: a plan then states its exact requirements, and is identical on all machines of the level.
    pub fn native() -> Result<Self, TargetError> {
        let runs = |target: &CpuTarget| !target.rounds_inputs() && target.runs_here();
        CpuTarget::ALL.into_iter().rev().find(runs).ok_or(TargetError::HostTooOld)
    }

    /// Whether products of bf16 weights round their inputs to bf16, for the CPU's bf16 instructions.
    pub fn rounds_inputs(&self) -> bool {
        matches!(self, CpuTarget::X86(X86Level::V4Bf16 | X86Level::AmxBf16))
    }

    /// Whether the level has products of matrices in tiles (AMX).
    pub fn has_tiles(&self) -> bool {
        matches!(self, CpuTarget::X86(X86Level::Amx | X86Level::AmxBf16))
    }

    /// Whether the host CPU has every instruction of the level.
    pub fn runs_here(&self) -> bool {
        jamba_plan::cpu::runs(self.name())
    }

    /// The name of the level: on x86-64 that of the psABI plus any extension.
    pub fn name(&self) -> &'static str {
        match self {
            CpuTarget::X86(X86Level::V2) => "x86-64-v2",
            CpuTarget::X86(X86Level::V3) => "x86-64-v3",
            CpuTarget::X86(X86Level::V4) => "x86-64-v4",
            CpuTarget::X86(X86Level::V4Vnni) => "x86-64-v4-vnni",
            CpuTarget::X86(X86Level::V4Bf16) => "x86-64-v4-bf16",
            CpuTarget::X86(X86Level::Amx) => "x86-64-v4-amx",
            CpuTarget::X86(X86Level::AmxBf16) => "x86-64-v4-amx-bf16",
            CpuTarget::Arm(ArmLevel::V82) => "aarch64",
            CpuTarget::Arm(ArmLevel::I8mm) => "aarch64-i8mm",
        }
    }

    pub fn llvm(&self) -> Llvm {
        match self {
            CpuTarget::X86(level) => {
                let (cpu, features) = match level {
                    X86Level::V2 | X86Level::V3 | X86Level::V4 => (self.name(), ""),
                    X86Level::V4Vnni => ("x86-64-v4", "+avx512vnni"),
                    X86Level::V4Bf16 => ("x86-64-v4", "+avx512vnni,+avx512bf16"),
                    X86Level::Amx => ("x86-64-v4", "+avx512vnni,+avx512bf16,+amx-tile,+amx-int8"),
                    X86Level::AmxBf16 => ("x86-64-v4", "+avx512vnni,+avx512bf16,+amx-tile,+amx-int8,+amx-bf16"),
                };
                Llvm { triple: "x86_64-unknown-linux-gnu", cpu, features }
            }
            CpuTarget::Arm(level) => {
                let features = match level {
                    ArmLevel::V82 => "+neon,+crc,+lse,+rdm,+dotprod",
                    ArmLevel::I8mm => "+neon,+crc,+lse,+rdm,+dotprod,+i8mm",
                };
                Llvm { triple: "aarch64-unknown-linux-gnu", cpu: "generic", features }
            }
        }
    }

    /// Whether a·b + c is a single instruction with one rounding.
    pub fn has_fma(&self) -> bool {
        *self != CpuTarget::X86(X86Level::V2)
    }

    /// Whether the hardware converts half precision.
    pub fn has_f16c(&self) -> bool {
        *self != CpuTarget::X86(X86Level::V2)
    }

    /// Bytes per vector register.
    pub fn vector_bytes(&self) -> usize {
        match self {
            CpuTarget::Arm(_) | CpuTarget::X86(X86Level::V2) => 16,
            CpuTarget::X86(X86Level::V3) => 32,
            CpuTarget::X86(_) => 64,
        }
    }

    pub fn n_vector_registers(&self) -> usize {
        match self {
            CpuTarget::X86(X86Level::V2 | X86Level::V3) => 16,
            CpuTarget::Arm(_) | CpuTarget::X86(_) => 32,
        }
    }
}

impl From<X86Level> for CpuTarget {
    fn from(level: X86Level) -> Self {
        CpuTarget::X86(level)
    }
}

impl From<ArmLevel> for CpuTarget {
    fn from(level: ArmLevel) -> Self {
        CpuTarget::Arm(level)
    }
}

impl FromStr for CpuTarget {
    type Err = TargetError;

    fn from_str(name: &str) -> Result<Self, TargetError> {
        if name == "native" {
            return CpuTarget::native();
        }
        let named = CpuTarget::ALL.into_iter().find(|target| target.name() == name);
        named.ok_or_else(|| TargetError::Unknown { found: name.into() })
    }
}

impl fmt::Display for CpuTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_to_themselves() {
        for name in Target::NAMES.iter().filter(|name| **name != "native") {
            assert_eq!(name.parse::<Target>().unwrap().name(), *name);
        }
        assert!(CpuTarget::ALL.iter().all(|target| Target::NAMES.contains(&target.name())));
    }

    #[test]
    fn unknown_names_list_the_known() {
        let unknown = "x86-64".parse::<Target>().unwrap_err().to_string();
        let known = "x86-64-v2, x86-64-v3, x86-64-v4, x86-64-v4-vnni, x86-64-v4-bf16, x86-64-v4-amx, x86-64-v4-amx-bf16, aarch64, \
                     aarch64-i8mm, native, sm_90a";
        assert_eq!(unknown, format!("unknown target 'x86-64'; known targets: {known}"));
    }

    #[test]
    fn levels_are_those_that_the_runtime_knows() {
        for target in CpuTarget::ALL {
            assert!(jamba_plan::cpu::missing(target.name()).is_some(), "{target}");
        }
    }

    #[test]
    fn native_is_the_highest_level_with_the_results_of_f32_inputs() {
        if let Ok(native) = CpuTarget::native() {
            assert!(native.runs_here() && !native.rounds_inputs());
            let is_better = |target: CpuTarget| target > native && target.runs_here() && !target.rounds_inputs();
            assert!(!CpuTarget::ALL.into_iter().any(is_better));
        }
    }
}
