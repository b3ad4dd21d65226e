//! Memory layout of Hopper matrix product weights, shared by the packer and the kernels.
//!
//! A weight has one row per output, [n, k] row-major, each row zero-padded to whole lines ([`super::row_stride`]). If
//! several matrices share a weight, each is padded with zero rows so that the [`BLOCK_ROWS`] rows multiplied by one
//! warpgroup never belong to two matrices:
//!
//! ```text
//! linear           rows 0 … n − 1, without padding
//! split_linear     part after part, each padded to whole blocks
//! linear_swiglu    alternating 8 rows of gate and 8 rows of up: a thread of a matrix product has row g and row g + 8
//! experts          consecutive, each a separate weight padded to whole blocks
//! ```
//!
//! bf16 rows hold the inputs in order. int8 and fp8 rows hold them permuted inside each 64 ([`quantize::column`]), so that the 16
//! bytes that a thread needs for four steps of 16 inputs are contiguous. Their scales are f32, one per row, in row order,
//! and zero for padding rows.

use crate::kernel::Elem;
use jamba_plan::quantize;

/// Rows multiplied by one warpgroup.
pub const BLOCK_ROWS: usize = 64;

/// Consecutive rows of gate, and of up.
pub const INTERLEAVED: usize = 8;

/// Row multiple that gate and up are each padded to, so that together they form whole blocks.
pub const GATE_ROWS: usize = BLOCK_ROWS / 2;

/// Rows of a matrix padded to whole blocks.
pub fn block_rows(n: usize) -> usize {
    n.next_multiple_of(BLOCK_ROWS)
}

/// Interleaved row of gate's output i.
pub fn gate_row(i: usize) -> usize {
    i / INTERLEAVED * 2 * INTERLEAVED + i % INTERLEAVED
}

/// Interleaved row of up's output i.
pub fn up_row(i: usize) -> usize {
    gate_row(i) + INTERLEAVED
}

/// Position of input j in a row, in elements.
pub fn column(format: Elem, j: usize) -> usize {
    match format {
        Elem::I8 | Elem::F8 => quantize::column(j),
        _ => j,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row of the packed weight, and each byte in it, has one owner.
    #[test]
    fn rows_and_columns_are_permuted() {
        let mut rows: Vec<usize> = (0..64).flat_map(|i| [gate_row(i), up_row(i)]).collect();
        rows.sort_unstable();
        assert_eq!(rows, (0..128).collect::<Vec<_>>());
        for format in [Elem::I8, Elem::F8, Elem::Bf16] {
            let mut columns: Vec<usize> = (0..256).map(|j| column(format, j)).collect();
            assert!(columns.chunks(64).enumerate().all(|(g, group)| group.iter().all(|c| c / 64 == g)));
            columns.sort_unstable();
            assert_eq!(columns, (0..256).collect::<Vec<_>>());
        }
    }

    /// A thread's bytes are its fragments: row by row, one word per step of 16 inputs.
    #[test]
    fn the_fragments_of_a_thread_are_sixteen_bytes() {
        for q in 0..4 {
            let fragments = (0..4).flat_map(|s| [0, 1, 8, 9].map(|b| 16 * s + 2 * q + b));
            let columns: Vec<usize> = fragments.map(|j| column(Elem::I8, j)).collect();
            assert_eq!(columns, (16 * q..16 * q + 16).collect::<Vec<_>>());
        }
    }

    #[test]
    fn matrices_are_padded_to_blocks() {
        assert_eq!(block_rows(65), 128);
    }
}
