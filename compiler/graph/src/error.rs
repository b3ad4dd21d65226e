//! What can be wrong with a graph.

use crate::infer::InferError;
use crate::text::ParseError;
use crate::verify::VerifyError;

/// Any error of this crate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An op does not accept its operands.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// A text is not a graph.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// A graph breaks an invariant.
    #[error(transparent)]
    Verify(#[from] VerifyError),
}
