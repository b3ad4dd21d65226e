//! jamba-plan: the plan, one file that holds everything a model needs to run. The one crate that compiler and runtime share.
//!
//! [`format`](mod@format) is what a plan says. The file's frame is a [`header`] page, a table of [`sections`], and the
//! sections on page boundaries, each with its BLAKE3 digest. [`reader`] checks all of it once, up front, and hands out
//! views; [`verify`] checks every offset, count and index of the program; after that nothing is checked again.

#![warn(missing_docs)]

pub mod cost;
mod error;
#[cfg(test)]
mod fixture;
pub mod format;
pub mod header;
pub mod peek;
pub mod quantize;
pub mod reader;
pub mod sections;
pub mod synthetic;
pub mod tables;
pub mod text;
pub mod verify;
#[cfg(feature = "write")]
pub mod writer;

pub use error::PlanError;
pub use reader::{Plan, Verify};
#[cfg(feature = "write")]
pub use writer::PlanWriter;
