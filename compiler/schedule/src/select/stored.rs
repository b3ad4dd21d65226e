//! What a value is stored as between steps.
//!
//! A CPU keeps floats in f32. A GPU keeps what is multiplied by matrices, and what is wide, in bf16, and in f32 what is summed
//! up over layers or feeds an exponential: the readers of a value decide, and have to agree. Element-wise readers take both: where
//! there are no others, what becomes of the value decides.

use jamba_plan::format::TargetKind;
use jambac_graph::{DType, Graph, NodeId, Op, Selection, ValueId};
use jambac_kernels::kernel::Elem;

use crate::states::elem;

/// The element type of a value's buffer.
pub(super) fn stored(graph: &Graph, value: ValueId, kind: TargetKind) -> Result<Elem, String> {
    let dtype = graph.ty(value).dtype;
    match (kind, dtype) {
        (TargetKind::Sm90a, DType::F32) => agreed(graph, value),
        _ => Ok(elem(dtype)),
    }
}

/// What all readers of a value take; f32 where the graph returns it.
fn agreed(graph: &Graph, value: ValueId) -> Result<Elem, String> {
    let mut agreed: Option<(NodeId, Elem)> = None;
    let users = graph.users(value);
    for &(reader, operand) in users.iter().filter(|&&(reader, _)| !takes_any(graph.op(reader))) {
        let taken = match graph.op(reader) {
            Op::SelectRows if operand == 0 => self::agreed(graph, graph.result(reader, 0))?,
            op => takes(op, operand, graph.operands(reader).len()),
        };
        match agreed {
            Some((first, elem)) if elem != taken => {
                let (a, b) = (graph.op(first).name(), graph.op(reader).name());
                return Err(format!("{a} reads a result as {}, and {b} as {}", elem.name(), taken.name()));
            }
            _ => agreed = Some((reader, taken)),
        }
    }
    if let Some((_, elem)) = agreed {
        return Ok(elem);
    }
    for &(reader, _) in &users {
        if self::agreed(graph, graph.result(reader, 0))? == Elem::F32 {
            return Ok(Elem::F32);
        }
    }
    Ok(if users.is_empty() { Elem::F32 } else { Elem::Bf16 })
}

/// Whether the kernels of an op read their operands as whatever they are stored as.
fn takes_any(op: &Op) -> bool {
    matches!(op, Op::Slice { .. } | Op::Silu | Op::Softplus | Op::Add | Op::Mul | Op::Swiglu)
}

/// The element type that the kernels of an op read an operand as.
fn takes(op: &Op, operand: usize, n_operands: usize) -> Elem {
    let multiplied = match op {
        Op::Linear { .. } | Op::SplitLinear { .. } | Op::LinearSwiglu | Op::GroupedLinear | Op::GroupedSwiglu => true,
        Op::GroupedCombine => operand == 0,
        Op::CausalConv1d { .. } | Op::Attention { .. } | Op::KvAppend | Op::AppendAttention { .. } => true,
        Op::SelectiveScan { selection: Selection::Given, gated } => {
            operand == 0 || (*gated && operand + 1 == n_operands)
        }
        _ => false,
    };
    if multiplied { Elem::Bf16 } else { Elem::F32 }
}
