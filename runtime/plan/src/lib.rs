//! jamba-plan: the plan, one file that holds everything a model needs to run. The one crate that compiler and runtime share.
//!
//! [`format`](mod@format) is what a plan says; the file's frame is a header page, a section table, and sections on page boundaries, each with its
//! BLAKE3 digest.

pub mod format;
