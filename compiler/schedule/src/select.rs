//! Node → kernel, and what fills each slot of its argument array.
//!
//! Kernels name their slots; a node binds a value to every name, so that the order of slots is the kernel's own affair.
//! What the steps need of the graph is all here: later phases see steps and buffers alone.

use std::collections::BTreeMap;

use jamba_plan::format::{Arg, EntryKind, Limits, TargetKind};
use jambac_graph::{DType, Dim, Graph, NodeId, Op, Symbol, Type, ValueId};
use jambac_kernels::hopper;
use jambac_kernels::kernel::{Access, Elem, Kernel, Param, padded};

use crate::ScheduleError;
use crate::states::StateLayout;
use crate::weights::Weights;
use stored::stored;

mod node;
mod picks;
mod stored;

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
    pub(crate) kind: TargetKind,
    pub(crate) steps: Vec<DraftStep>,
    pub(crate) buffers: Vec<DraftBuffer>,
    /// The buffer that holds the logits, and how many a row has.
    pub(crate) logits: (BufferId, usize),
    /// The buffers of the tokens that the last two steps pick, on a GPU.
    pub(crate) picks: Option<[BufferId; 2]>,
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
    pub(crate) kind: TargetKind,
    pub(crate) entry: EntryKind,
    pub(crate) extents: Extents,
    pub(crate) limits: &'a Limits,
    pub(crate) states: &'a StateLayout,
    pub(crate) weights: &'a mut Weights,
}

/// Picks kernels for every node of a verified graph, in the given order: one on a CPU, one or two on a GPU.
pub(crate) fn select(graph: &Graph, order: &[NodeId], context: &mut Context) -> Result<Draft, ScheduleError> {
    let kind = context.kind;
    let mut steps = Vec::with_capacity(order.len());
    let mut buffers: Vec<DraftBuffer> = Vec::new();
    let mut buffer_of = BTreeMap::new();
    for &node in order {
        for (result, ty) in graph.node(node).results.iter().enumerate() {
            // The next state lies where the old one was.
            if graph.op(node).state().is_none_or(|state| state.result != result) {
                let value = ValueId { node, result };
                let buffer = stored(graph, value, kind).and_then(|elem| {
                    let bytes = buffer_bytes(ty, elem, context)? * words_per_element(graph, value, kind);
                    Ok(DraftBuffer { bytes, elem })
                });
                buffer_of.insert(value, BufferId(buffers.len()));
                buffers.push(buffer.map_err(|reason| unsupported(graph, node, reason))?);
            }
        }
        let operands = graph.operands(node);
        let mut view = node::View { graph, node, operands, buffer_of: &buffer_of, buffers: &mut buffers, context };
        let kernels = match kind {
            TargetKind::Cpu => vec![view.kernel()?],
            TargetKind::Sm90a => view.sm90_kernels()?,
        };
        for (kernel, bound) in kernels {
            let params = kernel.params();
            let slots = fill(&params, bound)
                .and_then(|slots| check_elems(&params, &slots, &buffers).map(|()| slots))
                .map_err(|reason| unsupported(graph, node, reason))?;
            let accesses = params.iter().map(Param::access).collect();
            steps.push(DraftStep { kernel, slots, accesses, source: graph.node(node).source.clone() });
        }
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
    let mut draft = Draft { kind, steps, buffers, logits: (*buffer, n), picks: None };
    if kind == TargetKind::Sm90a {
        picks::add(&mut draft, context.extents.outputs)?;
    }
    Ok(draft)
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
    // The map of a matrix is bound by the matrix: `x_map` by `x`.
    let name = |param: &Param| match param {
        Param::TensorMap { name, .. } => name.strip_suffix("_map").unwrap_or(name),
        _ => param.name(),
    };
    let slot = |param: &Param| bound.remove(name(param)).ok_or_else(|| format!("nothing fills slot {}", param.name()));
    let slots = params.iter().map(slot).collect::<Result<Vec<_>, _>>()?;
    match bound.keys().next() {
        Some(name) => Err(format!("the kernel has no slot {name}")),
        None => Ok(slots),
    }
}

/// Values are stored as their kernels take them.
fn check_elems(params: &[Param], slots: &[Slot], buffers: &[DraftBuffer]) -> Result<(), String> {
    for (param, slot) in params.iter().zip(slots) {
        if let (Slot::Buffer(id), Some(takes)) = (slot, param.elem())
            && takes != buffers[id.0].elem
        {
            let (name, found) = (param.name(), buffers[id.0].elem.name());
            return Err(format!("slot {name} is a value stored as {found}, expected {}", takes.name()));
        }
    }
    Ok(())
}

fn unsupported(graph: &Graph, node: NodeId, reason: String) -> ScheduleError {
    ScheduleError::Unsupported { place: graph.node(node).source.clone(), op: graph.op(node).name(), reason }
}

/// Distance between rows of activations, in elements: whole vectors of a CPU, whole lines of a GPU's memory.
pub(crate) fn row_elements(kind: TargetKind, elem: Elem, cols: usize) -> usize {
    match kind {
        TargetKind::Cpu => padded(cols),
        TargetKind::Sm90a => hopper::row_stride(elem, cols),
    }
}

/// Words for each element of a value: a GPU keeps the place of each slot beside the slot at each place.
fn words_per_element(graph: &Graph, value: ValueId, kind: TargetKind) -> u64 {
    let is_slots = match graph.op(value.node) {
        Op::MoeRoute { .. } => value.result == 1,
        Op::MoePermute { .. } => value.result == 0,
        _ => false,
    };
    if is_slots && kind == TargetKind::Sm90a { 2 } else { 1 }
}

/// Bytes that the largest step needs for a value: padded rows of floats, i32 dense.
fn buffer_bytes(ty: &Type, stored: Elem, context: &Context) -> Result<u64, String> {
    let (leading, cols) = match (&ty.shape[..], ty.dtype) {
        ([leading @ .., Dim::Fixed(cols)], DType::F32) => (leading, row_elements(context.kind, stored, *cols)),
        (shape, DType::I32) => (shape, 1),
        _ => return Err(format!("a result is {ty}, expected f32 rows of a fixed number of columns or i32")),
    };
    let extents = context.extents;
    let mut bytes = Some((cols * stored.bytes()) as u64);
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
