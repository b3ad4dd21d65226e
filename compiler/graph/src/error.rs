//! The errors of this crate.

use crate::infer::InferError;
use crate::text::ParseError;
use crate::verify::VerifyError;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Infer(#[from] InferError),
    #[error(transparent)]
    Parse(#[from] ParseError),
    #[error(transparent)]
    Verify(#[from] VerifyError),
}
