//! What can be wrong with the tensors of a checkpoint.

use std::path::PathBuf;

/// Why a checkpoint's tensors are not those of its config, or a miniature could not be written. The `Display` text is
/// complete: it names the file and the tensor.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The config asks for a tensor that the checkpoint lacks.
    #[error("{}: tensor {tensor}: found nothing, expected shape {expected:?}", path.display())]
    Missing {
        /// The file that lists the tensors.
        path: PathBuf,
        /// The canonical name.
        tensor: String,
        /// Its shape.
        expected: Vec<usize>,
    },
    /// The checkpoint has a tensor that the config does not ask for.
    #[error("{}: tensor {tensor}: found shape {found:?}, expected no such tensor for this config", path.display())]
    Extra {
        /// The file that the tensor lies in.
        path: PathBuf,
        /// Its name in the file.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
    },
    /// A tensor has another shape than the config asks for.
    #[error("{}: tensor {tensor}: found shape {found:?}, expected {expected:?}", path.display())]
    Shape {
        /// The file that the tensor lies in.
        path: PathBuf,
        /// Its name in the file.
        tensor: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// Its shape by the config.
        expected: Vec<usize>,
    },
    /// A tensor of 8-bit elements, or one of their scales, is not as the config says.
    #[error("{}: tensor {tensor}: found {found}, expected {expected}", path.display())]
    Stored {
        /// The file that the tensor lies in.
        path: PathBuf,
        /// Its name in the file.
        tensor: String,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// Two tensors are one parameter, under an old and a new name.
    #[error("{}: tensor {tensor}: found {other} as well, expected one of the two: they are the same parameter", path.display())]
    Twice {
        /// The file that the second tensor lies in.
        path: PathBuf,
        /// Name of the second.
        tensor: String,
        /// Name of the first.
        other: String,
    },
    /// A model whose output projection is its embedding comes with another output projection.
    #[error(
        "{}: tensor {tensor}: found other values than in {embedding}, expected none or the same: the config has \
         tie_word_embeddings",
        path.display()
    )]
    Untied {
        /// The file that the output projection lies in.
        path: PathBuf,
        /// The output projection.
        tensor: String,
        /// The embedding.
        embedding: String,
    },
    /// A parameter was asked for that the model does not have.
    #[error("parameter {name}: not one of this model")]
    UnknownParameter {
        /// The name asked for.
        name: String,
    },
    /// The checkpoint itself is refused.
    #[error(transparent)]
    Checkpoint(#[from] jambac_checkpoint::Error),
    /// A miniature's file could not be written.
    #[error("{}: {cause}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What went wrong.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}
