//! Rows of a table by index: `embed` (token ids) and `select_rows` (rows whose logits are computed).
//!
//! ```text
//! y[i] = table[rows[i]]
//! ```

/// The rows of a table of `cols` columns.
///
/// # Errors
/// The first index that is not a row.
pub fn gather_rows(table: &[f32], cols: usize, rows: &[i32]) -> Result<Vec<f32>, i32> {
    let mut y = Vec::with_capacity(rows.len() * cols);
    for &row in rows {
        let start = usize::try_from(row).map_err(|_| row)? * cols;
        y.extend_from_slice(table.get(start..start + cols).ok_or(row)?);
    }
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_numbers() {
        let table = [0.0, 1.0, 10.0, 11.0, 20.0, 21.0];
        assert_eq!(gather_rows(&table, 2, &[2, 0, 2]), Ok(vec![20.0, 21.0, 0.0, 1.0, 20.0, 21.0]));
        assert_eq!(gather_rows(&table, 2, &[0, 3]), Err(3));
        assert_eq!(gather_rows(&table, 2, &[-1]), Err(-1));
    }
}
