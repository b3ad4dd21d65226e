//! One node → its kernels on Hopper, in order, and a value for each of their slots by name.
//!
//! An op is one kernel but for a few: experts read rows that a kernel before sorted by expert, and attention of one token is
//! split, then summed. Matrix products of the entry for few sequences stream the weights; all others are tiled, so that a
//! prompt's bits do not depend on how it is cut into steps.

use jamba_plan::format::{Arg, Count, EntryKind, PartOrder, Table};
use jambac_graph::{Op, Selection};
use jambac_kernels::elementwise::Function;
use jambac_kernels::hopper::matmul::{Method, TileRows};
use jambac_kernels::hopper::{self, row_stride};
use jambac_kernels::kernel::{Elem, Kernel, Rows};
use jambac_kernels::split_linear::OUTS;
use jambac_kernels::{
    attention, causal_conv1d, embed, grouped_linear, grouped_swiglu, kv_append, linear, linear_swiglu, moe_combine,
    moe_gather, moe_route, rms_norm, select_rows, selective_scan, split_linear, split_rms_norm,
};

mod unfused;

use super::weight::WeightRows;
use super::{View, elem};
use crate::ScheduleError;
use crate::select::{Bound, BufferId, DraftBuffer, MAX_BUFFER_BYTES, Slot};
use crate::sm90::{FEW_SEQUENCES, N_SMS};
use crate::weights::Use;

/// Kernels of a node with what fills their slots.
type Kernels = Vec<(Kernel, Bound)>;

