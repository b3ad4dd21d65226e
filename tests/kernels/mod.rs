//! Every kernel compared with the scalar reference, for all cases, on each target that supports them.

use jambac_harness::Target;
use jambac_kernels::target::{ArmLevel, CpuTarget, X86Level};

mod attention;
mod experts;
mod fp8;
mod integer;
mod levels;
mod linear;
mod norm_linear;
pub mod products;
mod recurrent;
mod rounded;
mod routing;
mod row_wise;
pub mod steps;

/// The level that CPU kernels are tested at where tiling does not depend on it.
pub const V3: Target = Target::Cpu(CpuTarget::X86(X86Level::V3));

/// A level without fused multiply-add.
pub const V2: Target = Target::Cpu(CpuTarget::X86(X86Level::V2));

/// Arm, in an emulator unless this machine is one.
pub const ARM: Target = Target::Cpu(CpuTarget::Arm(ArmLevel::V82));

/// Arm with int8 matrix instructions, which products of integers use.
pub const I8MM: Target = Target::Cpu(CpuTarget::Arm(ArmLevel::I8mm));

/// x86-64 with multiply-adds of bf16 pairs.
pub const BF16_PAIRS: Target = Target::Cpu(CpuTarget::X86(X86Level::V4Bf16));

/// x86-64 with products of matrices of bytes.
pub const INTEGER_TILES: Target = Target::Cpu(CpuTarget::X86(X86Level::Amx));

/// x86-64 with products of matrices of bf16.
pub const BF16_TILES: Target = Target::Cpu(CpuTarget::X86(X86Level::AmxBf16));

/// A rounding of f32, relative.
pub const ROUNDING: f64 = 5.960_464_477_539_063e-8;

/// A rounding to bf16, relative: half a unit in the last place.
pub const BF16: f64 = 1.0 / 256.0;
