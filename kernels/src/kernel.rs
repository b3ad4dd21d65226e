//! What a kernel is: a spec (what it computes), the slots of its argument array, its cost, and its MLIR body.
//!
//! Rules that all kernels share:
//! - f32 activations are rows padded to whole vectors ([`padded`]); lanes beyond the last column hold anything and are
//!   never summed over. i32 tables are dense.
//! - every pool has readable slack behind it, so the last vector of a row may be loaded whole;
//! - the work is split over threads inside the kernel, and what one output is summed from, in which order, does not
//!   depend on the split, on the number of rows or on their position: same bits for any batch and any thread count.

use jamba_plan::format::{Blocks, Count, Launch, WeightFormat};
use jambac_graph::Activation;

use crate::hopper;
use crate::{
    attention, causal_conv1d, elementwise, embed, grouped_combine, grouped_linear, grouped_swiglu, kv_append, linear,
    linear_swiglu, moe_combine, moe_permute, moe_route, rms_norm, select_rows, selective_scan, slice, softmax,
    split_linear, split_rms_norm, top_k,
};

pub use crate::hopper::{Swizzle, TensorMap};

/// Lanes of a row's vectors, and outputs in a panel of packed weights.
pub const LANES: usize = 16;

/// Columns rounded up to whole vectors: the distance between rows of f32 activations, in elements.
pub fn padded(cols: usize) -> usize {
    cols.next_multiple_of(LANES)
}

/// The part of a symbol that says what happens to a finished sum.
pub(crate) fn epilogue(bias: bool, activation: Activation) -> String {
    let bias = if bias { "_bias" } else { "" };
    match activation {
        Activation::None => bias.to_owned(),
        other => format!("{bias}_{}", other.name()),
    }
}

/// Element type of a buffer that a kernel reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Elem {
    /// binary32.
    F32,
    /// bfloat16.
    Bf16,
    /// binary16.
    F16,
    /// 32-bit signed integer.
    I32,
    /// Weights of −128 … 127, which a scale of their output multiplies.
    I8,
    /// Weights of −8 … 7, two in a byte, which a scale of their output and group of inputs multiplies.
    I4,
}

/// The element type that kernels read a weight as.
impl From<WeightFormat> for Elem {
    fn from(format: WeightFormat) -> Elem {
        match format {
            WeightFormat::F32 => Elem::F32,
            WeightFormat::Bf16 => Elem::Bf16,
            WeightFormat::F16 => Elem::F16,
            WeightFormat::Int8 => Elem::I8,
            WeightFormat::Int4 => Elem::I4,
        }
    }
}

impl Elem {
    /// Size in bits.
    pub fn bits(self) -> usize {
        match self {
            Elem::F32 | Elem::I32 => 32,
            Elem::Bf16 | Elem::F16 => 16,
            Elem::I8 => 8,
            Elem::I4 => 4,
        }
    }

    /// Size in bytes. Panics for what shares a byte.
    #[track_caller]
    pub fn bytes(self) -> usize {
        assert!(self.bits().is_multiple_of(8), "{} is no number of bytes", self.name());
        self.bits() / 8
    }

    /// The name in symbols.
    pub fn name(self) -> &'static str {
        match self {
            Elem::F32 => "f32",
            Elem::Bf16 => "bf16",
            Elem::F16 => "f16",
            Elem::I32 => "i32",
            Elem::I8 => "i8",
            Elem::I4 => "i4",
        }
    }
}

/// How a kernel uses a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads it.
    Read,
    /// Writes every element that later steps read, and reads none.
    Write,
    /// As `Write`, and may lie over an operand of the same shape: each element is read and written by the same thread, in
    /// that order.
    WriteOver,
    /// Reads and writes it: state.
    ReadWrite,
}

