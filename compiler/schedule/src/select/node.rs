//! One node → its kernel, and a value for each of the kernel's slots by name.

use std::collections::BTreeMap;

use jamba_plan::format::{Arg, Count, PartOrder, Table};
use jamba_plan::tables;
use jambac_graph::infer::operand_names;
use jambac_graph::{DType, Dim, Graph, NodeId, Op, Symbol, Type, ValueId};
use jambac_kernels::kernel::{Kernel, Rows};
use jambac_kernels::{
    attention, causal_conv1d, elementwise, elementwise::Function, embed, grouped_combine, grouped_linear,
    grouped_swiglu, kv_append, linear, linear_swiglu, moe_combine, moe_permute, moe_route, rms_norm, select_rows,
    slice, softmax, split_linear, split_rms_norm, top_k,
};

use super::{Bound, BufferId, Context, DraftBuffer, Slot, buffer_bytes, unsupported};
use crate::ScheduleError;
use crate::states::{StateRegion, elem};
use crate::weights::Use;

mod scan;
mod sm90;
mod weight;

use weight::WeightRows;

/// A node and what it can be bound to.
pub(super) struct View<'a, 'c> {
    pub(super) graph: &'a Graph,
    pub(super) node: NodeId,
    pub(super) operands: Vec<ValueId>,
    pub(super) buffer_of: &'a BTreeMap<ValueId, BufferId>,
    /// Where a kernel's workspace joins the others.
    pub(super) buffers: &'a mut Vec<DraftBuffer>,
    pub(super) context: &'a mut Context<'c>,
}

