//! Instructions of sm_90a, one function each: text or intrinsic, operand types, and whether the optimizer may move it. All need
//! PTX 8.0 only.
//!
//! Shared addresses are pointers; byte counts, coordinates and parities are i32.

mod barrier;
mod control;
mod copy;
mod global;
mod matrix;

/// Emitted PTX version: the earliest that has all of sm_90a, for the widest range of drivers.
pub const PTX_VERSION: u32 = 80;
