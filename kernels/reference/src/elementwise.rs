//! Elementwise ops.
//!
//! ```text
//! add: y = a + b
//! mul: y = a · b        b is shaped like a, or is one row, repeated for every row of a
//! ```

/// a + b.
pub fn add(a: &[f32], b: &[f32]) -> Vec<f32> {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// a · b, where b has as many elements as a, or is one row.
pub fn mul(a: &[f32], b: &[f32]) -> Vec<f32> {
    assert!(b.is_empty() == a.is_empty() || a.is_empty(), "a row to repeat has elements");
    assert!(a.is_empty() || a.len().is_multiple_of(b.len()));
    a.iter().zip(b.iter().cycle()).map(|(a, b)| a * b).collect()
}

/// Columns start … start + len of rows of `cols`.
pub fn slice(x: &[f32], cols: usize, start: usize, len: usize) -> Vec<f32> {
    x.chunks_exact(cols).flat_map(|row| &row[start..start + len]).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_numbers() {
        assert_eq!(add(&[1.0, 2.0], &[0.5, -2.0]), [1.5, 0.0]);
        assert_eq!(mul(&[1.0, 2.0, 3.0, 4.0], &[2.0, 3.0, 4.0, 5.0]), [2.0, 6.0, 12.0, 20.0]);
        assert_eq!(mul(&[1.0, 2.0, 3.0, 4.0], &[10.0, 100.0]), [10.0, 200.0, 30.0, 400.0]);
        assert_eq!(slice(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], 3, 1, 2), [1.0, 2.0, 4.0, 5.0]);
    }

    #[test]
    fn no_rows() {
        assert_eq!(mul(&[], &[1.0, 2.0]), [0.0f32; 0]);
        assert_eq!(slice(&[], 3, 1, 2), [0.0f32; 0]);
    }
}
