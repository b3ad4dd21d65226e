//! Kernels that draw synthetic weights where they lie.

use serde::{Deserialize, Serialize};

use super::{Launch, WeightFormat};

/// A kernel that draws rows of weights of one format; [`crate::synthetic::DrawnRows::args`] are its parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrawKernel {
    /// Exported symbol: `synthetic_weight_bf16_sm90`.
    pub symbol: String,
    /// Stored element type of the weights.
    pub format: WeightFormat,
    /// How it is launched: whatever the grid, its blocks share out the rows.
    pub launch: Launch,
}