impl View<'_, '_> {
    /// The kernels of the node, and a value for each of their slots by name.
    pub(in crate::select) fn sm90_kernels(&mut self) -> Result<Kernels, ScheduleError> {
        let graph = self.graph;
        match graph.op(self.node) {
            Op::Embed => {
                let table = ("table", self.weight(1, Use::Embedding)?.0);
                let spec = embed::hopper::Spec { d_model: self.result_cols(0)? };
                let ids = ("ids", self.table(0, Table::Ids)?);
                one(spec, [ids, table, ("out", self.result(0)), ("tokens", self.tokens(0)?)])
            }
            &Op::RmsNorm { eps } => self.sm90_norm(eps, false),
            &Op::AddRmsNorm { eps } => self.sm90_norm(eps, true),
            &Op::SplitRmsNorm { eps } => {
                let (rows, count) = self.rows()?;
                let part = |part: usize| Ok((self.result_cols(part)?, self.stored(self.result(part))));
                let parts = (0..self.operands.len() - 1).map(part).collect::<Result<_, ScheduleError>>()?;
                let spec = split_rms_norm::hopper::Spec { parts, eps, rows };
                let mut bound = vec![("x", self.buffer(0)?), ("rows", count)];
                for (part, &(weight, out)) in spec.slots().iter().enumerate() {
                    bound.extend([(weight, self.weight(1 + part, Use::Vector)?.0), (out, self.result(part))]);
                }
                one(spec, bound)
            }
            &Op::Linear { activation } => {
                let (rows, count) = self.rows()?;
                let (weight, format, _) = self.weight(1, Use::Linear)?;
                let bias = if self.operands.len() > 2 { Some(("bias", self.weight(2, Use::Vector)?.0)) } else { None };
                let (n, k, out) = (self.result_cols(0)?, self.operand_cols(0)?, self.stored(self.result(0)));
                let method = self.method(n, self.most(rows));
                let spec = linear::hopper::Spec { n, k, format, out, bias: bias.is_some(), activation, rows, method };
                let always = [("x", self.buffer(0)?), ("weight", weight), ("out", self.result(0)), ("rows", count)];
                one(spec, always.into_iter().chain(bias))
            }
            Op::SplitLinear { sizes } => {
                let (rows, count) = self.rows()?;
                let (weight, format) = self.split_weight(sizes)?;
                let (k, out) = (self.operand_cols(0)?, self.stored(self.result(0)));
                let method = self.method(sizes.iter().sum(), self.most(rows));
                let spec = split_linear::hopper::Spec { sizes: sizes.clone(), k, format, out, rows, method };
                let results = OUTS.into_iter().zip(0..sizes.len()).map(|(name, n)| (name, self.result(n)));
                one(spec, [("x", self.buffer(0)?), ("weight", weight), ("rows", count)].into_iter().chain(results))
            }
            Op::LinearSwiglu => {
                let (rows, count) = self.rows()?;
                let (weight, format) = self.weight_of(&gate_and_up(1), PartOrder::Interleaved, Use::Linear)?;
                let (n, k) = (self.result_cols(0)?, self.operand_cols(0)?);
                let method = self.method(2 * n, self.most(rows));
                let spec = linear_swiglu::hopper::Spec { n, k, format, rows, method };
                one(spec, [("x", self.buffer(0)?), ("weight", weight), ("out", self.result(0)), ("rows", count)])
            }
            &Op::CausalConv1d { bias, activation } => {
                let (channels, taps) = (self.result_cols(0)?, self.dim(self.operand_ty(1), 2)?);
                if taps < 2 {
                    return Err(self.fail(format!("found {taps} taps, expected 2 or more on sm_90a")));
                }
                let run = match self.context.entry {
                    EntryKind::Prefill => causal_conv1d::hopper::Spec::RUN_PREFILL,
                    EntryKind::Decode => causal_conv1d::hopper::Spec::RUN_DECODE,
                };
                let weight = ("weight", self.weight(1, Use::Taps)?.0);
                let spec = causal_conv1d::hopper::Spec { channels, taps, bias, activation, run };
                let bias = if bias { Some(("bias", self.weight(2, Use::Vector)?.0)) } else { None };
                let own = [("u", self.buffer(0)?), weight, ("y", self.result(0)), ("tokens", self.tokens(0)?)];
                let tables = [Table::SequenceOf, Table::Starts].map(table);
                one(spec, own.into_iter().chain(bias).chain(tables).chain(self.state_slot()?))
            }
            &Op::SelectiveScan { selection: Selection::Given, gated } => {
                let (channels, d_state) = (self.result_cols(0)?, self.operand_cols(1)?);
                let a = ("a", self.weight(1, Use::DecayRates)?.0);
                let mut bound: Bound = vec![("u", self.buffer(0)?), a, ("y", self.result(0)), SEQUENCES];
                for (name, slot) in ["dt", "b", "c"].into_iter().zip(Selection::Given.operands()) {
                    bound.push((name, self.buffer(slot)?));
                }
                if gated {
                    let n = self.operands.len();
                    bound.extend([("d", self.weight(n - 2, Use::Vector)?.0), ("z", self.buffer(n - 1)?)]);
                }
                bound.push(table(Table::Starts));
                let spec = selective_scan::hopper::Spec { channels, d_state, gated };
                one(spec, bound.into_iter().chain(self.state_slot()?))
            }
            Op::KvAppend => {
                let (n_kv_heads, d_head) = self.heads(0)?;
                let own = [("k", self.buffer(1)?), ("v", self.buffer(2)?), ("tokens", self.tokens(1)?)];
                one(kv_append::hopper::Spec { n_kv_heads, d_head }, own.into_iter().chain(self.pages(0)?))
            }
            &Op::Attention { n_heads, scale } => self.sm90_attention(n_heads, scale),
            &Op::MoeRoute { k } => {
                let (rows, count) = self.rows()?;
                let spec = moe_route::hopper::Spec { n_experts: self.operand_cols(0)?, top_k: k, rows };
                self.check_experts(spec.n_experts)?;
                let experts = self.scratch(self.most(rows), k, Elem::I32)?;
                let results = [("weights", self.result(0)), ("slots", self.result(1)), ("offsets", self.result(2))];
                one(
                    spec,
                    [("logits", self.buffer(0)?), ("experts", experts), ("rows", count)].into_iter().chain(results),
                )
            }
            Op::GroupedSwiglu => self.sm90_experts(),
            Op::GroupedCombine => {
                let (weight, format, _) = self.weight(1, Use::Experts)?;
                let (n, k, top_k) = (self.result_cols(0)?, self.operand_cols(0)?, self.operand_cols(2)?);
                let (n_experts, (rows, count)) = (self.dim(self.operand_ty(1), 0)?, self.rows()?);
                let n_slots = self.most(rows) * top_k as u64;
                let method = self.method(n_experts * n, n_slots.div_ceil(n_experts as u64));
                let out = Elem::F32;
                let product = grouped_linear::hopper::Spec { n_experts, n, k, format, out, top_k, rows, method };
                let y = self.scratch(n_slots, row_stride(out, n), out)?;
                let offsets = ("offsets", self.buffer(4)?);
                let of_product = vec![("x", self.buffer(0)?), ("weight", weight), offsets, ("out", y)];
                let of_sum = vec![("weights", self.buffer(2)?), ("slots", self.buffer(3)?), ("y", y)];
                let results = [("out", self.result(0)), ("rows", count)];
                Ok(vec![
                    bind(product, of_product),
                    bind(moe_combine::hopper::Spec { cols: n, top_k, rows }, of_sum.into_iter().chain(results)),
                ])
            }
            Op::SelectRows => {
                let x = self.buffer(0)?;
                let spec = select_rows::hopper::Spec { cols: self.result_cols(0)?, elem: self.stored(x) };
                let rows = ("rows", self.table(1, Table::Rows)?);
                let outputs = ("outputs", Slot::Final(Arg::Count(Count::Outputs, 1)));
                one(spec, [("x", x), rows, ("out", self.result(0)), outputs])
            }
            &Op::Slice { start, len } => self.sm90_slice(start, len),
            Op::Silu => self.sm90_elementwise(Function::Silu),
            Op::Softplus => self.sm90_elementwise(Function::Softplus),
            Op::Add => self.sm90_elementwise(Function::Add),
            Op::Mul if self.operand_ty(1).shape.len() < self.operand_ty(0).shape.len() => {
                self.sm90_elementwise(Function::MulRow)
            }
            Op::Mul => self.sm90_elementwise(Function::Mul),
            Op::Swiglu => self.sm90_elementwise(Function::Swiglu),
            Op::Softmax => self.sm90_softmax(),
            &Op::TopK { k } => self.sm90_top_k(k),
            &Op::MoePermute { n_experts } => self.sm90_permute(n_experts),
            Op::GroupedLinear => self.sm90_grouped_linear(),
            Op::MoeCombine => self.sm90_combine(),
            Op::Input { .. } | Op::Parameter { .. } | Op::State { .. } => {
                Err(self.fail("a source is not a step".into()))
            }
            Op::SelectiveScan { .. } | Op::AppendAttention { .. } => {
                Err(self.fail("sm_90a has no kernel for it: build without the fusion that makes it of others".into()))
            }
        }
    }

