//! Rows of slots, sorted by expert: what a grouped product reads as contiguous rows.
//!
//!     out[p, :] = x[slots[p] / top_k, :]

pub(crate) mod hopper;

use crate::kernel::Source;

/// The buffer that holds the sorted rows.
pub(crate) const GATHERED: Source = Source::Scratch("gathered");

/// Rows of slots, sorted by expert. A launch of the grouped products on Hopper.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Columns.
    pub cols: usize,
    /// Experts per token.
    pub top_k: usize,
}
