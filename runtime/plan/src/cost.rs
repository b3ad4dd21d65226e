//! Lower bounds on the work of a step (bytes moved, arithmetic operations) as functions of the step's size. Benchmarks and
//! `jambac inspect` use them; the runtime does not.

use serde::{Deserialize, Serialize};

/// The size of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Size {
    /// Number of tokens over all sequences.
    pub tokens: f64,
    /// Number of sequences.
    pub sequences: f64,
    /// Number of rows of logits.
    pub outputs: f64,
    /// Mean number of tokens that one token attends to.
    pub context: f64,
}

/// A number of bytes or operations:
///
/// ```text
/// constant + tokens · T + sequences · S + outputs · O + sequence_context · S · C + token_context · T · C
///          + min(first_token · T + first_output · O, most)
/// ```
///
/// for T tokens, S sequences, O rows of logits and C tokens of context. The last term models experts: one token reads the
/// weights of the experts that it is routed to; many tokens read the weights of all experts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Amount {
    /// Independent of the size; for bytes, mostly weights.
    pub constant: f64,
    /// Per token.
    pub tokens: f64,
    /// Per sequence.
    pub sequences: f64,
    /// Per row of logits.
    pub outputs: f64,
    /// Per sequence and token of context.
    pub sequence_context: f64,
    /// Per token and token of context.
    pub token_context: f64,
    /// Per token, until the last term reaches `most`.
    pub first_token: f64,
    /// Per row of logits, until the last term reaches `most`.
    pub first_output: f64,
    /// Upper bound of the last term.
    pub most: f64,
}

impl Amount {
    /// Evaluates the formula for one size.
    pub fn at(&self, size: Size) -> f64 {
        let Size { tokens, sequences, outputs, context } = size;
        self.constant
            + self.tokens * tokens
            + self.sequences * sequences
            + self.outputs * outputs
            + self.sequence_context * sequences * context
            + self.token_context * tokens * context
            + (self.first_token * tokens + self.first_output * outputs).min(self.most)
    }

    pub(crate) fn is_sound(&self) -> bool {
        let Amount { constant, tokens, sequences, outputs, .. } = *self;
        let Amount { sequence_context, token_context, first_token, first_output, most, .. } = *self;
        [constant, tokens, sequences, outputs, sequence_context, token_context, first_token, first_output, most]
            .iter()
            .all(|coefficient| coefficient.is_finite() && *coefficient >= 0.0)
    }
}

/// Lower bounds on the bytes that a step moves and the operations that it computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Bytes read and written, each counted once.
    pub bytes: Amount,
    /// Arithmetic operations; a multiply-add counts as two.
    pub operations: Amount,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_its_formula() {
        let amount = Amount {
            constant: 1.0,
            tokens: 10.0,
            sequences: 100.0,
            outputs: 1000.0,
            sequence_context: 0.5,
            token_context: 0.25,
            first_token: 7.0,
            first_output: 0.5,
            most: 20.0,
        };
        let size = Size { tokens: 2.0, sequences: 3.0, outputs: 4.0, context: 8.0 };
        assert_eq!(amount.at(size), 1.0 + 20.0 + 300.0 + 4000.0 + 12.0 + 4.0 + (14.0 + 2.0));
        let many = Size { tokens: 5.0, ..Size::default() };
        assert_eq!(amount.at(many), 1.0 + 50.0 + 20.0);
        assert!(amount.is_sound());
        assert!(!Amount { most: f64::NAN, ..amount }.is_sound());
        assert!(!Amount { tokens: -1.0, ..amount }.is_sound());
    }
}