    fn sm90_norm(&mut self, eps: f64, residual: bool) -> Result<Kernels, ScheduleError> {
        let (rows, count) = self.rows()?;
        let out = self.stored(self.result(usize::from(residual)));
        let spec = rms_norm::hopper::Spec { cols: self.result_cols(0)?, eps, residual, out, rows };
        let most = rms_norm::hopper::MAX_COLS;
        if spec.cols > most {
            return Err(self.fail(format!("found rows of {} columns, expected at most {most} on sm_90a", spec.cols)));
        }
        let mut bound: Bound = vec![("a", self.buffer(0)?), ("rows", count)];
        if residual {
            let weight = self.weight(2, Use::Vector)?.0;
            bound.extend([
                ("b", self.buffer(1)?),
                ("weight", weight),
                ("sum", self.result(0)),
                ("out", self.result(1)),
            ]);
        } else {
            bound.extend([("weight", self.weight(1, Use::Vector)?.0), ("out", self.result(0))]);
        }
        one(spec, bound)
    }

    /// Rows of slots sorted by expert, and their products with gate and up.
    fn sm90_experts(&mut self) -> Result<Kernels, ScheduleError> {
        let (weight, format) = self.weight_of(&gate_and_up(1), PartOrder::Interleaved, Use::Experts)?;
        let (n, k, top_k) = (self.result_cols(0)?, self.operand_cols(0)?, self.operand_cols(3)?);
        let (n_experts, rows) = (self.dim(self.operand_ty(1), 0)?, self.rows()?.0);
        if self.operand_ty(0).shape.len() != 2 {
            return Err(self.fail(format!("x is {}, expected a row per token on sm_90a", self.operand_ty(0))));
        }
        let per_token =
            u32::try_from(top_k).map_err(|_| self.fail(format!("{top_k} experts per token is too many")))?;
        let count = if rows == Rows::Tokens { Count::Tokens } else { Count::Outputs };
        let n_slots = self.most(rows) * top_k as u64;
        let gathered = self.scratch(n_slots, row_stride(Elem::Bf16, k), Elem::Bf16)?;
        let method = self.method(n_experts * 2 * n, n_slots.div_ceil(n_experts as u64));
        let product = grouped_swiglu::hopper::Spec { n_experts, n, k, format, top_k, rows, method };
        let slots = ("slots", self.buffer(3)?);
        let slot_rows = ("slot_rows", Slot::Final(Arg::Count(count, per_token)));
        let of_gather = [("x", self.buffer(0)?), slots, ("out", gathered), slot_rows];
        let offsets = ("offsets", self.buffer(4)?);
        let of_product = [("x", gathered), ("weight", weight), offsets, ("out", self.result(0))];
        Ok(vec![bind(moe_gather::hopper::Spec { cols: k, top_k, rows }, of_gather), bind(product, of_product)])
    }

