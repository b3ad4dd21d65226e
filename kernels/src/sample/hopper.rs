//! Sampling on Hopper: a block for each row, which reads it over and over from the second-level cache.

pub mod argmax;
pub mod draw;
#[cfg(feature = "emit")]
mod row;

pub use jamba_plan::format::NO_TOKEN;
