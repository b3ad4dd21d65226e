//! jambac-models: architecture → graph.
//!
//! [`jamba`] is the only architecture: its table of Hugging Face names, and its graph, op by op as Hugging Face computes it. [`tiny`]
//! writes miniature checkpoints for tests. The other folders of `models/` are model files for users to build.

mod error;
pub mod jamba;
pub mod tiny;

pub use error::ModelError;
