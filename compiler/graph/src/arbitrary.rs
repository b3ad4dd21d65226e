//! A graph for every string of bytes, for property tests: valid and small. It has the patterns that models emit, and any op of the
//! table that takes rows of tokens and parameters.
//!
//! The bytes are choices, read from the front; when they run out every choice is the first. A shorter string is a smaller graph, so
//! property tests shrink well. Inputs are `ids` (below [`VOCAB`]) and `rows`; dims are small and odd.

use crate::build::{Builder, Scan};
use crate::graph::{Graph, ValueId};
use crate::infer::signature::{Bindings, Kind, Operand, Term};
use crate::infer::{infer, signature};
use crate::op::Op;
use crate::tensor::{DType, Dim, Symbol, Type};

/// Rows of the embedding table.
pub const VOCAB: usize = 11;

/// Widths that activations have.
const WIDTHS: [usize; 4] = [6, 1, 4, 3];

/// The graph that the bytes choose. It passes [`verify`](fn@crate::verify::verify).
pub fn graph(bytes: &[u8]) -> Graph {
    let mut generator = Generator { b: Builder::new("prefill"), bytes, n_names: 0, pool: Vec::new() };
    generator.run();
    generator.b.finish()
}

/// An activation `f32[tokens, width]`.
#[derive(Clone, Copy)]
struct Rows {
    value: ValueId,
    width: usize,
}

struct Generator<'a> {
    b: Builder,
    bytes: &'a [u8],
    n_names: usize,
    /// Operands for later ops.
    pool: Vec<Rows>,
}

