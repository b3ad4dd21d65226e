//! Shared parts of CPU kernels: the body builder, elementary functions, and matrix products over panels of packed weights.

pub mod integer;
pub(crate) mod operand;

#[cfg(feature = "emit")]
pub mod builder;
#[cfg(feature = "emit")]
pub mod math;
#[cfg(feature = "emit")]
mod panel;
#[cfg(feature = "emit")]
pub(crate) mod product;
#[cfg(feature = "emit")]
mod rounded;
#[cfg(feature = "emit")]
pub(crate) mod rows;
#[cfg(feature = "emit")]
mod tiles;
#[cfg(feature = "emit")]
pub(crate) mod whole;
