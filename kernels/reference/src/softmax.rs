//! Softmax over rows.
//!
//! ```text
//! y[i] = exp(x[i] − max(x)) / Σⱼ exp(x[j] − max(x))
//! ```

/// Each row of `cols` columns.
pub fn softmax(x: &[f32], cols: usize) -> Vec<f32> {
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks_exact(cols) {
        let scores: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
        y.extend(probabilities(&scores).into_iter().map(|p| p as f32));
    }
    y
}

/// One row in f64.
pub(crate) fn probabilities(scores: &[f64]) -> Vec<f64> {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.into_iter().map(|exp| exp / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_numbers() {
        let ln_3 = 3f32.ln();
        assert_eq!(softmax(&[0.0, ln_3, 5.0, 5.0], 2), [0.25, 0.75, 0.5, 0.5]);
        // exp(1000) overflows; the maximum is subtracted first.
        assert_eq!(softmax(&[1000.0, -1000.0], 2), [1.0, 0.0]);
    }
}
