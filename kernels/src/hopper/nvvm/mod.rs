//! The instructions of Hopper, one function each: its text or intrinsic, the types of its operands, whether the optimizer
//! may move it. All are in PTX 8.0 for sm_90a; one that needs more says so.
//!
//! Shared addresses are pointers; byte counts, coordinates and parities are i32.

mod barrier;
mod control;
mod copy;
mod global;
mod matrix;

/// The version of PTX that is written: the earliest with all of sm_90a, for the widest range of drivers.
pub const PTX_VERSION: u32 = 80;
