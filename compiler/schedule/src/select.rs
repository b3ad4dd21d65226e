//! Node → kernel, and what fills each slot of its argument array.
//!
//! Kernels name their slots; a node binds a value to every name, so that the order of slots is the kernel's own affair.
//! What the steps need of the graph is all here: later phases see steps and buffers alone.

use std::collections::BTreeMap;

use jamba_plan::format::{Arg, Limits};
use jambac_graph::{DType, Dim, Graph, NodeId, Symbol, Type, ValueId};
use jambac_kernels::kernel::{Access, Elem, Kernel, Param, padded};

use crate::ScheduleError;
use crate::states::{StateLayout, elem};
use crate::weights::Weights;

mod node;

/// Index of a buffer of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BufferId(pub(crate) usize);

/// What fills a slot of an argument array before the arena is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// The address of a buffer.
    Buffer(BufferId),
    /// Anything else, which is final.
    Final(Arg),
}

/// A step before the arena is planned.
#[derive(Debug)]
pub(crate) struct DraftStep {
    pub(crate) kernel: Kernel,
    pub(crate) slots: Vec<Slot>,
    /// How the kernel uses each slot.
    pub(crate) accesses: Vec<Option<Access>>,
    pub(crate) source: String,
}

impl DraftStep {
    /// The buffers that the step uses so.
    pub(crate) fn buffers(&self, access: Access) -> impl Iterator<Item = BufferId> {
        self.slots.iter().zip(&self.accesses).filter_map(move |(&slot, &found)| match slot {
            Slot::Buffer(id) if found == Some(access) => Some(id),
            _ => None,
        })
    }
}

/// A buffer before it has a place.
#[derive(Debug)]
pub(crate) struct DraftBuffer {
    pub(crate) bytes: u64,
    pub(crate) elem: Elem,
}

/// The steps of one entry before the arena is planned.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) steps: Vec<DraftStep>,
    pub(crate) buffers: Vec<DraftBuffer>,
    /// The buffer that holds the logits, and how many a row has.
    pub(crate) logits: (BufferId, usize),
}

/// The largest step of an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extents {
    pub(crate) tokens: u64,
    pub(crate) sequences: u64,
    pub(crate) outputs: u64,
}

/// What selection reads and fills beside the graph.
pub(crate) struct Context<'a> {
    pub(crate) extents: Extents,
    pub(crate) limits: &'a Limits,
    pub(crate) states: &'a StateLayout,
    pub(crate) weights: &'a mut Weights,
}

/// Picks a kernel for every node of a verified graph, in the given order.
pub(crate) fn select(graph: &Graph, order: &[NodeId], context: &mut Context) -> Result<Draft, ScheduleError> {
    let mut steps = Vec::with_capacity(order.len());
    let mut buffers = Vec::new();
    let mut buffer_of = BTreeMap::new();
    for &node in order {
        for (result, ty) in graph.node(node).results.iter().enumerate() {
            // The next state lies where the old one was.
            if graph.op(node).state().is_none_or(|state| state.result != result) {
                let bytes = buffer_bytes(ty, context.extents).map_err(|reason| unsupported(graph, node, reason))?;
                buffer_of.insert(ValueId { node, result }, BufferId(buffers.len()));
                buffers.push(DraftBuffer { bytes, elem: elem(ty.dtype) });
            }
        }
        let operands = graph.operands(node);
        let mut view = node::View { graph, node, operands, buffer_of: &buffer_of, buffers: &mut buffers, context };
        let (kernel, bound) = view.kernel()?;
        let params = kernel.params();
        let slots = fill(&params, bound).map_err(|reason| unsupported(graph, node, reason))?;
        let accesses = params.iter().map(Param::access).collect();
        steps.push(DraftStep { kernel, slots, accesses, source: graph.node(node).source.clone() });
    }
    let entry_error = |found: String| ScheduleError::Entry {
        entry: graph.name.clone(),
        what: "output logits".into(),
        found,
        expected: "f32[outputs, vocab], the result of a step".into(),
    };
    let logits = *graph.outputs().get("logits").ok_or_else(|| entry_error("absent".into()))?;
    let buffer = buffer_of.get(&logits).ok_or_else(|| entry_error(graph.op(logits.node).name().into()))?;
    let n = graph.ty(logits).cols().ok_or_else(|| entry_error(graph.ty(logits).to_string()))?;
    Ok(Draft { steps, buffers, logits: (*buffer, n) })
}

/// What fills slots, by their names.
type Bound = Vec<(&'static str, Slot)>;

/// Puts what is bound into the order of the kernel's slots. Where a weight has scales, they are the weight right before it.
fn fill(params: &[Param], bound: Bound) -> Result<Vec<Slot>, String> {
    let mut bound: BTreeMap<&str, Slot> = bound.into_iter().collect();
    if let (true, Some(&Slot::Final(Arg::Weight(index)))) =
        (params.iter().any(|param| param.name() == "scales"), bound.get("weight"))
    {
        let scales = index.checked_sub(1).ok_or("weight 0 has no scales before it")?;
        bound.insert("scales", Slot::Final(Arg::Weight(scales)));
    }
    let slot = |param: &Param| bound.remove(param.name()).ok_or_else(|| format!("nothing fills slot {}", param.name()));
    let slots = params.iter().map(slot).collect::<Result<Vec<_>, _>>()?;
    match bound.keys().next() {
        Some(name) => Err(format!("the kernel has no slot {name}")),
        None => Ok(slots),
    }
}

fn unsupported(graph: &Graph, node: NodeId, reason: String) -> ScheduleError {
    ScheduleError::Unsupported { place: graph.node(node).source.clone(), op: graph.op(node).name(), reason }
}

/// Bytes that the largest step needs for a value: f32 rows padded to whole vectors, i32 dense.
fn buffer_bytes(ty: &Type, extents: Extents) -> Result<u64, String> {
    let (leading, cols) = match (&ty.shape[..], ty.dtype) {
        ([leading @ .., Dim::Fixed(cols)], DType::F32) => (leading, padded(*cols)),
        (shape, DType::I32) => (shape, 1),
        _ => return Err(format!("a result is {ty}, expected f32 rows of a fixed number of columns or i32")),
    };
    let mut bytes = Some(cols as u64 * ty.dtype.bytes() as u64);
    for dim in leading {
        let extent = match dim {
            Dim::Fixed(n) => *n as u64,
            Dim::Symbol(Symbol::Tokens) => extents.tokens,
            Dim::Symbol(Symbol::Sequences) => extents.sequences,
            Dim::Symbol(Symbol::Outputs) => extents.outputs,
            Dim::Symbol(Symbol::Context) => return Err(format!("a result is {ty}, expected rows of one step")),
        };
        bytes = bytes.and_then(|bytes| bytes.checked_mul(extent));
    }
    bytes.filter(|&bytes| bytes <= MAX_BUFFER_BYTES).ok_or_else(|| format!("a result, {ty}, is too large"))
}

/// Larger buffers are refused, so that sums of all of them stay numbers: a petabyte.
const MAX_BUFFER_BYTES: u64 = 1 << 50;

#[cfg(test)]
mod tests;