    fn sm90_attention(&mut self, n_heads: usize, scale: f64) -> Result<Kernels, ScheduleError> {
        let (n_kv_heads, d_head) = self.heads(1)?;
        let shared: Bound = self.pages(1)?.into_iter().chain([SEQUENCES]).collect();
        let among = |names: &[&str]| shared.iter().filter(|(name, _)| names.contains(name)).copied().collect::<Bound>();
        let (q, out) = (("q", self.buffer(0)?), ("out", self.result(0)));
        if self.context.entry == EntryKind::Prefill {
            let spec = attention::hopper::prefill::Spec { n_heads, n_kv_heads, d_head, scale };
            let pages = ["cache", "starts", "past", "pages", "sequences", "page_stride", "pages_per_sequence"];
            return one(spec, among(&pages).into_iter().chain([q, out]));
        }
        let spec = attention::hopper::decode::Spec { n_heads, n_kv_heads, d_head, scale };
        let rows = self.context.extents.sequences * spec.partial_rows() as u64;
        let partials = ("partials", self.scratch(rows, spec.partial_stride(), Elem::F32)?);
        let pages = ["cache", "past", "pages", "sequences", "page_stride", "pages_per_sequence"];
        let of_splits = among(&pages).into_iter().chain([q, partials]);
        let of_sum = among(&["past", "sequences"]).into_iter().chain([partials, out]);
        Ok(vec![bind(spec.clone(), of_splits), bind(attention::hopper::combine::Spec { partials: spec }, of_sum)])
    }

    fn check_experts(&self, n_experts: usize) -> Result<(), ScheduleError> {
        let most = moe_route::hopper::MAX_EXPERTS;
        match n_experts <= most {
            true => Ok(()),
            false => Err(self.fail(format!("found {n_experts} experts, expected at most {most}"))),
        }
    }

    /// KV heads and their dimensions, of a cache in bf16.
    fn heads(&self, cache: usize) -> Result<(usize, usize), ScheduleError> {
        let ty = self.operand_ty(cache);
        let (n_kv_heads, d_head) = (self.dim(ty, 3)?, self.dim(ty, 4)?);
        let most = kv_append::hopper::MAX_D_HEAD;
        if d_head > most {
            return Err(self.fail(format!("found heads of {d_head} dimensions, expected at most {most} on sm_90a")));
        }
        if elem(ty.dtype) != Elem::Bf16 {
            return Err(self.fail(format!("keys and values are {}, expected bf16 on sm_90a", ty.dtype)));
        }
        Ok((n_kv_heads, d_head))
    }

    /// What a buffer holds.
    fn stored(&self, slot: Slot) -> Elem {
        match slot {
            Slot::Buffer(id) => self.buffers[id.0].elem,
            Slot::Final(_) => Elem::F32,
        }
    }

    /// The most rows of a step.
    fn most(&self, rows: Rows) -> u64 {
        match rows {
            Rows::Tokens => self.context.extents.tokens,
            Rows::Outputs => self.context.extents.outputs,
        }
    }

    /// How `n` rows of weights meet up to `max_rows` rows of a value.
    fn method(&self, n: usize, max_rows: u64) -> Method {
        let few = self.context.entry == EntryKind::Decode && self.context.extents.sequences <= FEW_SEQUENCES;
        if few { Method::Few } else { Method::Tiled(TileRows::fastest(n, max_rows as usize, N_SMS)) }
    }

    /// A buffer between two kernels of the node, or of one's own: so many rows at such a distance, in elements.
    fn scratch(&mut self, rows: u64, stride: usize, elem: Elem) -> Result<Slot, ScheduleError> {
        let bytes = rows.checked_mul((stride * elem.bytes()) as u64).filter(|&bytes| bytes <= MAX_BUFFER_BYTES);
        let bytes = bytes.ok_or_else(|| self.fail(format!("{rows} rows between its kernels are too large")))?;
        self.buffers.push(DraftBuffer { bytes, elem });
        Ok(Slot::Buffer(BufferId(self.buffers.len() - 1)))
    }
}

/// The number of sequences of a step.
const SEQUENCES: (&str, Slot) = ("sequences", Slot::Final(Arg::Count(Count::Sequences, 1)));

fn table(table: Table) -> (&'static str, Slot) {
    (table.name(), Slot::Final(Arg::Table(table)))
}

/// The operands of gate and up, whole.
fn gate_and_up(gate: usize) -> [WeightRows; 2] {
    [gate, gate + 1].map(|operand| WeightRows { operand, first_row: 0, rows: None })
}

fn bind(spec: impl Into<hopper::Kernel>, bound: impl IntoIterator<Item = (&'static str, Slot)>) -> (Kernel, Bound) {
    (Kernel::Sm90(spec.into()), bound.into_iter().collect())
}

fn one(
    spec: impl Into<hopper::Kernel>,
    bound: impl IntoIterator<Item = (&'static str, Slot)>,
) -> Result<Kernels, ScheduleError> {
    Ok(vec![bind(spec, bound)])
}