impl View<'_, '_> {
    /// The kernel, and a value for each of its slots by name.
    pub(super) fn kernel(&mut self) -> Result<(Kernel, Bound), ScheduleError> {
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
            &Op::SplitRmsNorm { eps } => {
                let (rows, count) = self.rows()?;
                let parts =
                    (0..self.operands.len() - 1).map(|part| self.result_cols(part)).collect::<Result<_, _>>()?;
                let spec = split_rms_norm::Spec { parts, eps, rows };
                let mut bound = vec![("x", self.buffer(0)?), ("rows", count)];
                for (part, &(weight, out)) in spec.slots().iter().enumerate() {
                    bound.extend([(weight, self.weight(1 + part, Use::Vector)?.0), (out, self.result(part))]);
                }
                self.bind(spec, bound)
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
            Op::SplitLinear { sizes } => {
                let (rows, count) = self.rows()?;
                let (weight, format) = self.split_weight(sizes)?;
                let spec = split_linear::Spec { sizes: sizes.clone(), k: self.operand_cols(0)?, format, rows };
                let results =
                    split_linear::OUTS.into_iter().zip(0..sizes.len()).map(|(name, n)| (name, self.result(n)));
                let always = [("x", self.buffer(0)?), ("weight", weight), ("rows", count)];
                let bound: Bound = always.into_iter().chain(results).collect();
                self.bind(spec, bound)
            }
            Op::LinearSwiglu => {
                let (rows, count) = self.rows()?;
                let parts = [1, 2].map(|operand| WeightRows { operand, first_row: 0, rows: None });
                let (weight, format) = self.weight_of(&parts, PartOrder::Interleaved, Use::Linear)?;
                let spec = linear_swiglu::Spec { n: self.result_cols(0)?, k: self.operand_cols(0)?, format, rows };
                self.bind(spec, [("x", self.buffer(0)?), ("weight", weight), ("out", self.result(0)), ("rows", count)])
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
                let starts = ("starts", Slot::Final(Arg::Table(Table::Starts)));
                let sequences = ("sequences", Slot::Final(Arg::Count(Count::Sequences, 1)));
                self.bind(spec, own.into_iter().chain(bias).chain([starts, sequences]).chain(self.state_slot()?))
            }
            &Op::SelectiveScan { selection, gated } => self.scan(selection, gated),
            Op::KvAppend => {
                let cache = self.operand_ty(0);
                let (n_kv_heads, d_head) = (self.dim(cache, 3)?, self.dim(cache, 4)?);
                let spec = kv_append::Spec { n_kv_heads, d_head, format: elem(cache.dtype) };
                let own = [("k", self.buffer(1)?), ("v", self.buffer(2)?), ("tokens", self.tokens(1)?)];
                self.bind(spec, own.into_iter().chain(self.pages(0)?))
            }
            &Op::Attention { n_heads, scale } => {
                let spec = self.attention(1, n_heads, scale)?;
                let own = [("q", self.buffer(0)?), ("out", self.result(0)), ("tokens", self.tokens(0)?)];
                self.bind(spec, own.into_iter().chain(self.pages(1)?))
            }
            &Op::AppendAttention { n_heads, scale } => {
                let spec = attention::Spec { appends: true, ..self.attention(3, n_heads, scale)? };
                let operands = [("q", self.buffer(0)?), ("k", self.buffer(1)?), ("v", self.buffer(2)?)];
                let own = [("out", self.result(0)), ("tokens", self.tokens(0)?)];
                self.bind(spec, operands.into_iter().chain(own).chain(self.pages(3)?))
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
                let results = [("slots", self.result(0)), ("offsets", self.result(1)), ("rows", self.rows()?.1)];
                self.bind(spec, [("experts", self.buffer(0)?)].into_iter().chain(results))
            }
            &Op::MoeRoute { k } => {
                let spec = moe_route::Spec { n_experts: self.operand_cols(0)?, top_k: k };
                let experts = self.workspace(&Type { dtype: DType::I32, ..self.result_ty(0).clone() })?;
                let results = [("weights", self.result(0)), ("slots", self.result(1)), ("offsets", self.result(2))];
                let own = [("logits", self.buffer(0)?), ("experts", experts), ("rows", self.rows()?.1)];
                self.bind(spec, own.into_iter().chain(results))
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
            Op::GroupedSwiglu => {
                let parts = [1, 2].map(|operand| WeightRows { operand, first_row: 0, rows: None });
                let (weight, format) = self.weight_of(&parts, PartOrder::Interleaved, Use::Experts)?;
                let (n, k, top_k) = (self.result_cols(0)?, self.operand_cols(0)?, self.operand_cols(3)?);
                let n_experts = self.dim(self.operand_ty(1), 0)?;
                let slots_per_row = if self.operand_ty(0).shape.len() == 2 { top_k } else { 1 };
                let rows = self.rows()?.0;
                let spec = grouped_swiglu::Spec { n_experts, n, k, format, slots_per_row, top_k, rows };
                let routing = [("slots", self.buffer(3)?), ("offsets", self.buffer(4)?), ("out", self.result(0))];
                self.bind(spec, [("x", self.buffer(0)?), ("weight", weight)].into_iter().chain(routing))
            }
            Op::GroupedCombine => {
                let (weight, format, _) = self.weight(1, Use::Experts)?;
                let (n, k, top_k) = (self.result_cols(0)?, self.operand_cols(0)?, self.operand_cols(2)?);
                let (n_experts, (rows, count)) = (self.dim(self.operand_ty(1), 0)?, self.rows()?);
                let spec = grouped_combine::Spec { n_experts, n, k, format, top_k, rows };
                let own = [("x", self.buffer(0)?), ("weight", weight), ("weights", self.buffer(2)?)];
                let routing = [("slots", self.buffer(3)?), ("offsets", self.buffer(4)?)];
                let results = [("out", self.result(0)), ("rows", count)];
                self.bind(spec, own.into_iter().chain(routing).chain(results))
            }
            Op::MoeCombine => {
                let spec = moe_combine::Spec { cols: self.result_cols(0)?, top_k: self.operand_cols(1)? };
                let operands = [("y", self.buffer(0)?), ("weights", self.buffer(1)?)];
                self.bind(spec, operands.into_iter().chain([("out", self.result(0)), ("rows", self.rows()?.1)]))
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

    /// A buffer of the step's own.
    fn workspace(&mut self, ty: &Type) -> Result<Slot, ScheduleError> {
        let stored = elem(ty.dtype);
        let bytes = buffer_bytes(ty, stored, self.context).map_err(|reason| self.fail(reason))?;
        self.buffers.push(DraftBuffer { bytes, elem: stored });
        Ok(Slot::Buffer(BufferId(self.buffers.len() - 1)))
    }

    /// Attention over the cache that is an operand.
    fn attention(&self, cache: usize, n_heads: usize, scale: f64) -> Result<attention::Spec, ScheduleError> {
        let cache = self.operand_ty(cache);
        let (n_kv_heads, d_head, format) = (self.dim(cache, 3)?, self.dim(cache, 4)?, elem(cache.dtype));
        Ok(attention::Spec { n_heads, n_kv_heads, d_head, scale, format, appends: false })
    }

    /// A result, which has a buffer because it is not a state.
    fn result(&self, result: usize) -> Slot {
        Slot::Buffer(self.buffer_of[&ValueId { node: self.node, result }])
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
            [Dim::Symbol(Symbol::Outputs), Dim::Fixed(per_row), _] => (Rows::Outputs, Count::Outputs, per_row),
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
    fn state_slot(&self) -> Result<[(&'static str, Slot); 3], ScheduleError> {
        let state = self.graph.op(self.node).state().map(|state| state.operand);
        let region = self.region(state.ok_or_else(|| self.fail("it has no state".into()))?)?;
        let slot_stride = self.context.states.slot_bytes / region.elem.bytes() as u64;
        Ok([
            ("state", Slot::Final(Arg::State(region.offset))),
            ("slots", Slot::Final(Arg::Table(Table::Slots))),
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