impl Generator<'_> {
    fn run(&mut self) {
        if self.flip() {
            self.b.one_token();
        }
        self.b.scope("embed");
        let ids = self.b.input("ids", Type::new(DType::I32, [Symbol::Tokens]));
        let table = self.parameter(&[VOCAB, WIDTHS[0]]);
        let x = self.b.embed(ids, table);
        self.keep(x, WIDTHS[0]);
        let mut layer = 0;
        while !self.bytes.is_empty() {
            self.b.scope(format!("layers.{layer}"));
            self.op();
            layer += 1;
        }

        self.b.scope("head");
        let Rows { value, width } = self.pool[self.pool.len() - 1];
        let rows = self.b.input("rows", Type::new(DType::I32, [Symbol::Outputs]));
        let last = self.b.select_rows(value, rows);
        let head = self.parameter(&[VOCAB, width]);
        let logits = self.b.linear(last, head, None);
        self.b.output("logits", logits);
    }

    /// One of `n` choices.
    fn choose(&mut self, n: usize) -> usize {
        let Some((&first, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        usize::from(first) % n
    }

    fn flip(&mut self) -> bool {
        self.choose(2) == 1
    }

    fn name(&mut self, what: &str) -> String {
        self.n_names += 1;
        format!("{what}.{}", self.n_names - 1)
    }

    fn parameter(&mut self, shape: &[usize]) -> ValueId {
        let dtype = self.dtype();
        self.stored(dtype, shape)
    }

    fn dtype(&mut self) -> DType {
        [DType::F32, DType::Bf16, DType::F16][self.choose(3)]
    }

    fn stored(&mut self, dtype: DType, shape: &[usize]) -> ValueId {
        let name = self.name("weight");
        self.b.parameter(&name, dtype, shape)
    }

    fn state(&mut self, dtype: DType, dims: &[Dim]) -> (String, ValueId) {
        let name = self.name("state");
        let value = self.b.state(&name, dtype, dims);
        (name, value)
    }

    fn keep(&mut self, value: ValueId, width: usize) -> Rows {
        self.pool.push(Rows { value, width });
        Rows { value, width }
    }

    /// Now and then gives a value inside a pattern another reader, or makes it an output.
    fn expose(&mut self, value: ValueId, width: usize) {
        match self.choose(8) {
            1 => _ = self.keep(value, width),
            2 => {
                let name = self.name("tap");
                self.b.output(&name, value);
            }
            _ => (),
        }
    }

    /// Any value, the newest first.
    fn any(&mut self) -> Rows {
        let back = self.choose(self.pool.len());
        self.pool[self.pool.len() - 1 - back]
    }

    /// A value of this width: an existing one, or a projection.
    fn of_width(&mut self, width: usize) -> ValueId {
        let fitting: Vec<ValueId> =
            self.pool.iter().filter(|rows| rows.width == width).map(|rows| rows.value).collect();
        if fitting.is_empty() || self.flip() {
            return self.project(width);
        }
        fitting[fitting.len() - 1 - self.choose(fitting.len())]
    }

    fn project(&mut self, width: usize) -> ValueId {
        let x = self.any();
        let weight = self.parameter(&[width, x.width]);
        let bias = if self.flip() { Some(self.parameter(&[width])) } else { None };
        self.b.linear(x.value, weight, bias)
    }

    /// Projections of one value by weights of one type; now and then one of them is of another value.
    fn project_together<const N: usize>(&mut self, widths: [usize; N]) -> [ValueId; N] {
        let x = self.any();
        let dtype = self.dtype();
        widths.map(|width| {
            if self.choose(16) == 1 {
                return self.project(width);
            }
            let weight = self.stored(dtype, &[width, x.width]);
            let y = self.b.linear(x.value, weight, None);
            self.expose(y, width);
            y
        })
    }

    fn norm(&mut self, value: ValueId, width: usize) -> ValueId {
        let weight = self.parameter(&[width]);
        self.b.rms_norm(value, weight, 1e-5)
    }

    /// `a · b` or `b · a`.
    fn product(&mut self, a: ValueId, b: ValueId) -> ValueId {
        if self.flip() { self.b.mul(b, a) } else { self.b.mul(a, b) }
    }

    fn sum(&mut self, a: ValueId, b: ValueId) -> ValueId {
        if self.flip() { self.b.add_values(b, a) } else { self.b.add_values(a, b) }
    }

    fn op(&mut self) {
        let width = WIDTHS[self.choose(WIDTHS.len())];
        let (value, width) = match self.choose(19) {
            0 => (self.linear(width), width),
            1 => (self.residual_norm(width), width),
            2 => (self.swiglu(width), width),
            3 => (self.conv(width), width),
            4 => (self.scan(width), width),
            5 => self.attention(),
            6 => (self.experts(width), width),
            7 => self.slice(),
            8 => self.split(width),
            9 => (self.mlp(width), width),
            12..=17 => (self.mixer(width), width),
            10 | 11 => match self.read_table() {
                Some(Rows { value, width }) => (value, width),
                None => (self.project(width), width),
            },
            _ => (self.scaled(width), width),
        };
        self.keep(value, width);
    }

    fn linear(&mut self, width: usize) -> ValueId {
        let x = self.project(width);
        self.expose(x, width);
        match self.choose(3) {
            0 => self.b.softplus(x),
            1 => self.b.silu(x),
            _ => x,
        }
    }

    fn residual_norm(&mut self, width: usize) -> ValueId {
        let (a, b) = (self.of_width(width), self.of_width(width));
        let sum = self.sum(a, b);
        self.expose(sum, width);
        self.norm(sum, width)
    }

    fn swiglu(&mut self, width: usize) -> ValueId {
        let (gate, up) = (self.of_width(width), self.of_width(width));
        let gate = self.norm(gate, width);
        let gate = self.b.silu(gate);
        self.expose(gate, width);
        self.product(gate, up)
    }

    fn conv(&mut self, width: usize) -> ValueId {
        let u = self.of_width(width);
        self.conv_of(u, width)
    }

    fn conv_of(&mut self, u: ValueId, width: usize) -> ValueId {
        let taps = 1 + [3, 2, 1][self.choose(3)];
        let weight = self.parameter(&[width, 1, taps]);
        let bias = if self.flip() { Some(self.parameter(&[width])) } else { None };
        let (name, state) = self.state(DType::F32, &[width.into(), (taps - 1).into()]);
        let (y, next) = self.b.causal_conv1d(u, weight, bias, state);
        self.b.output(&name, next);
        self.expose(y, width);
        if self.choose(4) < 3 { self.b.silu(y) } else { y }
    }

    fn scan(&mut self, width: usize) -> ValueId {
        let d_state = [2, 5, 1][self.choose(3)];
        let u = self.of_width(width);
        let u = self.norm(u, width);
        let [dt, b, c] = if self.choose(4) < 3 {
            self.selection(u, width, d_state)
        } else {
            self.separate_selection(width, d_state)
        };
        let a_log = self.parameter(&[width, d_state]);
        let (name, state) = self.state(DType::F32, &[width.into(), d_state.into()]);
        let (y, next) = self.b.selective_scan(Scan { dt, u, a_log, b, c, state });
        self.b.output(&name, next);
        self.expose(y, width);

        let d = self.parameter(&[width]);
        let skipped = if self.choose(8) == 1 { self.of_width(width) } else { u };
        let skip = self.b.mul(skipped, d);
        self.expose(skip, width);
        let sum = self.sum(y, skip);
        self.expose(sum, width);
        let z = self.of_width(width);
        let gate = self.b.silu(z);
        self.expose(gate, width);
        self.product(sum, gate)
    }

    /// Δ, B and C as Jamba has them: parts of one projection of u, normed, and a projection of the first of them.
    fn selection(&mut self, u: ValueId, width: usize, d_state: usize) -> [ValueId; 3] {
        let dt_rank = 1 + self.choose(3);
        let n_columns = dt_rank + 2 * d_state;
        let weight = self.parameter(&[n_columns, width]);
        let x = self.b.linear(u, weight, None);
        let parts = [(0, dt_rank), (dt_rank, d_state), (dt_rank + d_state, d_state)];
        let [low, b, c] = parts.map(|(start, len)| {
            let part = self.b.slice(x, start, len);
            self.norm(part, len)
        });
        let (weight, bias) = (self.parameter(&[width, dt_rank]), self.parameter(&[width]));
        let dt = self.b.linear(low, weight, Some(bias));
        let dt = self.b.softplus(dt);
        let (value, width) = [(x, n_columns), (low, dt_rank), (b, d_state), (dt, width)][self.choose(4)];
        self.expose(value, width);
        [dt, b, c]
    }

    /// Δ, B and C of unrelated values.
    fn separate_selection(&mut self, width: usize, d_state: usize) -> [ValueId; 3] {
        let dt = self.project(width);
        let dt = self.b.softplus(dt);
        let (b, c) = (self.of_width(d_state), self.of_width(d_state));
        [dt, self.norm(b, d_state), self.norm(c, d_state)]
    }

    fn attention(&mut self) -> (ValueId, usize) {
        let (n_kv_heads, group, d_head) = (1 + self.choose(2), 1 + self.choose(2), 1 + self.choose(3));
        let (kv_width, width) = (n_kv_heads * d_head, n_kv_heads * group * d_head);
        let dims = [Symbol::Context.into(), 2.into(), n_kv_heads.into(), d_head.into()];
        let dtype = [DType::F32, DType::Bf16][self.choose(2)];
        let (name, cache) = self.state(dtype, &dims);
        let [q, k, v] = self.project_together([width, kv_width, kv_width]);
        let cache = self.b.kv_append(cache, k, v);
        self.b.output(&name, cache);
        (self.b.attention(q, cache, n_kv_heads * group, (d_head as f64).powf(-0.5)), width)
    }

    fn experts(&mut self, width: usize) -> ValueId {
        let (n_experts, d_ff) = (2 + self.choose(3), 5);
        let k = 1 + self.choose(2);
        let x = self.any();
        let router = self.parameter(&[n_experts, x.width]);
        let scores = self.b.linear(x.value, router, None);
        let scores = self.b.softmax(scores);
        let (weights, experts) = self.b.top_k(scores, k);
        let (slots, offsets) = self.b.moe_permute(experts, n_experts);
        let (gate, up) = (self.parameter(&[n_experts, d_ff, x.width]), self.parameter(&[n_experts, d_ff, x.width]));
        let gate = self.b.grouped_linear(x.value, gate, slots, offsets);
        let up = self.b.grouped_linear(x.value, up, slots, offsets);
        let gate = self.b.silu(gate);
        let inner = self.product(gate, up);
        let down = self.parameter(&[n_experts, width, d_ff]);
        let y = self.b.grouped_linear(inner, down, slots, offsets);
        self.b.moe_combine(y, weights)
    }

    fn slice(&mut self) -> (ValueId, usize) {
        let x = self.any();
        let start = self.choose(x.width);
        let len = 1 + self.choose(x.width - start);
        (self.b.slice(x.value, start, len), len)
    }

    /// A projection that slices cut into parts; now and then the whole has another reader, or the slices overlap or leave a gap.
    fn split(&mut self, width: usize) -> (ValueId, usize) {
        let rest = WIDTHS[self.choose(WIDTHS.len())];
        let x = self.any();
        let weight = self.parameter(&[width + rest, x.width]);
        let whole = self.b.linear(x.value, weight, None);
        self.expose(whole, width + rest);
        let (start, len) = match self.choose(8) {
            1 if rest > 1 => (width + 1, rest - 1),
            2 => (width - 1, rest + 1),
            _ => (width, rest),
        };
        let second = self.b.slice(whole, start, len);
        self.keep(second, len);
        (self.b.slice(whole, 0, width), width)
    }

    fn mlp(&mut self, width: usize) -> ValueId {
        let d_ff = 5;
        let x = self.of_width(width);
        let x = self.norm(x, width);
        self.keep(x, width);
        let [gate, up] = self.project_together([d_ff, d_ff]);
        let gate = self.b.silu(gate);
        let inner = self.product(gate, up);
        let down = self.parameter(&[width, d_ff]);
        self.b.linear(inner, down, None)
    }

    /// A projection of the norm of a sum: two halves, the first one convolved, or gate and up.
    fn mixer(&mut self, width: usize) -> ValueId {
        let (a, b) = (self.of_width(width), self.of_width(width));
        let sum = self.sum(a, b);
        let normed = self.norm(sum, width);
        if self.choose(3) == 1 {
            self.keep(normed, width);
            let [gate, up] = self.project_together([width, width]);
            let gate = self.b.silu(gate);
            return self.product(gate, up);
        }
        let weight = self.parameter(&[2 * width, width]);
        let whole = self.b.linear(normed, weight, None);
        let [u, z] = [0, width].map(|start| self.b.slice(whole, start, width));
        self.expose(u, width);
        let y = self.conv_of(u, width);
        self.product(z, y)
    }

    /// A value times a new row.
    fn scaled(&mut self, width: usize) -> ValueId {
        let x = self.of_width(width);
        let row = self.parameter(&[width]);
        self.b.mul(x, row)
    }

    /// Any op of the table; its last result. `None` if an operand or an attribute does not fit.
    fn read_table(&mut self) -> Option<Rows> {
        let op = Op::sample(&mut |n| self.choose(n));
        let signature = signature(&op, &[]);
        let mut bound = Bindings::of(&signature.letters);
        let mut leading = None;
        let mut operands = Vec::new();
        for operand in &signature.operands {
            operands.push(self.operand(operand, &mut bound, &mut leading)?);
        }
        let types: Vec<Type> = operands.iter().map(|&operand| self.b.ty(operand).clone()).collect();
        infer(&op, &types.iter().collect::<Vec<_>>()).ok()?;
        let mut results: Vec<Rows> =
            self.b.add(op, &operands).into_iter().filter_map(|value| self.rows(value)).collect();
        let last = results.pop()?;
        self.pool.extend(results);
        Some(last)
    }

    /// The value as an activation, if it is one.
    fn rows(&self, value: ValueId) -> Option<Rows> {
        let ty = self.b.ty(value);
        let width = ty.cols().filter(|&width| width > 0)?;
        (*ty == Type::rows(Symbol::Tokens, width)).then_some(Rows { value, width })
    }

    /// A value for an operand of rows of tokens, or a parameter; `None` for states, indices and rows of expert slots.
    fn operand(&mut self, operand: &Operand, bound: &mut Bindings, leading: &mut Option<usize>) -> Option<ValueId> {
        match (operand.kind, operand.dims.as_slice()) {
            (Kind::F32, [Term::Leading]) => {
                let width = *leading.get_or_insert_with(|| WIDTHS[self.choose(WIDTHS.len())]);
                Some(self.of_width(width))
            }
            (Kind::F32, [rows, columns]) if *rows != Term::Known(Symbol::Sequences.into()) => {
                let width = self.size(columns, bound)?;
                Some(self.of_width(width))
            }
            (Kind::Float | Kind::Matrix, dims) => {
                let shape = dims.iter().map(|term| self.size(term, bound)).collect::<Option<Vec<_>>>()?;
                Some(self.parameter(&shape))
            }
            _ => None,
        }
    }

    /// A size for a dimension: any width for a letter that has no value yet.
    fn size(&mut self, term: &Term, bound: &mut Bindings) -> Option<usize> {
        match term {
            Term::Letter(_) if bound.eval(term).is_none() => {
                bound.bind(term, WIDTHS[self.choose(WIDTHS.len())].into());
            }
            Term::Sum(a, b) | Term::Difference(a, b) | Term::Product(a, b) => {
                self.size(a, bound)?;
                self.size(b, bound)?;
            }
            _ => {}
        }
        bound.fixed(term).filter(|&size| size > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    use super::*;

    #[test]
    fn every_op_on_rows_and_parameters_occurs() {
        let mut runner = TestRunner::deterministic();
        let bytes = prop::collection::vec(any::<u8>(), 0..120);
        let mut found = BTreeSet::new();
        for _ in 0..2000 {
            let graph = graph(&bytes.new_tree(&mut runner).unwrap().current());
            found.extend(graph.order().into_iter().map(|node| graph.op(node).name()));
        }
        let missing = |op: Op| (!found.contains(op.name())).then(|| op.name());
        let all = (0..1000).map(|n| Op::sample(&mut |of| n % of));
        let missing: BTreeSet<&str> = all.filter_map(missing).collect();
        // Each reads a state, or rows of expert slots, in a form that only passes make.
        assert_eq!(
            missing.into_iter().collect::<Vec<_>>(),
            ["append_attention", "grouped_combine", "grouped_swiglu", "norm_proj_conv"]
        );
    }
}
