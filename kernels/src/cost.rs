//! What a kernel reads, writes and computes at least, as coefficients of a step's size.

use jamba_plan::cost;
use jamba_plan::format::Count;
pub use jamba_plan::format::Rows;

/// A number of bytes or operations:
///
/// ```text
/// constant + rows · R + tokens · T + sequences · S + outputs · O
///          + sequence_context · S · C + token_context · T · C + min(first_row · R, most)
/// ```
///
/// for R rows, T tokens, S sequences, O rows of logits and C tokens of context. The last term is the experts' weights: the
/// first rows read those of the experts they are routed to, many rows read all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Amount {
    /// Independent of the step: weights.
    pub constant: f64,
    /// For each row.
    pub rows: f64,
    /// For each token.
    pub tokens: f64,
    /// For each sequence.
    pub sequences: f64,
    /// For each row of logits.
    pub outputs: f64,
    /// For each sequence and token of context.
    pub sequence_context: f64,
    /// For each token and token of context.
    pub token_context: f64,
    /// For each row, up to `most`.
    pub first_row: f64,
    /// Upper bound of the last term.
    pub most: f64,
}

impl Amount {
    /// `rows` for each row.
    pub fn per_row(rows: f64) -> Amount {
        Amount { rows, ..Amount::default() }
    }

    /// The amount of a step with these rows, as the plan states it.
    pub fn of(&self, rows: Rows) -> cost::Amount {
        let (row, first) = (self.rows * f64::from(rows.per), self.first_row * f64::from(rows.per));
        let for_tokens = rows.count == Count::Tokens;
        let split = |value: f64| if for_tokens { (value, 0.0) } else { (0.0, value) };
        let ((row_token, row_output), (first_token, first_output)) = (split(row), split(first));
        cost::Amount {
            constant: self.constant,
            tokens: self.tokens + row_token,
            sequences: self.sequences,
            outputs: self.outputs + row_output,
            sequence_context: self.sequence_context,
            token_context: self.token_context,
            first_token,
            first_output,
            most: self.most,
        }
    }
}

/// What a kernel reads, writes and computes at least.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Bytes read and written once each.
    pub bytes: Amount,
    /// Arithmetic operations; a multiply-add is two.
    pub operations: Amount,
}

impl Cost {
    /// The cost of a step with these rows, as the plan states it.
    pub fn of(&self, rows: Rows) -> cost::Cost {
        cost::Cost { bytes: self.bytes.of(rows), operations: self.operations.of(rows) }
    }
}
