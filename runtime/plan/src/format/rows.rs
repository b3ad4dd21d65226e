//! The rows that a step processes.

use serde::{Deserialize, Serialize};

use super::Count;

/// The rows that a step processes: `per` rows for each token or each row of logits. Used for listings and for the compiler's
/// checks; kernels receive their counts as arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// Tokens or outputs.
    pub count: Count,
    /// Rows per unit of the count.
    pub per: u32,
}

impl Rows {
    /// One row per token.
    pub const TOKENS: Rows = Rows { count: Count::Tokens, per: 1 };

    /// One row per row of logits.
    pub const OUTPUTS: Rows = Rows { count: Count::Outputs, per: 1 };
}
