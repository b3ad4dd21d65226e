//! What can go wrong while passes run.

use jambac_graph::verify::VerifyError;

/// Any error of this crate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A selection names a fusion that does not exist.
    #[error("fusion {found:?}: expected all, none, or some of {known}")]
    UnknownFusion {
        /// The name given.
        found: String,
        /// The names there are.
        known: String,
    },
    /// The graph was broken before the first pass.
    #[error("before the first pass: {0}")]
    Before(#[source] Box<VerifyError>),
    /// A pass broke the graph, which is left as the pass made it.
    #[error("after pass {pass}, last rewrite {last_rewrite}: {error}")]
    After {
        /// The pass.
        pass: &'static str,
        /// What it did last.
        last_rewrite: String,
        /// The invariant that no longer holds.
        #[source]
        error: Box<VerifyError>,
    },
}
