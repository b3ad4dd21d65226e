//! Sampling on Hopper: a block for each row, which reads it over and over from the second-level cache.

pub mod argmax;
pub mod draw;
#[cfg(feature = "emit")]
mod row;

/// The token of a row that has no finite largest logit; the host's sampler refuses such a row.
pub const NO_TOKEN: i32 = -1;
