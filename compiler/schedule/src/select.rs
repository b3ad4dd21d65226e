//! Node → kernel, and what fills each slot of its argument array.
//!
//! Kernels name their slots; a node binds a value to every name, so that the order of slots is the kernel's own affair.
//! What the steps need of the graph is all here: later phases see steps and buffers alone.

use std::collections::BTreeMap;

use jamba_plan::format::{Arg, Count, Limits, Table};
use jamba_plan::tables;
use jambac_graph::infer::operand_names;
use jambac_graph::{DType, Dim, Graph, NodeId, Op, Symbol, Type, ValueId};
use jambac_kernels::kernel::{Elem, Kernel, LANES, Rows, padded};
use jambac_kernels::{
    attention, causal_conv1d, elementwise, elementwise::Function, embed, grouped_linear, kv_append, linear,
    moe_combine, moe_permute, rms_norm, select_rows, selective_scan, slice, softmax, top_k,
};

use crate::ScheduleError;
use crate::states::{StateLayout, StateRegion, elem};
use crate::weights::{self, Use, Weights};

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
    pub(crate) source: String,
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
        let mut view = View { graph, node, operands: graph.operands(node), buffer_of: &buffer_of, context };
        let (kernel, bound) = view.kernel()?;
        let slots = fill(&kernel, bound).map_err(|reason| unsupported(graph, node, reason))?;
        steps.push(DraftStep { kernel, slots, source: graph.node(node).source.clone() });
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

