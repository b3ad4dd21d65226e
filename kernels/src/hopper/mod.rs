//! Kernels for sm_90a (Hopper): their catalog, the layout of what they share, and the builder of their bodies.
//!
//! Rules that all of them share:
//! - activations are rows of [`row_stride`] elements; lanes beyond the last column hold anything, NaN too, and never reach a
//!   result. i32 tables are dense. Every buffer begins at a multiple of 128 bytes;
//! - a kernel is an entry of PTX named by its symbol, with a `.u64` parameter for each slot: the address of a buffer, an
//!   integer, the address of a count (i64) or of a tensor map;
//! - blocks that the counts leave without work return at once;
//! - what one output is summed from, in which order, depends neither on the number of rows nor on their position: same bits
//!   for any batch.

pub mod matmul;
mod tensor_map;
pub mod weight;

pub use tensor_map::{Swizzle, TensorMap};

#[cfg(feature = "emit")]
pub mod asm;
#[cfg(feature = "emit")]
mod builder;
#[cfg(feature = "emit")]
mod math;
#[cfg(feature = "emit")]
mod memory;
#[cfg(feature = "emit")]
pub mod nvvm;
#[cfg(feature = "emit")]
pub(crate) mod ring;
#[cfg(feature = "emit")]
pub(crate) mod rows;
#[cfg(feature = "emit")]
pub(crate) mod select;
#[cfg(feature = "emit")]
mod threads;

#[cfg(feature = "emit")]
pub use builder::{Builder, DYNAMIC_SHARED, ModuleBuilder, RESIDENT_BLOCKS, THREADS};

use crate::kernel::{Cost, Counts, Elem, Param};
use jamba_plan::format::Launch;

/// Bytes that rows of activations and of weights are a multiple of: a line of the cache, and of shared memory's banks.
pub const ROW_BYTES: usize = 128;

/// Threads of a warp.
pub const WARP: u32 = 32;

/// Distance between rows of `cols` elements, in elements: whole lines of [`ROW_BYTES`].
pub fn row_stride(elem: Elem, cols: usize) -> usize {
    cols.next_multiple_of(ROW_BYTES * 8 / elem.bits())
}

/// Columns that a thread takes at once of a row that a block works on: 16 bytes of f32.
pub(crate) const COLUMNS: usize = 4;

/// Threads of a block that works on a row: two vectors of columns each while a block is wide enough.
pub(crate) fn row_threads(cols: usize) -> u32 {
    (cols.div_ceil(2 * COLUMNS).next_multiple_of(WARP as usize) as u32).clamp(WARP, 1024)
}

/// Threads of a block that copies a row of so many bytes, 16 at a time.
pub(crate) fn copy_threads(bytes: usize) -> u32 {
    (bytes.div_ceil(16).next_multiple_of(WARP as usize) as u32).clamp(WARP, 256)
}

macro_rules! kernels {
    ($($(#[$doc:meta])* $variant:ident($op:ident $(:: $rest:ident)+)),* $(,)?) => {
        /// A kernel of sm_90a with its spec.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Kernel {
            $($(#[$doc])* $variant(crate::$op$(::$rest)+::Spec),)*
        }

        impl Kernel {
            /// The op's folder in the catalog.
            pub fn op(&self) -> &'static str {
                match self { $(Kernel::$variant(_) => stringify!($op),)* }
            }

            /// The name of the PTX entry; two kernels with the same symbol are the same kernel.
            pub fn symbol(&self) -> String {
                match self { $(Kernel::$variant(spec) => spec.symbol(),)* }
            }

            /// The parameters of the entry, in order.
            pub fn params(&self) -> Vec<Param> {
                match self { $(Kernel::$variant(spec) => spec.params(),)* }
            }

            /// Bytes and operations that the kernel cannot do without.
            pub fn cost(&self, counts: Counts) -> Cost {
                match self { $(Kernel::$variant(spec) => spec.cost(counts),)* }
            }

            /// Grid, threads and shared memory.
            pub fn launch(&self) -> Launch {
                match self { $(Kernel::$variant(spec) => spec.launch(),)* }
            }

            /// Writes the kernel's body.
            #[cfg(feature = "emit")]
            pub fn emit(&self, b: &Builder<'_>) {
                match self { $(Kernel::$variant(spec) => crate::$op$(::$rest)+::emit(b, spec),)* }
            }
        }

        $(impl From<crate::$op$(::$rest)+::Spec> for Kernel {
            fn from(spec: crate::$op$(::$rest)+::Spec) -> Kernel { Kernel::$variant(spec) }
        })*
    };
}

kernels! {
    /// Matrix product with bias and activation.
    Linear(linear::hopper),
    /// Matrix products of one value, each with a result of its own.
    SplitLinear(split_linear::hopper),
    /// Gate and up of a feed-forward, and their product.
    LinearSwiglu(linear_swiglu::hopper),
    /// Matrix product of each slot with the weight of its expert.
    GroupedLinear(grouped_linear::hopper),
    /// Gate, up and their product of each slot with the weights of its expert.
    GroupedSwiglu(grouped_swiglu::hopper),
    /// RMS norm, with the residual sum before it where fused.
    RmsNorm(rms_norm::hopper),
    /// Keys and values into their pages.
    KvAppend(kv_append::hopper),
    /// Causal attention of any number of tokens of each sequence.
    AttentionPrefill(attention::hopper::prefill),
    /// Causal attention of one token of each sequence, in splits.
    AttentionDecode(attention::hopper::decode),
    /// The sum of these splits.
    AttentionCombine(attention::hopper::combine),
    /// Row of the table per token.
    Embed(embed::hopper),
    /// RMS norms of the parts of a row.
    SplitRmsNorm(split_rms_norm::hopper),
    /// Depthwise causal convolution.
    CausalConv1d(causal_conv1d::hopper),
    /// The Mamba-1 recurrence.
    SelectiveScan(selective_scan::hopper),
    /// Softmax, the k largest and slots sorted by expert.
    MoeRoute(moe_route::hopper),
    /// Rows of slots, sorted by expert.
    MoeGather(moe_gather::hopper),
    /// Weighted sum of experts.
    MoeCombine(moe_combine::hopper),
    /// Rows whose logits are wanted.
    SelectRows(select_rows::hopper),
    /// Columns of a row.
    Slice(slice::hopper),
    /// silu, softplus, add, mul, swiglu.
    Elementwise(elementwise::hopper),
    /// Softmax over a row.
    Softmax(softmax::hopper),
    /// The k largest of a row.
    TopK(top_k::hopper),
    /// Slots sorted by expert.
    MoePermute(moe_permute::hopper),
    /// The likeliest token of a row.
    SampleArgmax(sample::hopper::argmax),
    /// A token drawn from the likely ones of a row.
    SampleDraw(sample::hopper::draw),
    /// Rows of a synthetic weight.
    SyntheticWeight(synthetic_weight::hopper),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_whole_lines() {
        assert_eq!(row_stride(Elem::F32, 1), 32);
        assert_eq!(row_stride(Elem::Bf16, 64), 64);
        assert_eq!(row_stride(Elem::Bf16, 65), 128);
        assert_eq!(row_stride(Elem::I8, 129), 256);
    }
}
