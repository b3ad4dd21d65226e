//! Activations, one element at a time.
//!
//! ```text
//! silu(x)     = x / (1 + exp(−x))
//! softplus(x) = log(1 + exp(x)) = max(x, 0) + log1p(exp(−|x|))
//! swiglu      = silu(gate) · up                              (arXiv 2002.05202)
//! ```

use jambac_graph::Activation;

/// x / (1 + exp(−x)).
pub fn silu(x: f32) -> f32 {
    let x = f64::from(x);
    (x / (1.0 + (-x).exp())) as f32
}

/// log(1 + exp(x)), in a form that does not overflow or lose small terms.
pub fn softplus(x: f32) -> f32 {
    let x = f64::from(x);
    (x.max(0.0) + (-x.abs()).exp().ln_1p()) as f32
}

/// silu(gate) · up, element by element; silu is rounded before the product, as by separate ops.
pub fn swiglu(gate: &[f32], up: &[f32]) -> Vec<f32> {
    assert_eq!(gate.len(), up.len());
    gate.iter().zip(up).map(|(&gate, &up)| (f64::from(silu(gate)) * f64::from(up)) as f32).collect()
}

/// The activation of a linear or a convolution.
pub fn apply(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::None => x,
        Activation::Silu => silu(x),
        Activation::Softplus => softplus(x),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_numbers() {
        // 1 / (1 + e⁻¹) = 0.731058578…, −2 / (1 + e²) = −0.238405844…
        assert_eq!(silu(1.0), 0.731_058_6);
        assert_eq!(silu(-2.0), -0.238_405_84);
        // ln 2, and ln(1 + e⁻³) = 0.048587351…
        assert_eq!(softplus(0.0), std::f32::consts::LN_2);
        assert_eq!(softplus(-3.0), 0.048_587_352);
        assert_eq!(swiglu(&[1.0, 0.0], &[2.0, 5.0]), [1.462_117_2, 0.0]);
    }

    #[test]
    fn far_from_zero() {
        assert_eq!(silu(-1e6), 0.0);
        assert_eq!(silu(1e6), 1e6);
        assert_eq!(softplus(1e6), 1e6);
        // e⁻³⁰ = 9.357623e−14: log1p keeps it, log(1 + x) would give 0.
        assert_eq!(softplus(-30.0), 9.357_623e-14);
    }
}