/// Puts what is bound into the order of the kernel's slots.
fn fill(kernel: &Kernel, bound: Vec<(&'static str, Slot)>) -> Result<Vec<Slot>, String> {
    let mut bound: BTreeMap<&str, Slot> = bound.into_iter().collect();
    let params = kernel.params();
    let slots = params.iter().map(|param| {
        bound.remove(param.name()).ok_or_else(|| format!("nothing for slot {} of {}", param.name(), kernel.symbol()))
    });
    let slots = slots.collect::<Result<Vec<_>, _>>()?;
    match bound.keys().next() {
        Some(name) => Err(format!("{} has no slot {name}", kernel.symbol())),
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

/// A node and what it can be bound to.
struct View<'a, 'c> {
    graph: &'a Graph,
    node: NodeId,
    operands: Vec<ValueId>,
    buffer_of: &'a BTreeMap<ValueId, BufferId>,
    context: &'a mut Context<'c>,
}

type Bound = Vec<(&'static str, Slot)>;

impl View<'_, '_> {
    /// The kernel, and a value for each of its slots by name.
    fn kernel(&mut self) -> Result<(Kernel, Bound), ScheduleError> {
        let graph = self.graph;
        match graph.op(self.node) {
            Op::Input { .. } | Op::Parameter { .. } | Op::State { .. } => {
                Err(self.fail("a source is not a step".into()))
            }
            Op::Embed => {
                let (table, format, lanes) = self.weight(1, Use::Embedding)?;
                let spec = embed::Spec { d_model: self.result_cols(0)?, format, lanes };
                let ids = self.table(0, Table::Ids)?;
                self.bind(spec, [("ids", ids), ("table", table), ("out", self.result(0)), ("tokens", self.tokens(0)?)])
            }
            &Op::RmsNorm { eps } => {
                let (rows, count) = self.rows()?;
                let spec = rms_norm::Spec { cols: self.result_cols(0)?, eps, residual: false, rows };
                let (weight, ..) = self.weight(1, Use::Vector)?;
                self.bind(spec, [("a", self.buffer(0)?), ("weight", weight), ("out", self.result(0)), ("rows", count)])
            }
            &Op::AddRmsNorm { eps } => {
                let (rows, count) = self.rows()?;
                let spec = rms_norm::Spec { cols: self.result_cols(0)?, eps, residual: true, rows };
                let (weight, ..) = self.weight(2, Use::Vector)?;
                let operands = [("a", self.buffer(0)?), ("b", self.buffer(1)?), ("weight", weight)];
                let results = [("sum", self.result(0)), ("out", self.result(1)), ("rows", count)];
                self.bind(spec, operands.into_iter().chain(results))
            }
            &Op::Linear { activation } => {
                let (rows, count) = self.rows()?;
                let (weight, format, _) = self.weight(1, Use::Linear)?;
                let bias = if self.operands.len() > 2 { Some(("bias", self.weight(2, Use::Vector)?.0)) } else { None };
                let (n, k) = (self.result_cols(0)?, self.operand_cols(0)?);
                let spec = linear::Spec { n, k, format, bias: bias.is_some(), activation, rows };
                let always = [("x", self.buffer(0)?), ("weight", weight), ("out", self.result(0)), ("rows", count)];
                self.bind(spec, always.into_iter().chain(bias))
            }
            &Op::Slice { start, len } => {
                let spec = slice::Spec { cols: self.operand_cols(0)?, start, len };
                self.bind(spec, [("x", self.buffer(0)?), ("out", self.result(0)), ("rows", self.rows()?.1)])
            }
            Op::Silu => self.elementwise(Function::Silu),
            Op::Softplus => self.elementwise(Function::Softplus),
            Op::Add => self.elementwise(Function::Add),
            Op::Mul if self.operand_ty(1).shape.len() < self.operand_ty(0).shape.len() => {
                self.elementwise(Function::MulRow)
            }
            Op::Mul => self.elementwise(Function::Mul),
            Op::Swiglu => self.elementwise(Function::Swiglu),
            &Op::CausalConv1d { bias, activation } => {
                let (channels, taps) = (self.result_cols(0)?, self.dim(self.operand_ty(1), 2)?);
                let spec = causal_conv1d::Spec { channels, taps, bias, activation };
                let (weight, ..) = self.weight(1, Use::Taps)?;
                let bias = if bias { Some(("bias", self.weight(2, Use::Vector)?.0)) } else { None };
                let own = [("u", self.buffer(0)?), ("weight", weight), ("y", self.result(0))];
                self.bind(spec, own.into_iter().chain(bias).chain(self.sequences()?))
            }
            op @ (Op::SelectiveScan | Op::GatedSelectiveScan) => {
                let gated = *op == Op::GatedSelectiveScan;
                let (channels, d_state) = (self.result_cols(0)?, self.operand_cols(3)?);
                let spec = selective_scan::Spec { channels, d_state, gated };
                let (a, ..) = self.weight(2, Use::DecayRates)?;
                let mut bound = vec![("dt", self.buffer(0)?), ("u", self.buffer(1)?), ("a", a)];
                bound.extend([("b", self.buffer(3)?), ("c", self.buffer(4)?), ("y", self.result(0))]);
                if gated {
                    bound.extend([("d", self.weight(6, Use::Vector)?.0), ("z", self.buffer(7)?)]);
                }
                self.bind(spec, bound.into_iter().chain(self.sequences()?))
            }
            Op::KvAppend => {
                let cache = self.operand_ty(0);
                let (n_kv_heads, d_head) = (self.dim(cache, 3)?, self.dim(cache, 4)?);
                let spec = kv_append::Spec { n_kv_heads, d_head, format: elem(cache.dtype) };
                let own = [("k", self.buffer(1)?), ("v", self.buffer(2)?), ("tokens", self.tokens(1)?)];
                self.bind(spec, own.into_iter().chain(self.pages(0)?))
            }
            &Op::Attention { n_heads, scale } => {
                let cache = self.operand_ty(1);
                let (n_kv_heads, d_head) = (self.dim(cache, 3)?, self.dim(cache, 4)?);
                let spec = attention::Spec { n_heads, n_kv_heads, d_head, scale, format: elem(cache.dtype) };
                let own = [("q", self.buffer(0)?), ("out", self.result(0)), ("tokens", self.tokens(0)?)];
                self.bind(spec, own.into_iter().chain(self.pages(1)?))
            }
            Op::Softmax => {
                let spec = softmax::Spec { cols: self.result_cols(0)? };
                self.bind(spec, [("x", self.buffer(0)?), ("out", self.result(0)), ("rows", self.rows()?.1)])
            }
            &Op::TopK { k } => {
                let spec = top_k::Spec { cols: self.operand_cols(0)?, k };
                let results = [("weights", self.result(0)), ("experts", self.result(1)), ("rows", self.rows()?.1)];
                self.bind(spec, [("p", self.buffer(0)?)].into_iter().chain(results))
            }
            &Op::MoePermute { n_experts } => {
                let spec = moe_permute::Spec { n_experts, top_k: self.operand_cols(0)? };
                let results = [("slots", self.result(0)), ("offsets", self.result(1)), ("tokens", self.tokens(0)?)];
                self.bind(spec, [("experts", self.buffer(0)?)].into_iter().chain(results))
            }
            Op::GroupedLinear => {
                let (weight, format, _) = self.weight(1, Use::Experts)?;
                let (n, k, top_k) = (self.result_cols(0)?, self.operand_cols(0)?, self.operand_cols(2)?);
                let n_experts = self.dim(self.operand_ty(1), 0)?;
                let slots_per_row = if self.operand_ty(0).shape.len() == 2 { top_k } else { 1 };
                let spec = grouped_linear::Spec { n_experts, n, k, format, slots_per_row, top_k };
                let routing = [("slots", self.buffer(2)?), ("offsets", self.buffer(3)?), ("out", self.result(0))];
                self.bind(spec, [("x", self.buffer(0)?), ("weight", weight)].into_iter().chain(routing))
            }
            Op::MoeCombine => {
                let spec = moe_combine::Spec { cols: self.result_cols(0)?, top_k: self.operand_cols(1)? };
                let operands = [("y", self.buffer(0)?), ("weights", self.buffer(1)?)];
                self.bind(spec, operands.into_iter().chain([("out", self.result(0)), ("tokens", self.tokens(0)?)]))
            }
            Op::SelectRows => {
                let spec = select_rows::Spec { cols: self.result_cols(0)? };
                let operands = [("x", self.buffer(0)?), ("rows", self.table(1, Table::Rows)?)];
                let (rows, count) = self.rows()?;
                if rows != Rows::Outputs {
                    return Err(self.fail(format!("result is {}, expected f32[outputs, …]", self.result_ty(0))));
                }
                self.bind(spec, operands.into_iter().chain([("out", self.result(0)), ("outputs", count)]))
            }
        }
    }

    fn elementwise(&mut self, function: Function) -> Result<(Kernel, Bound), ScheduleError> {
        let rows_per_token = match self.result_ty(0).shape[..] {
            [_, Dim::Fixed(per_token), _] => per_token,
            _ => 1,
        };
        let spec = elementwise::Spec { function, cols: self.result_cols(0)?, rows_per_token };
        let b = match function {
            Function::Silu | Function::Softplus => None,
            Function::Add | Function::Mul | Function::Swiglu => Some(("b", self.buffer(1)?)),
            Function::MulRow => Some(("b", self.weight(1, Use::Vector)?.0)),
        };
        let always = [("a", self.buffer(0)?), ("out", self.result(0)), ("rows", self.rows()?.1)];
        self.bind(spec, always.into_iter().chain(b))
    }

    fn bind(
        &self,
        spec: impl Into<Kernel>,
        bound: impl IntoIterator<Item = (&'static str, Slot)>,
    ) -> Result<(Kernel, Bound), ScheduleError> {
        Ok((spec.into(), bound.into_iter().collect()))
    }

    fn fail(&self, reason: String) -> ScheduleError {
        unsupported(self.graph, self.node, reason)
    }

    fn operand_ty(&self, operand: usize) -> &Type {
        self.graph.ty(self.operands[operand])
    }

    fn result_ty(&self, result: usize) -> &Type {
        &self.graph.node(self.node).results[result]
    }

    /// What an operand is called, and what it is instead of what was expected.
    fn fail_operand(&self, operand: usize, expected: &str) -> ScheduleError {
        let types: Vec<&Type> = self.operands.iter().map(|&value| self.graph.ty(value)).collect();
        let name = operand_names(self.graph.op(self.node), &types)[operand];
        let op = self.graph.op(self.operands[operand].node);
        let found = match op.source_name() {
            Some(source) => format!("{} {source}", op.name()),
            None => format!("a result of {}", op.name()),
        };
        self.fail(format!("operand {name} is {found}, expected {expected}"))
    }

    fn dim(&self, ty: &Type, dim: usize) -> Result<usize, ScheduleError> {
        let size = ty.shape.get(dim).and_then(|dim| dim.fixed());
        size.ok_or_else(|| self.fail(format!("dimension {dim} of {ty} is not fixed")))
    }

    fn operand_cols(&self, operand: usize) -> Result<usize, ScheduleError> {
        let ty = self.operand_ty(operand);
        self.dim(ty, ty.shape.len().saturating_sub(1))
    }

    fn result_cols(&self, result: usize) -> Result<usize, ScheduleError> {
        let ty = self.result_ty(result);
        self.dim(ty, ty.shape.len().saturating_sub(1))
    }

    /// An operand that an earlier step computed.
    fn buffer(&self, operand: usize) -> Result<Slot, ScheduleError> {
        let buffer = self.buffer_of.get(&self.operands[operand]);
        buffer.map(|&id| Slot::Buffer(id)).ok_or_else(|| self.fail_operand(operand, "the result of a step"))
    }

    /// A result, which has a buffer because it is not a state.
    fn result(&self, result: usize) -> Slot {
        Slot::Buffer(self.buffer_of[&ValueId { node: self.node, result }])
    }

    /// A parameter: its weight, stored type and lanes.
    fn weight(&mut self, operand: usize, use_: Use) -> Result<(Slot, Elem, usize), ScheduleError> {
        let Op::Parameter { name, ty } = self.graph.op(self.operands[operand].node) else {
            return Err(self.fail_operand(operand, "a parameter"));
        };
        let index = self.context.weights.add(name, ty, use_)?;
        let weight = &self.context.weights.planned[index];
        let lanes = if weight.layout.lanes == 1 { 1 } else { LANES };
        Ok((Slot::Final(Arg::Weight(index as u32)), weights::elem(weight.format), lanes))
    }

    /// An input of the entry, which is a step table.
    fn table(&self, operand: usize, table: Table) -> Result<Slot, ScheduleError> {
        match self.graph.op(self.operands[operand].node) {
            Op::Input { name, .. } if name == table.name() => Ok(Slot::Final(Arg::Table(table))),
            _ => Err(self.fail_operand(operand, &format!("input {}", table.name()))),
        }
    }

    /// What the rows of the first result are, and how many a step has.
    fn rows(&self) -> Result<(Rows, Slot), ScheduleError> {
        let ty = self.result_ty(0);
        let (rows, count, per_row) = match ty.shape[..] {
            [Dim::Symbol(Symbol::Tokens), _] => (Rows::Tokens, Count::Tokens, 1),
            [Dim::Symbol(Symbol::Outputs), _] => (Rows::Outputs, Count::Outputs, 1),
            [Dim::Symbol(Symbol::Tokens), Dim::Fixed(per_token), _] => (Rows::Tokens, Count::Tokens, per_token),
            _ => return Err(self.fail(format!("result is {ty}, expected rows per token or output"))),
        };
        let per_row = u32::try_from(per_row).map_err(|_| self.fail(format!("{per_row} rows per token is too many")))?;
        Ok((rows, Slot::Final(Arg::Count(count, per_row))))
    }

    /// The number of tokens, of an operand that has a row per token.
    fn tokens(&self, operand: usize) -> Result<Slot, ScheduleError> {
        let ty = self.operand_ty(operand);
        match ty.shape.first() {
            Some(Dim::Symbol(Symbol::Tokens)) => Ok(Slot::Final(Arg::Count(Count::Tokens, 1))),
            _ => Err(self.fail(format!("operand {operand} is {ty}, expected a row per token"))),
        }
    }

    /// The region of a state: what the state operand is, or what it was before this entry's kv_append.
    fn region(&self, operand: usize) -> Result<&StateRegion, ScheduleError> {
        let mut value = self.operands[operand];
        if let Some(state) = self.graph.op(value.node).state() {
            value = self.graph.operands(value.node)[state.operand];
        }
        let name = self.graph.op(value.node).source_name();
        let region = name.and_then(|name| self.context.states.region(name));
        region.ok_or_else(|| self.fail_operand(operand, "a state"))
    }

    /// What kernels with a slot of state share.
    fn sequences(&self) -> Result<[(&'static str, Slot); 5], ScheduleError> {
        let state = self.graph.op(self.node).state().map(|state| state.operand);
        let region = self.region(state.ok_or_else(|| self.fail("it has no state".into()))?)?;
        let slot_stride = self.context.states.slot_bytes / region.elem.bytes() as u64;
        Ok([
            ("state", Slot::Final(Arg::State(region.offset))),
            ("starts", Slot::Final(Arg::Table(Table::Starts))),
            ("slots", Slot::Final(Arg::Table(Table::Slots))),
            ("sequences", Slot::Final(Arg::Count(Count::Sequences, 1))),
            ("slot_stride", Slot::Final(Arg::Constant(slot_stride))),
        ])
    }

    /// What kernels of paged keys and values share.
    fn pages(&self, cache: usize) -> Result<[(&'static str, Slot); 7], ScheduleError> {
        let region = self.region(cache)?;
        let page_stride = self.context.states.page_bytes / region.elem.bytes() as u64;
        let pages_per_sequence = tables::pages_per_sequence(self.context.limits);
        Ok([
            ("cache", Slot::Final(Arg::Kv(region.offset))),
            ("sequence_of", Slot::Final(Arg::Table(Table::SequenceOf))),
            ("starts", Slot::Final(Arg::Table(Table::Starts))),
            ("past", Slot::Final(Arg::Table(Table::Past))),
            ("pages", Slot::Final(Arg::Table(Table::Pages))),
            ("page_stride", Slot::Final(Arg::Constant(page_stride))),
            ("pages_per_sequence", Slot::Final(Arg::Constant(pages_per_sequence))),
        ])
    }
}
