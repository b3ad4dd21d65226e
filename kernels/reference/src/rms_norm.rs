//! RMS norm (arXiv 1910.07467), alone and after a sum.
//!
//! ```text
//! y[i] = x[i] · weight[i] / sqrt(mean(x²) + eps)
//! ```

use crate::elementwise::{add, slice};
use crate::linear::dot;

/// RMS norm of each row of `weight.len()` columns.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f64) -> Vec<f32> {
    let cols = weight.len();
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks_exact(cols) {
        let scale = 1.0 / (dot(row, row) / cols as f64 + eps).sqrt();
        y.extend(row.iter().zip(weight).map(|(&x, &weight)| (f64::from(x) * scale * f64::from(weight)) as f32));
    }
    y
}

/// RMS norm of each part of the columns of x; part i has the length of weight i.
pub fn split_rms_norm(x: &[f32], weights: &[&[f32]], eps: f64) -> Vec<Vec<f32>> {
    let cols = weights.iter().map(|weight| weight.len()).sum();
    let mut start = 0;
    let norm_of_part = |weight: &&[f32]| {
        let part = slice(x, cols, start, weight.len());
        start += weight.len();
        rms_norm(&part, weight, eps)
    };
    weights.iter().map(norm_of_part).collect()
}

/// a + b, and its RMS norm.
pub fn add_rms_norm(a: &[f32], b: &[f32], weight: &[f32], eps: f64) -> (Vec<f32>, Vec<f32>) {
    let sum = add(a, b);
    let normed = rms_norm(&sum, weight, eps);
    (sum, normed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_numbers() {
        // mean([9, 16] + [0, 0]) … row 0: mean(x²) = 12.5, with eps 3.5 the scale is 1/4.
        assert_eq!(rms_norm(&[3.0, 4.0], &[1.0, 2.0], 3.5), [0.75, 2.0]);
        // A row of zeros stays zero: eps keeps the scale finite.
        assert_eq!(rms_norm(&[0.0, 0.0], &[1.0, 2.0], 1e-6), [0.0, 0.0]);
        // Squares beyond the range of f32.
        assert_eq!(rms_norm(&[1e30, -1e30], &[1.0, 1.0], 1e-6), [1.0, -1.0]);
    }

    #[test]
    fn parts_do_not_meet() {
        // Part 0 of row 0: mean(x²) = 12.5, with eps 3.5 the scale is 1/4; part 1: mean 12.5 as well; row 1: zeros and a scale of 1/2.
        let x = [3.0, 4.0, 5.0, 0.0, 0.0, 0.5f32.sqrt()];
        assert_eq!(
            split_rms_norm(&x, &[&[1.0, 2.0], &[4.0]], 3.5),
            [vec![0.75, 2.0, 0.0, 0.0], vec![(5.0 / 28.5f64.sqrt() * 4.0) as f32, (0.5f64.sqrt() / 2.0 * 4.0) as f32],]
        );
    }

    #[test]
    fn sum_and_norm() {
        let (sum, normed) = add_rms_norm(&[1.0, 1.0], &[2.0, 3.0], &[1.0, 2.0], 3.5);
        assert_eq!((sum, normed), (vec![3.0, 4.0], vec![0.75, 2.0]));
    }
}
