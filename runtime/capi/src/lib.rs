//! libjamba: the runtime as a C library. cbindgen generates `include/jamba.h` from this crate.
//!
//! Global state: the table of handles, the counter for new handles, and the last error message per thread. Every entry point
//! looks up its handles in the table, so an invalid or closed handle is an error and not undefined behavior. Every entry point
//! catches panics.
#![warn(missing_docs)]
#![allow(non_camel_case_types, reason = "C names")]
#![allow(clippy::missing_safety_doc, reason = "the header comment of jamba.h states the contract for all pointers")]
#![allow(clippy::too_many_arguments, reason = "C has no slices")]

mod arguments;
pub mod batch;
pub mod cache;
pub mod engine;
pub mod events;
pub mod generate;
mod handles;
pub mod heads;
pub mod request;
pub mod sampler;
pub mod snapshot;
pub mod status;
pub mod steps;
pub mod text;
