//! The errors of this crate.

use jambac_graph::verify::VerifyError;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A selection names a fusion that does not exist.
    #[error("fusion {found:?}: expected all, none, or some of {known}")]
    UnknownFusion { found: String, known: String },
    /// The graph was invalid before the first pass.
    #[error("before the first pass: {0}")]
    Before(#[source] Box<VerifyError>),
    /// A pass made the graph invalid; it is left as the pass made it.
    #[error("after pass {pass}, last rewrite {last_rewrite}: {error}")]
    After {
        pass: &'static str,
        /// `pass: op at source`.
        last_rewrite: String,
        #[source]
        error: Box<VerifyError>,
    },
}
