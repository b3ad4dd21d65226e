//! The tests that need more than one crate, in one binary.

mod fixtures;
mod kernels;
mod oracle;
mod questions;
mod synthetic;
mod tidy;
mod tour;
mod transformers;
