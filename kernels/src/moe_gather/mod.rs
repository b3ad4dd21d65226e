//! Rows gathered by slot and sorted by expert: the contiguous rows that a grouped product reads.
//!
//! ```text
//! out[p, :] = x[slots[p] / top_k, :]
//! ```

pub(crate) mod hopper;

use crate::kernel::Source;

/// The scratch buffer for the sorted rows.
pub(crate) const GATHERED: Source = Source::Scratch("gathered");

/// A row gather by slot, sorted by expert. A launch of the grouped products on Hopper.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    pub cols: usize,
    /// Experts per token.
    pub top_k: usize,
}
