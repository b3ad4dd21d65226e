//! Causal depthwise convolution over a ragged batch, with the state between steps.
//!
//! ```text
//! y[t, c] = activation(Σₖ weight[c, k] · u[t − (K − 1) + k, c] + bias[c])        k = 0 … K − 1
//! ```
//!
//! Inputs before a sequence's first token of the step come from its state, the last K − 1 inputs, oldest first; zeros for a new
//! sequence.

use jambac_graph::Activation;

use crate::activation;

/// Operands of [`causal_conv1d`].
#[derive(Clone, Copy, Debug)]
pub struct Conv<'a> {
    /// Inputs `[T, C]`.
    pub u: &'a [f32],
    /// Taps `[C, 1, K]`, the newest input's tap last.
    pub weight: &'a [f32],
    /// `[C]`.
    pub bias: Option<&'a [f32]>,
    /// `[S, C, K − 1]`.
    pub state: &'a [f32],
    /// Tokens of each sequence in this step; their sum is T.
    pub lengths: &'a [usize],
    /// C.
    pub channels: usize,
    /// Applied to the rounded sum.
    pub activation: Activation,
}

/// y `[T, C]` and the next state `[S, C, K − 1]`.
pub fn causal_conv1d(conv: &Conv) -> (Vec<f32>, Vec<f32>) {
    let &Conv { u, weight, bias, state, lengths, channels, activation } = conv;
    let taps = weight.len() / channels;
    let past = taps - 1;
    assert_eq!(state.len(), lengths.len() * channels * past);
    let mut y = vec![0.0; u.len()];
    let mut next = Vec::with_capacity(state.len());
    let mut first = 0;
    for (sequence, &length) in lengths.iter().enumerate() {
        for c in 0..channels {
            let remembered = &state[(sequence * channels + c) * past..][..past];
            let fresh = (first..first + length).map(|t| u[t * channels + c]);
            let inputs: Vec<f32> = remembered.iter().copied().chain(fresh).collect();
            let taps_of_c = &weight[c * taps..(c + 1) * taps];
            for (t, window) in inputs.windows(taps).enumerate() {
                let sum: f64 = window.iter().zip(taps_of_c).map(|(&u, &w)| f64::from(u) * f64::from(w)).sum();
                let sum = sum + bias.map_or(0.0, |bias| f64::from(bias[c]));
                y[(first + t) * channels + c] = activation::apply(activation, sum as f32);
            }
            next.extend_from_slice(&inputs[length..]);
        }
        first += length;
    }
    (y, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Conv = Conv {
        u: &[1.0, 2.0, 3.0],
        weight: &[1.0, 10.0, 100.0],
        bias: None,
        state: &[0.0, 0.0],
        lengths: &[3],
        channels: 1,
        activation: Activation::None,
    };

    #[test]
    fn worked_numbers() {
        // 100·1; 10·1 + 100·2; 1·1 + 10·2 + 100·3. The state keeps 2, 3.
        assert_eq!(causal_conv1d(&BASE), (vec![100.0, 210.0, 321.0], vec![2.0, 3.0]));
        // The state's 8, 9 come before: 1·8 + 10·9 + 100·1; 1·9 + 10·1 + 100·2.
        let resumed = Conv { u: &[1.0, 2.0], state: &[8.0, 9.0], lengths: &[2], bias: Some(&[0.5]), ..BASE };
        assert_eq!(causal_conv1d(&resumed), (vec![198.5, 219.5], vec![1.0, 2.0]));
    }

    #[test]
    fn ragged_two_channels() {
        // Two sequences, of one and of two tokens, K = 2; channel 1 has other taps.
        let conv = Conv {
            u: &[1.0, 5.0, 2.0, 6.0, 3.0, 7.0],
            weight: &[1.0, 10.0, 2.0, 20.0],
            state: &[4.0, 8.0, 0.0, 0.0],
            lengths: &[1, 2],
            channels: 2,
            ..BASE
        };
        let (y, state) = causal_conv1d(&conv);
        assert_eq!(y, [14.0, 116.0, 20.0, 120.0, 32.0, 152.0]);
        assert_eq!(state, [1.0, 5.0, 3.0, 7.0]);
    }

    #[test]
    fn no_past() {
        // K = 1 has no state; a sequence without tokens keeps its state.
        let one = Conv { weight: &[2.0], state: &[], ..BASE };
        assert_eq!(causal_conv1d(&one), (vec![2.0, 4.0, 6.0], vec![]));
        let idle = Conv { u: &[], lengths: &[0], state: &[8.0, 9.0], ..BASE };
        assert_eq!(causal_conv1d(&idle), (vec![], vec![8.0, 9.0]));
    }
}
