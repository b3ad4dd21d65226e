//! Linear: rows times a transposed matrix.
//!
//! ```text
//! y[r, n] = activation(Σᵢ x[r, i] · weight[n, i] + bias[n])
//! ```

use jambac_graph::Activation;

use crate::activation;

/// Dimensions and epilogue of [`linear`].
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// Columns of x and of the weight.
    pub n_in: usize,
    /// Rows of the weight.
    pub n_out: usize,
    /// Applied to the rounded sum.
    pub activation: Activation,
}

/// x `[R, n_in]` times weight `[n_out, n_in]`, plus bias `[n_out]`; gives `[R, n_out]`.
pub fn linear(x: &[f32], weight: &[f32], bias: Option<&[f32]>, linear: Linear) -> Vec<f32> {
    let Linear { n_in, n_out, activation } = linear;
    assert_eq!(weight.len(), n_out * n_in);
    let n_rows = x.len() / n_in;
    let mut y = vec![0.0; n_rows * n_out];
    for n in 0..n_out {
        let row = &weight[n * n_in..(n + 1) * n_in];
        let bias = bias.map_or(0.0, |bias| f64::from(bias[n]));
        for r in 0..n_rows {
            let sum = dot(&x[r * n_in..(r + 1) * n_in], row) + bias;
            y[r * n_out + n] = activation::apply(activation, sum as f32);
        }
    }
    y
}

/// Σ a · b in f64: eight sums side by side (so that the compiler can use vectors), then their sum.
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let (a8, a_rest) = a.as_chunks::<8>();
    let (b8, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0f64; 8];
    for (a, b) in a8.iter().zip(b8) {
        for lane in 0..8 {
            sums[lane] += f64::from(a[lane]) * f64::from(b[lane]);
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_numbers() {
        let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let weight = [1.0, 0.0, -1.0, 0.5, 0.5, 0.5];
        let shape = Linear { n_in: 3, n_out: 2, activation: Activation::None };
        assert_eq!(linear(&x, &weight, None, shape), [-2.0, 3.0, -2.0, 7.5]);
        assert_eq!(linear(&x, &weight, Some(&[10.0, 0.25]), shape), [8.0, 3.25, 8.0, 7.75]);
        let silu = Linear { activation: Activation::Silu, ..shape };
        assert_eq!(linear(&x[..3], &weight, None, silu)[0], activation::silu(-2.0));
    }

    #[test]
    fn sums_in_f64() {
        // In f32, 2²⁴ + 1 is 2²⁴.
        let big = 16_777_216.0;
        assert_eq!(dot(&[big, 1.0, -big], &[1.0, 1.0, 1.0]), 1.0);
        let ones = [1.0; 19];
        assert_eq!(dot(&ones, &ones), 19.0);
    }
}
