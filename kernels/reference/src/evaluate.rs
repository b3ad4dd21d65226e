//! Evaluates one node: calls the op's function on the operands. The only file that lists the ops.

use std::borrow::Cow;
use std::ops::Range;

use jambac_graph::op::{Part, parts};
use jambac_graph::{Activation, DType, Node, Op, Selection};

use crate::activation::{silu, softplus, swiglu};
use crate::attention::{Heads, attention, kv_append};
use crate::causal_conv1d::{Conv, causal_conv1d};
use crate::elementwise::{add, mul, slice};
use crate::gather::gather_rows;
use crate::linear::{Linear, linear};
use crate::moe::{GroupedLinear, grouped_linear, moe_combine, moe_permute, top_k};
use crate::rms_norm::{add_rms_norm, rms_norm, split_rms_norm};
use crate::selective_scan::{Scan, gated_selective_scan, selective_scan};
use crate::softmax::softmax;
use crate::tensor::{Tensor, Value};
use crate::{Data, ReferenceError};

/// The results of a node that is not a source, on a ragged batch of sequences with `lengths` tokens.
pub(crate) fn evaluate(node: &Node, operands: &[Value], lengths: &[usize]) -> Result<Vec<Value>, ReferenceError> {
    let x = Operands { node, values: operands };
    let one = |tensor: Tensor| Ok(vec![tensor.into()]);
    let two = |first: Tensor, second: Tensor| Ok(vec![first.into(), second.into()]);
    match node.op {
        Op::Input { .. } | Op::Parameter { .. } | Op::State { .. } => Err(x.wrong(0, "an op with operands")),
        Op::Embed => one(x.gather(x.tensor(1)?, 0)?),
        Op::SelectRows => one(x.gather(x.tensor(0)?, 1)?),
        Op::RmsNorm { eps } => one(x.like(0, rms_norm(x.f32(0)?, x.f32(1)?, eps))?),
        Op::AddRmsNorm { eps } => {
            let (sum, normed) = add_rms_norm(x.f32(0)?, x.f32(1)?, x.f32(2)?, eps);
            two(x.like(0, sum)?, x.like(0, normed)?)
        }
        Op::SplitRmsNorm { eps } => {
            let weights = (1..operands.len()).map(|slot| x.f32(slot)).collect::<Result<Vec<_>, _>>()?;
            let parts = split_rms_norm(x.f32(0)?, &weights, eps).into_iter().zip(weights);
            Ok(parts.map(|(y, weight)| Tensor::f32([y.len() / weight.len(), weight.len()], y).into()).collect())
        }
        Op::Linear { activation } => {
            let &[n_out, n_in] = x.dims(1)?;
            let bias = if operands.len() > 2 { Some(x.f32(2)?) } else { None };
            let y = linear(x.f32(0)?, x.f32(1)?, bias, Linear { n_in, n_out, activation });
            one(Tensor::f32([y.len() / n_out, n_out], y))
        }
        Op::SplitLinear { ref sizes } => x.split_linear(x.f32(0)?, 1..operands.len(), sizes),
        Op::LinearSwiglu => one(x.linear_swiglu(x.f32(0)?, 1)?),
        Op::NormSplitLinear { eps, ref sizes } => {
            let (sum, normed) = x.add_norm(eps)?;
            let parts = x.split_linear(&normed, 3..operands.len(), sizes)?;
            Ok([Value::from(sum)].into_iter().chain(parts).collect())
        }
        Op::NormLinearSwiglu { eps } => {
            let (sum, normed) = x.add_norm(eps)?;
            two(sum, x.linear_swiglu(&normed, 3)?)
        }
        Op::NormProjConv { eps, bias, activation } => {
            let (sum, normed) = x.add_norm(eps)?;
            let channels = x.dims::<3>(4)?[0];
            let parts = x.split_linear(&normed, 3..4, &[channels; 2])?;
            let [u, z] = <[Value; 2]>::try_from(parts).map_err(|_| x.wrong(3, "of two parts"))?;
            let u = u.tensor().ok_or_else(|| x.wrong(3, "a dense tensor"))?;
            let (y, state) = x.conv(u, 4, bias, activation, lengths)?;
            Ok(vec![sum.into(), y.into(), z, state.into()])
        }
        Op::Slice { start, len } => {
            let tensor = x.tensor(0)?;
            let mut shape = tensor.shape.clone();
            shape.pop();
            shape.push(len);
            one(Tensor::f32(shape, slice(x.f32(0)?, tensor.cols(), start, len)))
        }
        Op::Silu => one(x.like(0, x.f32(0)?.iter().map(|&x| silu(x)).collect())?),
        Op::Softplus => one(x.like(0, x.f32(0)?.iter().map(|&x| softplus(x)).collect())?),
        Op::Add => one(x.like(0, add(x.f32(0)?, x.f32(1)?))?),
        Op::Mul => one(x.like(0, mul(x.f32(0)?, x.f32(1)?))?),
        Op::Swiglu => one(x.like(0, swiglu(x.f32(0)?, x.f32(1)?))?),
        Op::CausalConv1d { bias, activation } => {
            let (y, state) = x.conv(x.tensor(0)?, 1, bias, activation, lengths)?;
            two(y, state)
        }
        Op::SelectiveScan { selection, gated } => {
            let selected = x.selected(selection)?;
            let scan = x.scan(&selected, lengths)?;
            let end = selection.operands().end;
            let (y, state) =
                if gated { gated_selective_scan(&scan, x.f32(end)?, x.f32(end + 1)?) } else { selective_scan(&scan) };
            two(x.like(0, y)?, x.like(2, state)?)
        }
        Op::KvAppend => Ok(vec![Value::Ragged(x.append(0, lengths)?.into())]),
        Op::Attention { n_heads, scale } => one(x.attend(x.ragged(1)?, lengths, n_heads, scale)?),
        Op::AppendAttention { n_heads, scale } => {
            let caches = x.append(3, lengths)?;
            let y = x.attend(&caches, lengths, n_heads, scale)?;
            Ok(vec![y.into(), Value::Ragged(caches.into())])
        }
        Op::Softmax => one(x.like(0, softmax(x.f32(0)?, x.tensor(0)?.cols()))?),
        Op::TopK { k } => {
            let (weights, experts) = top_k(x.f32(0)?, x.tensor(0)?.cols(), k);
            let n_rows = weights.len() / k;
            two(Tensor::f32([n_rows, k], weights), Tensor::i32([n_rows, k], experts))
        }
        Op::MoePermute { n_experts } => {
            let (slots, offsets) = moe_permute(x.i32(0)?, n_experts).map_err(|expert| x.index(expert, n_experts))?;
            two(Tensor::i32(x.tensor(0)?.shape.clone(), slots), Tensor::i32([n_experts + 1], offsets))
        }
        Op::MoeRoute { k } => {
            let n_experts = x.tensor(0)?.cols();
            let (weights, experts) = top_k(&softmax(x.f32(0)?, n_experts), n_experts, k);
            let (slots, offsets) = moe_permute(&experts, n_experts).map_err(|expert| x.index(expert, n_experts))?;
            let shape = [weights.len() / k, k];
            let offsets = Tensor::i32([n_experts + 1], offsets);
            Ok(vec![Tensor::f32(shape, weights).into(), Tensor::i32(shape, slots).into(), offsets.into()])
        }
        Op::GroupedLinear => one(x.grouped(1, [2, 3])?),
        Op::GroupedSwiglu => {
            let (gate, up) = (x.grouped(1, [3, 4])?, x.grouped(2, [3, 4])?);
            let y = swiglu(gate.as_f32().unwrap_or_default(), up.as_f32().unwrap_or_default());
            one(Tensor::f32(gate.shape, y))
        }
        Op::GroupedCombine => {
            let y = x.grouped(1, [3, 4])?;
            let (n_tokens, k, cols) = (y.shape[0], y.shape[1], y.cols());
            one(Tensor::f32([n_tokens, cols], moe_combine(y.as_f32().unwrap_or_default(), x.f32(2)?, k, cols)))
        }
        Op::MoeCombine => {
            let &[n_tokens, k, cols] = x.dims(0)?;
            one(Tensor::f32([n_tokens, cols], moe_combine(x.f32(0)?, x.f32(1)?, k, cols)))
        }
    }
}

