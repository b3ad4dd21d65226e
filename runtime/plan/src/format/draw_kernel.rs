//! Kernels that draw synthetic weights in device memory.

use serde::{Deserialize, Serialize};

use super::{Launch, WeightFormat};

/// A kernel that draws rows of weights in one format. [`crate::synthetic::DrawnRows::args`] gives its parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrawKernel {
    /// Exported symbol: `synthetic_weight_bf16_sm90`.
    pub symbol: String,
    /// Stored element type of the weights.
    pub format: WeightFormat,
    /// Launch configuration. The kernel is correct for every grid size; its blocks share the rows.
    pub launch: Launch,
}
