//! jamba-plan: the file format of plans. A plan is one file with everything that is needed to run a model. The compiler and the
//! runtime share only this crate.
//!
//! [`format`](mod@format) defines the records. A file consists of a [`header`] page, a table of [`sections`], and the
//! page-aligned sections, each with a BLAKE3 digest. [`reader`] verifies the whole plan once and returns views. [`verify`]
//! checks every offset, count and index of the program, so that execution needs no further checks.

#![warn(missing_docs)]

pub mod cost;
pub mod cpu;
mod error;
#[cfg(test)]
mod fixture;
pub mod format;
pub mod graphs;
mod hash;
pub mod header;
pub mod identify;
pub mod output;
pub mod peek;
pub mod printable;
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
pub use reader::{Plan, Verify, frame};
#[cfg(feature = "write")]
pub use writer::PlanWriter;