/// The operands of one node by slot; errors name the slot and the expected kind.
struct Operands<'a> {
    node: &'a Node,
    values: &'a [Value],
}

impl<'a> Operands<'a> {
    fn wrong(&self, operand: usize, expected: &'static str) -> ReferenceError {
        ReferenceError::Operand { op: self.node.op.name(), source_name: self.node.source.clone(), operand, expected }
    }

    fn index(&self, index: i32, limit: usize) -> ReferenceError {
        ReferenceError::Index { op: self.node.op.name(), source_name: self.node.source.clone(), index, limit }
    }

    fn tensor(&self, slot: usize) -> Result<&'a Tensor, ReferenceError> {
        self.values.get(slot).and_then(Value::tensor).ok_or_else(|| self.wrong(slot, "a dense tensor"))
    }

    fn f32(&self, slot: usize) -> Result<&'a [f32], ReferenceError> {
        self.tensor(slot)?.as_f32().ok_or_else(|| self.wrong(slot, "f32"))
    }

    fn i32(&self, slot: usize) -> Result<&'a [i32], ReferenceError> {
        self.tensor(slot)?.as_i32().ok_or_else(|| self.wrong(slot, "i32"))
    }

    fn dims<const RANK: usize>(&self, slot: usize) -> Result<&'a [usize; RANK], ReferenceError> {
        self.tensor(slot)?.shape.as_slice().try_into().map_err(|_| self.wrong(slot, "of that rank"))
    }

    fn ragged(&self, slot: usize) -> Result<&'a [Tensor], ReferenceError> {
        match self.values.get(slot) {
            Some(Value::Ragged(tensors)) => Ok(tensors),
            _ => Err(self.wrong(slot, "a KV cache")),
        }
    }

    /// A tensor of f32 shaped like an operand.
    fn like(&self, slot: usize, data: Vec<f32>) -> Result<Tensor, ReferenceError> {
        Ok(Tensor::f32(self.tensor(slot)?.shape.clone(), data))
    }

    /// The caches in a slot, with the second operand's keys and the third's values appended.
    fn append(&self, cache: usize, lengths: &[usize]) -> Result<Vec<Tensor>, ReferenceError> {
        let (caches, row) = (self.ragged(cache)?, self.tensor(1)?.cols());
        let dtype = self.node.op.state().map_or(DType::F32, |state| self.node.results[state.result].dtype);
        let next = kv_append(&rows_of(caches), self.f32(1)?, self.f32(2)?, row, lengths, dtype);
        let grown = |(data, old): (Vec<f32>, &Tensor)| {
            let mut shape = old.shape.clone();
            shape[0] = data.len() / (2 * row);
            Tensor::f32(shape, data)
        };
        Ok(next.into_iter().zip(caches).map(grown).collect())
    }

    /// Attention of the first operand.
    fn attend(
        &self,
        caches: &[Tensor],
        lengths: &[usize],
        n_heads: usize,
        scale: f64,
    ) -> Result<Tensor, ReferenceError> {
        let d_head = self.tensor(0)?.cols() / n_heads;
        let n_kv_heads = caches.first().map_or(1, |cache| cache.shape[2]);
        let heads = Heads { n_heads, n_kv_heads, d_head, scale };
        self.like(0, attention(self.f32(0)?, &rows_of(caches), lengths, heads))
    }

    /// The first operand times the experts' weights in a slot.
    fn grouped(&self, weight: usize, [slots, offsets]: [usize; 2]) -> Result<Tensor, ReferenceError> {
        let &[_, n_out, n_in] = self.dims(weight)?;
        let &[n_tokens, k] = self.dims(slots)?;
        let (slots, offsets) = (self.i32(slots)?, self.i32(offsets)?);
        let y =
            grouped_linear(&GroupedLinear { x: self.f32(0)?, weight: self.f32(weight)?, slots, offsets, n_in, n_out });
        Ok(Tensor::f32([n_tokens, k, n_out], y))
    }

    /// Δ, B and C of a scan: operands, or computed from them as its selection specifies.
    fn selected(&self, selection: Selection) -> Result<[Cow<'a, [f32]>; 3], ReferenceError> {
        let normed = |eps| {
            let weights = [self.f32(4)?, self.f32(5)?, self.f32(6)?];
            let parts = split_rms_norm(self.f32(3)?, &weights, eps).into_iter().map(Cow::Owned);
            <[Cow<[f32]>; 3]>::try_from(parts.collect::<Vec<_>>()).map_err(|_| self.wrong(3, "three parts"))
        };
        let given = || Ok([self.f32(3)?, self.f32(4)?, self.f32(5)?].map(Cow::Borrowed));
        let ([dt, b, c], weight) = match selection {
            Selection::Given => return given(),
            Selection::Projected => (given()?, 6),
            Selection::Normed { eps } => (normed(eps)?, 7),
        };
        let &[n_out, n_in] = self.dims(weight)?;
        let shape = Linear { n_in, n_out, activation: Activation::Softplus };
        Ok([linear(&dt, self.f32(weight)?, Some(self.f32(weight + 1)?), shape).into(), b, c])
    }

    fn scan<'s>(&self, [dt, b, c]: &'s [Cow<'a, [f32]>; 3], lengths: &'s [usize]) -> Result<Scan<'s>, ReferenceError>
    where
        'a: 's,
    {
        let &[d_inner, d_state] = self.dims(1)?;
        let (u, a_log, state) = (self.f32(0)?, self.f32(1)?, self.f32(2)?);
        Ok(Scan { dt, u, a_log, b, c, state, lengths, d_inner, d_state })
    }

    /// The sum of the first two operands, and its norm with the third as weight.
    fn add_norm(&self, eps: f64) -> Result<(Tensor, Vec<f32>), ReferenceError> {
        let (sum, normed) = add_rms_norm(self.f32(0)?, self.f32(1)?, self.f32(2)?, eps);
        Ok((self.like(0, sum)?, normed))
    }

    /// The swiglu of the products of x with the weights in a slot and the next.
    fn linear_swiglu(&self, x: &[f32], gate: usize) -> Result<Tensor, ReferenceError> {
        let &[n_out, n_in] = self.dims(gate)?;
        let shape = Linear { n_in, n_out, activation: Activation::None };
        let [gate, up] = [self.f32(gate)?, self.f32(gate + 1)?].map(|weight| linear(x, weight, None, shape));
        Ok(Tensor::f32([gate.len() / n_out, n_out], swiglu(&gate, &up)))
    }

    /// The convolution of u and the next state; the weight is in a slot, the bias and the state follow.
    fn conv(
        &self,
        u: &Tensor,
        weight: usize,
        bias: bool,
        activation: Activation,
        lengths: &[usize],
    ) -> Result<(Tensor, Tensor), ReferenceError> {
        let state_slot = weight + if bias { 2 } else { 1 };
        let (y, state) = causal_conv1d(&Conv {
            u: u.as_f32().ok_or_else(|| self.wrong(0, "f32"))?,
            weight: self.f32(weight)?,
            bias: if bias { Some(self.f32(weight + 1)?) } else { None },
            state: self.f32(state_slot)?,
            lengths,
            channels: u.cols(),
            activation,
        });
        Ok((Tensor::f32(u.shape.clone(), y), self.like(state_slot, state)?))
    }

    /// Products of x with parts of the weights in these slots, one result each.
    fn split_linear(&self, x: &[f32], slots: Range<usize>, sizes: &[usize]) -> Result<Vec<Value>, ReferenceError> {
        let weights = slots.clone().map(|slot| self.dims::<2>(slot)).collect::<Result<Vec<_>, _>>()?;
        let rows: Vec<usize> = weights.iter().map(|[rows, _]| *rows).collect();
        let parts = parts(sizes, &rows).ok_or_else(|| self.wrong(slots.start, "cut into the sizes"))?;
        let part = |Part { weight, first_row, rows: n_out }: Part| {
            let n_in = weights[weight][1];
            let weight = &self.f32(slots.start + weight)?[first_row * n_in..(first_row + n_out) * n_in];
            let y = linear(x, weight, None, Linear { n_in, n_out, activation: Activation::None });
            Ok(Tensor::f32([y.len() / n_out, n_out], y).into())
        };
        parts.into_iter().map(part).collect()
    }

    /// The rows of a table at the indices in a slot.
    fn gather(&self, table: &Tensor, slot: usize) -> Result<Tensor, ReferenceError> {
        let (rows, cols) = (self.i32(slot)?, table.cols());
        let Data::F32(data) = &table.data else { return Err(self.wrong(slot, "f32")) };
        let n_rows = table.shape.first().copied().unwrap_or(0);
        let y = gather_rows(data, cols, rows).map_err(|row| self.index(row, n_rows))?;
        Ok(Tensor::f32([rows.len(), cols], y))
    }
}

/// The elements of each sequence's cache.
fn rows_of(caches: &[Tensor]) -> Vec<&[f32]> {
    caches.iter().map(|cache| cache.as_f32().unwrap_or_default()).collect()
}
