//! The catalog: one line per kernel folder. Nothing else names all operations.

use jamba_plan::format::TargetKind;
use jambac_graph::Op;

use crate::elem::Elem;
use crate::kernel::{Candidate, Config, Kernel, Launch, StepSize, Unsupported};
use crate::node::{Node, Reads, RowsOrder, Select, SelectError, Selected};

macro_rules! catalog {
    (
        ops { $($variant:ident($folder:ident): $($op:literal)|+;)* }
        others { $($other:ident($($path:ident)::+);)* }
    ) => {
        /// The spec of any kernel.
        #[derive(Clone, Debug, PartialEq)]
        pub enum AnySpec {
            $($variant(crate::$folder::Spec),)*
            $($other(crate::$($path)::+::Spec),)*
        }

        impl AnySpec {
            fn kernel(&self) -> &dyn Kernel {
                match self {
                    $(AnySpec::$variant(spec) => spec,)*
                    $(AnySpec::$other(spec) => spec,)*
                }
            }
        }

        $(impl From<crate::$folder::Spec> for AnySpec {
            fn from(spec: crate::$folder::Spec) -> AnySpec { AnySpec::$variant(spec) }
        })*
        $(impl From<crate::$($path)::+::Spec> for AnySpec {
            fn from(spec: crate::$($path)::+::Spec) -> AnySpec { AnySpec::$other(spec) }
        })*

        const FOLDERS: &[Folder] = &[$(Folder {
            ops: &[$($op),+],
            select: <crate::$folder::Spec as Select>::select,
            reads: <crate::$folder::Spec as Select>::reads,
            has_body: <crate::$folder::Spec as Select>::has_body,
            rows_order: <crate::$folder::Spec as Select>::ROWS_ORDER,
        }),*];
    };
}

catalog! {
    ops {
        Embed(embed): "embed";
        RmsNorm(rms_norm): "rms_norm" | "add_rms_norm";
        SplitRmsNorm(split_rms_norm): "split_rms_norm";
        Linear(linear): "linear";
        SplitLinear(split_linear): "split_linear";
        LinearSwiglu(linear_swiglu): "linear_swiglu";
        GroupedLinear(grouped_linear): "grouped_linear";
        GroupedSwiglu(grouped_swiglu): "grouped_swiglu";
        GroupedCombine(grouped_combine): "grouped_combine";
        Slice(slice): "slice";
        Elementwise(elementwise): "silu" | "softplus" | "add" | "mul" | "swiglu";
        CausalConv1d(causal_conv1d): "causal_conv1d";
        SelectiveScan(selective_scan): "selective_scan";
        KvAppend(kv_append): "kv_append";
        Attention(attention): "attention" | "append_attention";
        Softmax(softmax): "softmax";
        TopK(top_k): "top_k";
        MoePermute(moe_permute): "moe_permute";
        MoeRoute(moe_route): "moe_route";
        MoeCombine(moe_combine): "moe_combine";
        SelectRows(select_rows): "select_rows";
    }
    // Kernels that no op of the graph names: a GPU picks tokens and draws synthetic weights.
    others {
        SampleArgmax(sample::hopper::argmax);
        SampleDraw(sample::hopper::draw);
        SyntheticWeight(synthetic_weight);
    }
}

/// What a folder answers for the ops that it computes.
struct Folder {
    ops: &'static [&'static str],
    select: fn(&Node) -> Result<Selected, SelectError>,
    reads: fn(&Op, usize, usize) -> Reads,
    has_body: fn(&Op, TargetKind) -> bool,
    rows_order: RowsOrder,
}

fn folder(op: &Op) -> Option<&'static Folder> {
    FOLDERS.iter().find(|folder| folder.ops.contains(&op.name()))
}

/// Every op of the graph that a kernel computes, by name.
pub fn ops() -> impl Iterator<Item = &'static str> {
    FOLDERS.iter().flat_map(|folder| folder.ops).copied()
}

/// The kernel for a node.
///
/// # Errors
/// An op without kernel; types or operands that its kernel does not take.
pub fn select(node: &Node) -> Result<Selected, SelectError> {
    let folder = folder(node.op()).ok_or_else(|| node.other_op())?;
    if !(folder.has_body)(node.op(), node.target()) {
        let reason = "has no kernel for it: build without the fusion that makes it of others";
        return Err(node.fail(format!("{} {reason}", node.target().name())));
    }
    (folder.select)(node)
}

/// True when the target has a kernel for an op with these attributes.
pub fn has_body(op: &Op, target: TargetKind) -> bool {
    folder(op).is_some_and(|folder| (folder.has_body)(op, target))
}

/// What an op's kernels read an operand as, of `n_operands`.
pub fn reads(op: &Op, operand: usize, n_operands: usize, target: TargetKind) -> Reads {
    match (target, folder(op)) {
        (TargetKind::Sm90a, Some(folder)) => (folder.reads)(op, operand, n_operands),
        // CPUs keep all activations in f32.
        _ => Reads::As(Elem::F32),
    }
}

/// The order of the rows of an op's first result.
pub fn rows_order(op: &Op) -> RowsOrder {
    folder(op).map_or(RowsOrder::Tokens, |folder| folder.rows_order)
}

impl Kernel for AnySpec {
    fn supports(&self, target: TargetKind) -> Result<(), Unsupported> {
        self.kernel().supports(target)
    }

    fn configs(&self, target: TargetKind, step: &StepSize) -> Vec<Candidate> {
        self.kernel().configs(target, step)
    }

    fn lower(&self, target: TargetKind, config: Config) -> Vec<Launch> {
        self.kernel().lower(target, config)
    }
}
