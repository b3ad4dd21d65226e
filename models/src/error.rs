//! Errors of the tensors of a checkpoint.

use std::path::PathBuf;

/// The tensors of a checkpoint do not match its config, or a miniature could not be written. The `Display` text is complete: it names
/// the file and the tensor.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A tensor of the config that the checkpoint lacks.
    #[error("{}: tensor {tensor}: found nothing, expected shape {expected:?}", path.display())]
    Missing {
        /// The file that lists the tensors.
        path: PathBuf,
        tensor: String,
        expected: Vec<usize>,
    },
    /// A tensor of the checkpoint that the config does not have.
    #[error(
        "{}: tensor {tensor}: found shape {found:?}, expected no such tensor for this config; to build without it: \
         ignore_tensors = [{tensor:?}] under [model] in a model.toml, where * matches any characters",
        path.display()
    )]
    Extra { path: PathBuf, tensor: String, found: Vec<usize> },
    /// A tensor that the model needs and the user wants to be ignored.
    #[error("{}: tensor {tensor}: found it in ignore_tensors, expected it to be used: the model needs it", path.display())]
    Ignored { path: PathBuf, tensor: String },
    /// A weight that is NaN or infinite.
    #[error("{}: tensor {tensor}: found {found} at {place:?}, expected finite numbers: the checkpoint is damaged, or its training diverged", path.display())]
    NotFinite {
        path: PathBuf,
        tensor: String,
        /// NaN, inf or -inf.
        found: f32,
        /// Its index in each dimension of the tensor.
        place: Vec<usize>,
    },
    /// A tensor with another shape than in the config.
    #[error("{}: tensor {tensor}: found shape {found:?}, expected {expected:?}", path.display())]
    Shape {
        path: PathBuf,
        tensor: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// Its shape by the config.
        expected: Vec<usize>,
    },
    /// A tensor of 8-bit elements, or its scales, that does not match the config.
    #[error("{}: tensor {tensor}: found {found}, expected {expected}", path.display())]
    Stored { path: PathBuf, tensor: String, found: String, expected: String },
    /// Two tensors are one parameter, under an old and a new name.
    #[error("{}: tensor {tensor}: found {other} as well, expected one of the two: they are the same parameter", path.display())]
    Twice {
        path: PathBuf,
        /// Name of the second.
        tensor: String,
        /// Name of the first.
        other: String,
    },
    /// A tied model whose output projection differs from its embedding.
    #[error(
        "{}: tensor {tensor}: found other values than in {embedding}, expected none or the same: the config has \
         tie_word_embeddings",
        path.display()
    )]
    Untied { path: PathBuf, tensor: String, embedding: String },
    /// A parameter that the model does not have.
    #[error("parameter {name}: not one of this model")]
    UnknownParameter { name: String },
    #[error(transparent)]
    Checkpoint(#[from] jambac_checkpoint::Error),
    /// A miniature's file could not be written.
    #[error("{}: {cause}", path.display())]
    Write { path: PathBuf, cause: Box<dyn std::error::Error + Send + Sync> },
}