/// One slot of a kernel's argument array.
#[derive(Clone, Debug, PartialEq)]
pub enum Param {
    /// An address.
    Buffer {
        /// What it is.
        name: &'static str,
        /// How it is used.
        access: Access,
        /// Element type.
        elem: Elem,
        /// Extents after the first, which is never stated: `[stride]` for rows, `[]` for a vector.
        inner: Vec<usize>,
    },
    /// An integer.
    Scalar {
        /// What it counts.
        name: &'static str,
    },
    /// The address of an i64, which a kernel of a GPU reads when it runs: captured launches replay with other counts.
    Count {
        /// What it counts.
        name: &'static str,
    },
    /// The address of a tensor map, which describes a matrix to the copy engine of a GPU.
    TensorMap {
        /// What it is.
        name: &'static str,
        /// The matrix, and the pieces that are copied.
        map: TensorMap,
    },
}

impl Param {
    /// A buffer that is read.
    pub fn read(name: &'static str, elem: Elem, inner: &[usize]) -> Param {
        Param::Buffer { name, access: Access::Read, elem, inner: inner.to_vec() }
    }

    /// A buffer that is written.
    pub fn write(name: &'static str, elem: Elem, inner: &[usize]) -> Param {
        Param::Buffer { name, access: Access::Write, elem, inner: inner.to_vec() }
    }

    /// A buffer that is written and may lie over an operand.
    pub fn write_over(name: &'static str, elem: Elem, inner: &[usize]) -> Param {
        Param::Buffer { name, access: Access::WriteOver, elem, inner: inner.to_vec() }
    }

    /// A buffer that is read and written.
    pub fn read_write(name: &'static str, elem: Elem, inner: &[usize]) -> Param {
        Param::Buffer { name, access: Access::ReadWrite, elem, inner: inner.to_vec() }
    }

    /// An integer.
    pub fn scalar(name: &'static str) -> Param {
        Param::Scalar { name }
    }

    /// An integer in memory.
    pub fn count(name: &'static str) -> Param {
        Param::Count { name }
    }

    /// A matrix that is read through a tensor map.
    pub fn tensor_map(name: &'static str, map: TensorMap) -> Param {
        Param::TensorMap { name, map }
    }

    /// What the slot is called, once in a kernel.
    pub fn name(&self) -> &'static str {
        match self {
            Param::Buffer { name, .. }
            | Param::Scalar { name }
            | Param::Count { name }
            | Param::TensorMap { name, .. } => name,
        }
    }

    /// How the slot is used; nothing for an integer.
    pub fn access(&self) -> Option<Access> {
        match self {
            Param::Buffer { access, .. } => Some(*access),
            Param::TensorMap { .. } => Some(Access::Read),
            Param::Scalar { .. } | Param::Count { .. } => None,
        }
    }

    /// The element type of the slot's buffer or matrix; nothing for an integer.
    pub fn elem(&self) -> Option<Elem> {
        match self {
            Param::Buffer { elem, .. } => Some(*elem),
            Param::TensorMap { map, .. } => Some(map.elem),
            Param::Scalar { .. } | Param::Count { .. } => None,
        }
    }
}

/// Sizes of one step, for [`Kernel::cost`].
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// Tokens, all sequences together.
    pub tokens: usize,
    /// Sequences.
    pub sequences: usize,
    /// Rows of logits.
    pub outputs: usize,
    /// Tokens in the KV cache of each sequence.
    pub context: usize,
}

/// The least a kernel can do: what the roofline is drawn from.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Bytes read and written once each.
    pub bytes: f64,
    /// Floating-point operations, a fused multiply-add counting two.
    pub flops: f64,
}

