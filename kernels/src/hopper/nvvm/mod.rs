//! sm_90a instructions, one function each: text or intrinsic, operand types, and whether the optimizer may move it. All
//! require only PTX 8.0.
//!
//! Shared addresses are pointers; byte counts, coordinates and parities are i32.

mod barrier;
mod control;
mod copy;
mod global;
mod matrix;

/// Emitted PTX version: the earliest with all of sm_90a, to support the widest range of drivers.
pub const PTX_VERSION: u32 = 80;
