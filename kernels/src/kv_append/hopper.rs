//! Writes keys and values into pages on Hopper: one thread per 16 bytes of a token's keys and values.
//!
//! ```text
//! position = past[s] + t − starts[s], page = pages[s, position / 16], row = position % 16     s = sequence_of[t]
//! keys[page, g, row, e] = k[t, g · d_head + e];  values[page, g, row, e] = v[t, g · d_head + e]
//! ```
//!
//! A page of a layer holds, per KV head, two groups of 8 tokens. A group holds first the keys, then the values, each in
//! blocks of 64 bf16 columns. A block is 8 rows of 128 bytes, one per token. Part p (16 bytes) of row r is at place p ^ r
//! of its row. With this order, wgmma and ldmatrix read shared memory without bank conflicts, so attention copies a head's
//! page unchanged, in one piece. Columns beyond d_head are zero.
//!
//! Every row of a page that contains a token is initialized: if a step opens a page, the thread of the sequence's last
//! token zeroes the rows after that token. Masked probabilities are zero, and zero times a finite value is zero.
//!
//! Bound by memory: reads and writes each key and value once.
//!
//! 1. load 16 bytes of the row; zeros beyond the head
//! 2. find the page and the row in it; store
//! 3. for the last token of a sequence, in a page that the step opened: zero the rows after it

use jamba_plan::format::Table;

use super::{PAGE_TOKENS, Spec};
use crate::hopper::facts::{LINE_BYTES, SWIZZLE_ROWS};
use crate::hopper::operand::read;
use crate::kernel::{
    Access, Amount, Blocks, Config, Cost, Elem, Grid, Hopper, Launch, Lowering, Operand, Per, Unsupported, hopper_body,
};

/// Maximum dimensions per head, limited by attention's registers.
pub const MAX_D_HEAD: usize = 256;

/// Tokens per group: the rows of one swizzle period.
pub const GROUP_TOKENS: usize = SWIZZLE_ROWS;

/// Columns per block: a line of bf16.
pub const BLOCK_COLUMNS: usize = LINE_BYTES / 2;

/// Bytes per block: rows of 128 bytes for [`GROUP_TOKENS`] tokens.
pub const BLOCK_BYTES: usize = GROUP_TOKENS * LINE_BYTES;

/// Elements that a thread copies.
const PART: usize = 8;

/// Threads per block.
const THREADS: u32 = 256;

/// Keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Key,
    Value,
}

/// Blocks of columns per head.
pub fn blocks(d_head: usize) -> usize {
    d_head.div_ceil(BLOCK_COLUMNS)
}

/// Bytes of the keys and values of a group of tokens of one KV head.
pub fn group_bytes(d_head: usize) -> usize {
    2 * blocks(d_head) * BLOCK_BYTES
}

/// Bytes of one KV head's keys and values in one page.
pub fn head_bytes(d_head: usize) -> usize {
    PAGE_TOKENS / GROUP_TOKENS * group_bytes(d_head)
}

/// Bytes of one page's keys and values in one layer.
pub fn page_bytes(n_kv_heads: usize, d_head: usize) -> usize {
    n_kv_heads * head_bytes(d_head)
}

/// Byte offset of column `column` of row `row` of a head, in the head's part of a page.
pub fn offset(d_head: usize, side: Side, row: usize, column: usize) -> usize {
    let in_group = match side {
        Side::Key => 0,
        Side::Value => blocks(d_head) * BLOCK_BYTES,
    };
    let (group, row) = (row / GROUP_TOKENS, row % GROUP_TOKENS);
    let (block, column) = (column / BLOCK_COLUMNS, column % BLOCK_COLUMNS);
    let place = (column / PART) ^ row;
    group * group_bytes(d_head) + in_group + block * BLOCK_BYTES + row * LINE_BYTES + 2 * (place * PART + column % PART)
}

/// Checks that Hopper pages support this head size and element type.
pub(crate) fn check_heads(d_head: usize, format: Elem) -> Result<(), Unsupported> {
    if d_head > MAX_D_HEAD {
        return Err(Unsupported(format!(
            "found heads of {d_head} dimensions, expected at most {MAX_D_HEAD} on sm_90a"
        )));
    }
    if format != Elem::Bf16 {
        return Err(Unsupported(format!("keys and values are {}, expected bf16 on sm_90a", format.name())));
    }
    Ok(())
}

/// The operand for the cache pages; the cache is operand `cache` of a node.
pub(crate) fn pages(access: Access, cache: usize, n_kv_heads: usize, d_head: usize) -> Operand {
    Operand::pages(access, Elem::Bf16, cache, page_bytes(n_kv_heads, d_head) / Elem::Bf16.bytes())
}

impl Lowering<Hopper> for Spec {
    fn supports(&self) -> Result<(), Unsupported> {
        check_heads(self.d_head, self.format)
    }

    fn lower(&self, _: Config) -> Vec<Launch> {
        let &Spec { n_kv_heads, d_head, .. } = self;
        let mut operands = vec![
            read("k", Elem::Bf16, n_kv_heads * d_head, 1),
            read("v", Elem::Bf16, n_kv_heads * d_head, 2),
            pages(Access::ReadWrite, 0, n_kv_heads, d_head),
        ];
        operands.extend([Table::SequenceOf, Table::Starts, Table::Past, Table::Pages].map(Operand::table));
        operands.push(Operand::count("tokens", Per::Token));
        operands.extend(Operand::page_strides(0));
        let blocks = Blocks::Of { per: Per::Token, factor: parts(self) as u32, per_block: THREADS };
        vec![Launch {
            op: "kv_append",
            symbol: format!("kv_append_g{n_kv_heads}_e{d_head}_sm90"),
            operands,
            cost: Cost { bytes: Amount::per_row((2 * n_kv_heads * d_head) as f64 * 4.0), ..Cost::default() },
            grid: Some(Grid::along_x(blocks, THREADS, 0).reading_after(3)),
            body: hopper_body!(self, emit),
        }]
    }
}

/// 16-byte parts per token: those of its keys, then those of its values.
fn parts(spec: &Spec) -> usize {
    2 * spec.n_kv_heads * blocks(spec.d_head) * BLOCK_COLUMNS / PART
}

#[cfg(feature = "emit")]
mod emit;
#[cfg(feature = "emit")]
pub(crate) use emit::{emit, page_offset};

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows and columns of keys and values, including padding, fill the head's part of a page.
    #[test]
    fn every_byte_has_one_element() {
        for d_head in [16, 64, 100, 128, 256] {
            let elements = [Side::Key, Side::Value].into_iter().flat_map(|side| {
                let columns = blocks(d_head) * BLOCK_COLUMNS;
                (0..PAGE_TOKENS).flat_map(move |row| (0..columns).map(move |column| offset(d_head, side, row, column)))
            });
            let mut offsets: Vec<usize> = elements.collect();
            offsets.sort_unstable();
            assert_eq!(offsets, (0..head_bytes(d_head)).step_by(2).collect::<Vec<_>>());
        }
    }

    #[test]
    fn pages_worked_out() {
        // 16 tokens of 8 KV heads by 128, keys and values of two bytes.
        assert_eq!(page_bytes(8, 128), 16 * 8 * 128 * 2 * 2);
        // Heads of 32 use the space of 64.
        assert_eq!(page_bytes(2, 32), page_bytes(2, 64));
        // Row 9 is row 1 of the second group; column 70 is element 6 of part 0 of the second block, at place 0 ^ 1.
        assert_eq!(offset(128, Side::Value, 9, 70), 4096 + 2048 + 1024 + 128 + 16 + 12);
    }
}
