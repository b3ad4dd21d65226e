//! What a schedule for Hopper has beside a CPU's: tensor maps, and entries for few sequences and for many.

use jamba_plan::format::{Arg, TensorMap};
use jambac_kernels::hopper::Kernel;
use jambac_kernels::kernel::{self, Rows};

/// Sequences that are decoded together by the kernels for few rows.
pub(crate) const FEW_SEQUENCES: u64 = 8;

/// Multiprocessors that tiles are chosen for: those of an H100 SXM and of an H200. Any number computes the same.
pub(crate) const N_SMS: usize = 132;

/// The argument of a map of all rows of the matrix at `base`, which is `bytes` long; new or shared.
pub(crate) fn add_map(maps: &mut Vec<TensorMap>, map: &kernel::TensorMap, base: Arg, bytes: u64) -> Arg {
    let row_stride = map.row_bytes() as u64;
    let map = TensorMap {
        base,
        elem: map.tensor_elem(),
        rows: bytes / row_stride,
        cols: map.cols as u64,
        row_stride,
        box_rows: map.box_rows as u32,
        box_cols: map.box_cols as u32,
        swizzle: map.swizzle,
    };
    let index = maps.iter().position(|known| *known == map).unwrap_or_else(|| {
        maps.push(map);
        maps.len() - 1
    });
    Arg::TensorMap(index as u32)
}

/// Takes out of a spec what only cost and grid depend on.
pub(crate) fn forget_rows(kernel: &mut Kernel) {
    match kernel {
        Kernel::RmsNorm(spec) => spec.rows = Rows::Tokens,
        Kernel::SplitRmsNorm(spec) => spec.rows = Rows::Tokens,
        Kernel::Linear(spec) => spec.rows = Rows::Tokens,
        Kernel::SplitLinear(spec) => spec.rows = Rows::Tokens,
        Kernel::LinearSwiglu(spec) => spec.rows = Rows::Tokens,
        Kernel::MoeRoute(spec) => spec.rows = Rows::Tokens,
        Kernel::MoeGather(spec) => spec.rows = Rows::Tokens,
        Kernel::MoeCombine(spec) => spec.rows = Rows::Tokens,
        Kernel::Slice(spec) => spec.rows = Rows::Tokens,
        Kernel::Softmax(spec) => spec.rows = Rows::Tokens,
        Kernel::TopK(spec) => spec.rows = Rows::Tokens,
        Kernel::MoePermute(spec) => spec.rows = Rows::Tokens,
        Kernel::Elementwise(spec) => (spec.rows, spec.per_row) = (Rows::Tokens, 1),
        Kernel::GroupedLinear(spec) => (spec.rows, spec.top_k) = (Rows::Tokens, 1),
        Kernel::GroupedSwiglu(spec) => (spec.rows, spec.top_k) = (Rows::Tokens, 1),
        _ => {}
    }
}
