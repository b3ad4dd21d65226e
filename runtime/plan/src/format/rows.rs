//! What a step works on.

use serde::{Deserialize, Serialize};

use super::Count;

/// The rows that a step works on: `per` for each token, or for each row of logits. For people and for the compiler's checks;
/// kernels take their counts as arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// Tokens or outputs.
    pub count: Count,
    /// Rows for each.
    pub per: u32,
}

impl Rows {
    /// One row per token.
    pub const TOKENS: Rows = Rows { count: Count::Tokens, per: 1 };

    /// One row per row of logits.
    pub const OUTPUTS: Rows = Rows { count: Count::Outputs, per: 1 };
}
