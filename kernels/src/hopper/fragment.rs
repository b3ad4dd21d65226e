//! Matrix fragments: the elements that each lane holds in registers for products by warps (mma.sync) and warpgroups
//! (wgmma).
//!
//! Operands and accumulators consist of blocks of 8 × 8 elements. In each block, lane l holds row l / 4 and the adjacent
//! columns 2 (l mod 4) and 2 (l mod 4) + 1. A warp has two blocks stacked vertically, rows 0 to 7 and rows 8 to 15: the two
//! halves of its rows. A lane's sums are in the order of [`half_of`] and [`column_of`]; a left operand has one register
//! (two bf16) for each pair of these sums, so packed sums form a left operand.
//!
//! PTX ISA, "Matrix Fragments for mma.m16n8k16" and "Register Fragments for wgmma.mma_async.m64k16".

use super::Builder;
use super::asm::Effect;
use crate::cpu::builder::{Num, Type, Value};

/// Rows and columns of a block.
pub(crate) const BLOCK: usize = 8;

/// Lanes that share a row of a block.
pub(crate) const QUAD: u32 = 4;

/// The half of the rows that contains a lane's sum number `i`.
pub(crate) const fn half_of(i: usize) -> usize {
    i / 2 % 2
}

/// The column of sum number `i`, relative to the lane's first column.
pub(crate) const fn column_of(i: usize) -> usize {
    i / 4 * BLOCK + i % 2
}

/// Positions of a lane's elements; all i32.
#[derive(Clone, Copy)]
pub(crate) struct Fragment {
    lane: Value,
}

/// The row that a lane addresses for ldmatrix and stmatrix: row l mod 8 of block l / 8.
pub(crate) struct Addressed {
    pub(crate) block: Value,
    pub(crate) row: Value,
}

impl Fragment {
    #[track_caller]
    pub(crate) fn of(b: &Builder) -> Fragment {
        Fragment { lane: b.lane() }
    }

    /// The lane's number among the four that share a row.
    #[track_caller]
    pub(crate) fn quad(self) -> Value {
        self.lane & (QUAD - 1)
    }

    /// The lane's row in the upper half.
    #[track_caller]
    pub(crate) fn first_row(self) -> Value {
        self.lane >> QUAD.ilog2()
    }

    /// The first of the lane's two columns of a block.
    #[track_caller]
    pub(crate) fn first_column(self) -> Value {
        self.quad() * 2
    }

    /// The lane's row in a half.
    #[track_caller]
    pub(crate) fn row_in(self, half: usize) -> Value {
        self.first_row() + BLOCK * half
    }

    /// The row of sum number `i`.
    #[track_caller]
    pub(crate) fn row(self, i: usize) -> Value {
        self.row_in(half_of(i))
    }

    /// The column of sum number `i`.
    #[track_caller]
    pub(crate) fn column(self, i: usize) -> Value {
        self.first_column() + column_of(i)
    }

    #[track_caller]
    pub(crate) fn addressed(self) -> Addressed {
        Addressed { block: self.lane >> BLOCK.ilog2(), row: self.lane & (BLOCK - 1) }
    }
}

/// The maximum over the four lanes that share a row, in each of them.
#[track_caller]
pub(crate) fn quad_max(b: &Builder, x: Value) -> Value {
    (0..QUAD.ilog2()).fold(x, |x, bit| b.greater(x, b.shuffle_xor(x, 1 << bit)))
}

/// The sum over the four lanes that share a row, in each of them.
#[track_caller]
pub(crate) fn quad_sum(b: &Builder, x: Value) -> Value {
    b.group_sum(x, QUAD)
}

/// A left operand of 16 columns from the registers of both halves, one register per block of columns.
pub(crate) fn left([u0, u1]: [Value; 2], [l0, l1]: [Value; 2]) -> [Value; 4] {
    [u0, l0, u1, l1]
}

/// Sums rounded to bf16, as registers of a left operand.
#[track_caller]
pub(crate) fn pack(b: &Builder, sums: &[Value]) -> Vec<Value> {
    sums.as_chunks().0.iter().map(|&[low, high]| b.pack_bf16(low, high)).collect()
}

/// Loads left operands for products over 16 columns at a time from bf16 rows with `columns` columns in global memory; zeros
/// beyond the last column. `rows` has the address of the lane's row in each half; without a second address, that half is
/// zeros.
#[track_caller]
pub(crate) fn load(b: &Builder, columns: usize, rows: &[Value]) -> Vec<[Value; 4]> {
    const STEP: usize = 2 * BLOCK;
    // A separate register: a constant shared with other uses would be written between a wgmma and its fence.
    let zero = b.asm1(Effect::Memory, "mov.b32 $0, 0;", &[], Num::I32);
    let own = Fragment::of(b).first_column();
    let step = |step: usize| {
        std::array::from_fn(|register| {
            let (half, first) = (half_of(2 * register), STEP * step + column_of(2 * register));
            match rows.get(half) {
                Some(&row) if first < columns => load_pair(b, columns, row, own, first),
                _ => zero,
            }
        })
    };
    (0..columns.div_ceil(STEP)).map(step).collect()
}

/// Columns `first + own` and the next one of a row, in one register; zeros beyond the last column.
#[track_caller]
fn load_pair(b: &Builder, columns: usize, row: Value, own: Value, first: usize) -> Value {
    let at = b.at_byte(b.at(row, own * 2), 2 * first);
    let word = || b.load(at, Type::scalar(Num::I32));
    let zero = || b.i32(0);
    if columns.is_multiple_of(2) && first + BLOCK <= columns {
        return word();
    }
    let exists = |e: usize| (own + (first + e)).lt(columns);
    if columns.is_multiple_of(2) {
        let [x] = b.if_else(exists(0), || [word()], || [zero()]);
        return x;
    }
    // Rows are not 4-byte aligned.
    let [low, high] = [0, 1].map(|e| {
        let half = || [b.load(b.at_byte(at, 2 * e), Type::scalar(Num::I16)).to_i32()];
        let [x] = b.if_else(exists(e), half, || [zero()]);
        x & 0xffff
    });
    low | (high << 16)
}

/// Rounds two f32 to bf16 and stores them to columns `first + own` and the next one of a row; columns from `columns` on are
/// not stored.
#[track_caller]
pub(crate) fn store_pair(b: &Builder, columns: usize, row: Value, own: Value, first: usize, [low, high]: [Value; 2]) {
    if first >= columns {
        return;
    }
    let at = b.at_byte(b.at(row, own * 2), 2 * first);
    let word = || b.store(b.pack_bf16(low, high), at);
    let exists = |e: usize| (own + (first + e)).lt(columns);
    match (columns.is_multiple_of(2), first + BLOCK <= columns) {
        (true, true) => word(),
        (true, false) => b.if_(exists(0), word),
        (false, _) => {
            for (e, x) in [low, high].into_iter().enumerate() {
                b.if_(exists(e), || b.store(b.round_bf16(x), b.at_byte(at, 2 * e)));
            }
        }
    }
}
