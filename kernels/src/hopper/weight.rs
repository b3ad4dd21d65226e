//! Memory layout of the weights of Hopper's matrix products, shared by the packer and the kernels.
//!
//! A weight is rows of outputs, [n, k] row-major, each row padded with zeros to whole lines ([`super::row_stride`]). Where several
//! matrices share a weight, each is padded with rows of zeros so that [`BLOCK_ROWS`] rows, which one warpgroup multiplies,
//! never belong to two of them:
//!
//!     linear           rows 0 … n − 1, no more
//!     split_linear     part after part, each padded to whole blocks
//!     linear_swiglu    8 rows of gate, 8 rows of up, and so on: a thread of a matrix product has row g and row g + 8
//!     experts          one after the other, each a weight of its own padded to whole blocks
//!
//! bf16 rows hold the inputs in order. int8 rows hold them permuted inside each 64 ([`quantize::column`]), so that the 16 bytes
//! that a thread needs for four steps of 16 inputs are contiguous. Their scales are f32, one per row, in the order of the
//! rows, zero for rows of padding.

use crate::kernel::Elem;
use jamba_plan::quantize;

/// Rows that one warpgroup multiplies.
pub const BLOCK_ROWS: usize = 64;

/// Consecutive rows of gate, and of up.
pub const INTERLEAVED: usize = 8;

/// Rows that gate and up are padded to a multiple of, so that both together are whole blocks.
pub const GATE_ROWS: usize = BLOCK_ROWS / 2;

/// Rows of a matrix that is padded to whole blocks.
pub fn block_rows(n: usize) -> usize {
    n.next_multiple_of(BLOCK_ROWS)
}

/// The row of gate's output i among the interleaved rows of gate and up.
pub fn gate_row(i: usize) -> usize {
    i / INTERLEAVED * 2 * INTERLEAVED + i % INTERLEAVED
}

/// The row of up's output i among the interleaved rows of gate and up.
pub fn up_row(i: usize) -> usize {
    gate_row(i) + INTERLEAVED
}

/// Position of input j in a row, in elements.
pub fn column(format: Elem, j: usize) -> usize {
    match format {
        Elem::I8 => quantize::column(j),
        _ => j,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row of the packed weight, and each byte of it, has one owner.
    #[test]
    fn rows_and_columns_are_permuted() {
        let mut rows: Vec<usize> = (0..64).flat_map(|i| [gate_row(i), up_row(i)]).collect();
        rows.sort_unstable();
        assert_eq!(rows, (0..128).collect::<Vec<_>>());
        for format in [Elem::I8, Elem::Bf16] {
            let mut columns: Vec<usize> = (0..256).map(|j| column(format, j)).collect();
            assert!(columns.chunks(64).enumerate().all(|(g, group)| group.iter().all(|c| c / 64 == g)));
            columns.sort_unstable();
            assert_eq!(columns, (0..256).collect::<Vec<_>>());
        }
    }

    /// The bytes of a thread are its fragments: row by row, a word for each step of 16 inputs.
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
