//! jambac-models: architecture → graph.
//!
//! [`jamba`] is the one architecture: its table of Hugging Face names, and the graph of what Hugging Face computes, op by
//! op. [`tiny`] writes miniature checkpoints for tests. The folders beside `src` are the models that people build.

mod error;
pub mod jamba;
pub mod tiny;

pub use error::ModelError;
