//! Comparison of a tensor with the expected one.
//!
//! ```text
//! close(i):  |found[i] − expected[i]| ≤ abs + rel · |expected[i]|
//! NMSE       = Σ (found − expected)² / Σ expected²
//! ```

use std::fmt;

/// The tolerance per element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Absolute tolerance.
    pub abs: f64,
    /// Tolerance relative to the expected magnitude.
    pub rel: f64,
}

impl Tolerance {
    /// Every element equal (0 equals −0, NaN equals NaN).
    pub const EXACT: Tolerance = Tolerance { abs: 0.0, rel: 0.0 };

    /// An absolute tolerance.
    pub fn abs(abs: f64) -> Tolerance {
        Tolerance { abs, rel: 0.0 }
    }

    /// For logits: 1e-4 · max(1, standard deviation), as f32 kernels differ only in the order of sums.
    pub fn logits(expected: &[f32]) -> Tolerance {
        Tolerance::abs(1e-4 * standard_deviation(expected).max(1.0))
    }
}

/// The standard deviation of all elements together; 0 of none.
pub fn standard_deviation(values: &[f32]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let n = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    (values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n).sqrt()
}

/// An element that is not close.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bad {
    /// Flat, row-major.
    pub index: usize,
    pub found: f32,
    pub expected: f32,
}

/// The differences of two tensors; prints as one line, and a second one for the first bad element.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Number of elements.
    pub n_elements: usize,
    /// Largest difference; infinite unless both values are finite or equal.
    pub max_abs: f64,
    /// The difference that 99 % of the elements do not exceed.
    pub p99_abs: f64,
    /// Squared error over the squared expected magnitude; 0 if all are equal.
    pub nmse: f64,
    /// Fraction of close elements, 0 to 1; 1 for no elements.
    pub close_fraction: f64,
    /// The first element that is not close.
    pub first_bad: Option<Bad>,
    pub tolerance: Tolerance,
}

impl Report {
    /// True if every element is close.
    pub fn ok(&self) -> bool {
        self.first_bad.is_none()
    }
}

/// Compares element by element.
///
/// # Panics
/// If the lengths differ.
pub fn compare(found: &[f32], expected: &[f32], tolerance: Tolerance) -> Report {
    assert_eq!(found.len(), expected.len(), "elements to compare");
    let mut differences = Vec::with_capacity(found.len());
    let (mut error, mut magnitude, mut n_close, mut first_bad) = (0.0, 0.0, 0, None);
    for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let difference = difference(found, expected);
        let scale = if expected.is_finite() { f64::from(expected).abs() } else { 0.0 };
        if difference <= tolerance.abs + tolerance.rel * scale {
            n_close += 1;
        } else {
            first_bad = first_bad.or(Some(Bad { index, found, expected }));
        }
        if difference > 0.0 {
            error += difference * difference;
        }
        magnitude += f64::from(expected).powi(2);
        differences.push(difference);
    }
    differences.sort_by(f64::total_cmp);
    let n_elements = found.len();
    Report {
        n_elements,
        max_abs: differences.last().copied().unwrap_or(0.0),
        p99_abs: (n_elements * 99).div_ceil(100).checked_sub(1).map_or(0.0, |rank| differences[rank]),
        nmse: if error == 0.0 { 0.0 } else { error / magnitude },
        close_fraction: if n_elements == 0 { 1.0 } else { f64::from(n_close) / n_elements as f64 },
        first_bad,
        tolerance,
    }
}

/// |found − expected|; 0 for equal infinities and for two NaNs, infinite if only one of them is finite.
fn difference(found: f32, expected: f32) -> f64 {
    if found == expected || (found.is_nan() && expected.is_nan()) {
        return 0.0;
    }
    let difference = (f64::from(found) - f64::from(expected)).abs();
    if difference.is_nan() { f64::INFINITY } else { difference }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tolerance { abs, rel } = self.tolerance;
        write!(
            f,
            "max {:.2e}, p99 {:.2e}, NMSE {:.2e}, {:.2} % of {} close (within {abs:.1e}",
            self.max_abs,
            self.p99_abs,
            self.nmse,
            100.0 * self.close_fraction,
            self.n_elements,
        )?;
        if rel > 0.0 {
            write!(f, " + {rel:.1e} · |expected|")?;
        }
        f.write_str(")")?;
        if let Some(Bad { index, found, expected }) = self.first_bad {
            write!(f, "\nfirst bad: element {index}: found {found:e}, expected {expected:e}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_numbers() {
        let report = compare(&[1.0, 2.5, 4.0, 0.0], &[1.0, 2.0, 3.0, 0.0], Tolerance { abs: 0.1, rel: 0.25 });
        // 0.5 ≤ 0.1 + 0.25 · 2, 1 > 0.1 + 0.25 · 3; NMSE = (0.25 + 1) / (1 + 4 + 9).
        assert_eq!(report.max_abs, 1.0);
        assert_eq!(report.close_fraction, 0.75);
        assert_eq!(report.first_bad, Some(Bad { index: 2, found: 4.0, expected: 3.0 }));
        assert_eq!(report.nmse, 1.25 / 14.0);
        assert_eq!(
            report.to_string(),
            "max 1.00e0, p99 1.00e0, NMSE 8.93e-2, 75.00 % of 4 close (within 1.0e-1 + 2.5e-1 · |expected|)\n\
             first bad: element 2: found 4e0, expected 3e0"
        );
    }

    #[test]
    fn nothing_hides() {
        let nan = f32::NAN;
        let report = compare(&[nan, 1.0], &[0.0, 1.0], Tolerance::abs(1e9));
        assert_eq!((report.ok(), report.max_abs), (false, f64::INFINITY));
        assert!(!compare(&[0.0], &[nan], Tolerance::abs(1e9)).ok());
        assert!(compare(&[nan, f32::INFINITY, 0.0], &[nan, f32::INFINITY, -0.0], Tolerance::EXACT).ok());
        assert!(!compare(&[1.0], &[f32::INFINITY], Tolerance { abs: 1.0, rel: 1.0 }).ok());
        assert!(!compare(&[1.0], &[1.0 + f32::EPSILON], Tolerance::EXACT).ok());
        assert!(compare(&[], &[], Tolerance::EXACT).ok());
    }

    #[test]
    fn p99_leaves_the_worst_hundredth_out() {
        let expected = [0.0; 200];
        let mut found = expected;
        (found[7], found[8], found[9]) = (3.0, 2.0, 1.0);
        // 198 of 200 do not exceed it.
        assert_eq!(compare(&found, &expected, Tolerance::EXACT).p99_abs, 1.0);
    }

    #[test]
    fn logits_scale() {
        assert_eq!(standard_deviation(&[1.0, 3.0, 1.0, 3.0]), 1.0);
        assert_eq!(Tolerance::logits(&[-30.0, 30.0]).abs, 1e-4 * 30.0);
        assert_eq!(Tolerance::logits(&[0.0, 0.1]).abs, 1e-4);
    }
}