macro_rules! kernels {
    ($($(#[$doc:meta])* $variant:ident($module:ident)),* $(,)?) => {
        /// A kernel with its spec: one of the catalog.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Kernel {
            $($(#[$doc])* $variant($module::Spec),)*
            /// A kernel of sm_90a, of that target's own catalog.
            Sm90(hopper::Kernel),
        }

        impl Kernel {
            /// Every op of the catalog: name and meaning.
            pub const CATALOG: &[&str] = &[$(stringify!($module)),*];

            /// The op's folder in the catalog.
            pub fn op(&self) -> &'static str {
                match self {
                    $(Kernel::$variant(_) => stringify!($module),)*
                    Kernel::Sm90(kernel) => kernel.op(),
                }
            }

            /// The exported symbol; two kernels with the same symbol are the same kernel.
            pub fn symbol(&self) -> String {
                match self {
                    $(Kernel::$variant(spec) => spec.symbol(),)*
                    Kernel::Sm90(kernel) => kernel.symbol(),
                }
            }

            /// The slots of the argument array, in order.
            pub fn params(&self) -> Vec<Param> {
                match self {
                    $(Kernel::$variant(spec) => spec.params(),)*
                    Kernel::Sm90(kernel) => kernel.params(),
                }
            }

            /// Bytes and operations that the kernel cannot do without.
            pub fn cost(&self, counts: Counts) -> Cost {
                match self {
                    $(Kernel::$variant(spec) => spec.cost(counts),)*
                    Kernel::Sm90(kernel) => kernel.cost(counts),
                }
            }

            /// How a GPU launches it; None of a CPU's.
            pub fn launch(&self) -> Option<Launch> {
                match self {
                    Kernel::Sm90(kernel) => Some(kernel.launch()),
                    _ => None,
                }
            }

            /// Writes the body of a CPU's kernel. Panics for one of a GPU, which [`hopper::Kernel::emit`] writes.
            #[cfg(feature = "emit")]
            pub fn emit(&self, b: &crate::cpu::builder::Builder<'_>) {
                match self {
                    $(Kernel::$variant(spec) => $module::cpu::emit(b, spec),)*
                    Kernel::Sm90(kernel) => panic!("{} is no kernel of a CPU", kernel.symbol()),
                }
            }
        }

        $(impl From<$module::Spec> for Kernel {
            fn from(spec: $module::Spec) -> Kernel { Kernel::$variant(spec) }
        })*
    };
}

kernels! {
    /// Row of the table per token.
    Embed(embed),
    /// RMS norm, with the residual sum before it where fused.
    RmsNorm(rms_norm),
    /// RMS norms of the parts of a row.
    SplitRmsNorm(split_rms_norm),
    /// Matrix product with packed weights, bias and activation.
    Linear(linear),
    /// Matrix products of one value, each with a result of its own.
    SplitLinear(split_linear),
    /// Gate and up of a feed-forward, and their product.
    LinearSwiglu(linear_swiglu),
    /// Matrix product of each slot with the weight of its expert.
    GroupedLinear(grouped_linear),
    /// Gate, up and their product of each slot with the weights of its expert.
    GroupedSwiglu(grouped_swiglu),
    /// Weighted sum of each token's experts, from their products.
    GroupedCombine(grouped_combine),
    /// Columns of a row.
    Slice(slice),
    /// silu, softplus, add, mul, swiglu.
    Elementwise(elementwise),
    /// Depthwise causal convolution.
    CausalConv1d(causal_conv1d),
    /// The Mamba-1 recurrence.
    SelectiveScan(selective_scan),
    /// Keys and values into their pages.
    KvAppend(kv_append),
    /// Causal attention over pages.
    Attention(attention),
    /// Softmax over a row.
    Softmax(softmax),
    /// The k largest of a row.
    TopK(top_k),
    /// Slots sorted by expert.
    MoePermute(moe_permute),
    /// Softmax, the k largest and slots sorted by expert.
    MoeRoute(moe_route),
    /// Weighted sum of experts.
    MoeCombine(moe_combine),
    /// Rows whose logits are wanted.
    SelectRows(select_rows),
}

/// What the rows of a kernel are, for its cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rows {
    /// One per token.
    Tokens,
    /// One per row of logits.
    Outputs,
}

impl Rows {
    /// How many there are.
    pub fn count(self, counts: Counts) -> usize {
        match self {
            Rows::Tokens => counts.tokens,
            Rows::Outputs => counts.outputs,
        }
    }

    /// Blocks of a launch in which each does `per_block` rows.
    pub fn blocks(self, per_block: u32) -> Blocks {
        self.blocks_of(1, per_block)
    }

    /// Blocks of a launch in which each does `per_block` pieces of work, of which each row makes `factor`.
    pub fn blocks_of(self, factor: u32, per_block: u32) -> Blocks {
        let count = match self {
            Rows::Tokens => Count::Tokens,
            Rows::Outputs => Count::Outputs,
        };
        Blocks::Of { count, factor, per_block }
    }
}
