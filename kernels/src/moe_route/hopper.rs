//! Routing on Hopper, by one block: a thread for each token, tiles of tokens one after the other.
//!
//!     p = softmax(logits[t, :]);  weights[t, j] = the p of the j-th largest logit, of equals the lowest e;  experts[t, j] = that e
//!     the slots t · top_k + j, sorted by experts[t, j], equals ascending:
//!     slots[i][0] = the i-th of them;  slots[slots[i][0]][1] = i;  offsets[e] = how many have an expert below e
//!
//! Weights are not renormalised. `experts` is the kernel's own workspace.
//! Bound by latency: tokens · n_experts numbers, read by one multiprocessor: some 10 µs for 8192 tokens.
//!
//! 1. for each tile: the largest logits and their probabilities; slots of each expert counted
//! 2. running sums: where each expert begins
//! 3. for each tile: slots of each warp and expert, their running sums, each slot to its place
//!
//! Counts of a warp are ballots: no order of threads reaches a result.

use crate::hopper::{WARP, row_stride};
use crate::kernel::{Cost, Counts, Elem, Param, Rows};
use jamba_plan::format::{Blocks, Launch};

/// Experts at most: a thread holds the logits of a token in registers.
pub const MAX_EXPERTS: usize = 64;

/// Experts beyond which a block has half as many threads, of twice as many registers.
const FEW_EXPERTS: usize = 32;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Experts; [`MAX_EXPERTS`] at most.
    pub n_experts: usize,
    /// Experts per token.
    pub top_k: usize,
    /// What the tokens are.
    pub rows: Rows,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        format!("moe_route_e{}_k{}_sm90", self.n_experts, self.top_k)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        vec![
            Param::read("logits", Elem::F32, &[row_stride(Elem::F32, self.n_experts)]),
            Param::write("weights", Elem::F32, &[row_stride(Elem::F32, self.top_k)]),
            Param::write("slots", Elem::I32, &[2]),
            Param::write("offsets", Elem::I32, &[]),
            Param::write("experts", Elem::I32, &[self.top_k]),
            Param::count("rows"),
        ]
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let rows = self.rows.count(counts) as f64;
        let (n_experts, top_k) = (self.n_experts as f64, self.top_k as f64);
        Cost { bytes: (rows * (n_experts + 4.0 * top_k) + n_experts) * 4.0, flops: rows * n_experts * (4.0 + top_k) }
    }

    pub(crate) fn launch(&self) -> Launch {
        let shared_words = self.n_experts as u32 * (1 + self.threads() / WARP);
        Launch::along_x(Blocks::Fixed(1), self.threads(), 4 * shared_words)
    }

    /// Threads of the block: tokens of a tile.
    fn threads(&self) -> u32 {
        if self.n_experts <= FEW_EXPERTS { 512 } else { 256 }
    }
}

#[cfg(feature = "emit")]
pub(crate) use emit::{Largest, emit, experts_of, short_row, sort};

#[cfg(feature = "emit")]
mod emit {
    use super::{MAX_EXPERTS, Spec};
    use crate::cpu::builder::{Num, Type, Value};
    use crate::hopper::{Builder, COLUMNS, WARP, row_stride};
    use crate::kernel::Elem;

    const I32: Type = Type::scalar(Num::I32);

    pub(crate) fn emit(b: &Builder, spec: &Spec) {
        sort(b, spec.n_experts, spec.top_k, |token| largest(b, spec, token));
    }

    /// Sorts the slots of all tokens by their experts, which `chosen` gives when it is first asked for those of a token, and which
    /// then stand in `experts`.
    pub(crate) fn sort(b: &Builder, n_experts: usize, top_k: usize, chosen: impl FnOnce(Value) -> Vec<Value>) {
        assert!(n_experts <= MAX_EXPERTS && top_k <= n_experts, "{top_k} of {n_experts} experts");
        let rows = b.count("rows");
        let is_expert = b.thread().lt(n_experts);
        let own = b.thread() * 4;
        // In shared memory: where the next slot of each expert goes; then the same by warp.
        let next = b.shared();
        let of_warp = b.shared_at(4 * n_experts);
        let warp_row = b.at(of_warp, b.warp() * (4 * n_experts));

        // 1. largest, and how many of each expert
        b.if_(is_expert, || b.store(b.i32(0), b.at(next, own)));
        b.sync();
        for_each_tile(b, rows, |token, is_token| {
            let chosen = b.if_else_vec(is_token, || chosen(token), || vec![b.i32(-1); top_k]);
            for expert in 0..n_experts {
                let count = b.count_ones(b.ballot(any_is(&chosen, expert)));
                let is_first = b.lane().eq(0);
                b.if_(is_first, || {
                    b.atomic_add_shared(b.at_byte(next, 4 * expert), count);
                });
            }
        });
        b.sync();

        // 2. running sums
        b.if_(b.thread().eq(0), || {
            let offsets = b.pointer("offsets");
            let end = (0..n_experts).fold(b.i32(0), |begin, expert| {
                let at = b.at_byte(next, 4 * expert);
                let end = begin + b.load(at, I32);
                b.store(begin, at);
                b.store(begin, b.at_byte(offsets, 4 * expert));
                end
            });
            b.store(end, b.at_byte(offsets, 4 * n_experts));
        });
        b.sync();

        // 3. places
        for_each_tile(b, rows, |token, is_token| {
            let load = || experts_of(b, top_k, token);
            let chosen: Vec<Value> = b.if_else_vec(is_token, load, || vec![b.i32(-1); top_k]);
            let below = b.lanes_below();
            let mut ranks = vec![b.i32(0); top_k];
            for expert in 0..n_experts {
                let who = b.ballot(any_is(&chosen, expert));
                let rank = b.count_ones(who & below);
                for (rank_of, &chosen) in ranks.iter_mut().zip(&chosen) {
                    let is = chosen.eq(expert);
                    *rank_of = is.select(rank, *rank_of);
                }
                b.if_(b.lane().eq(0), || {
                    b.store(b.count_ones(who), b.at_byte(warp_row, 4 * expert));
                });
            }
            b.sync();
            b.if_(is_expert, || {
                let end =
                    (0..(b.threads_per_block() / WARP) as usize).fold(b.load(b.at(next, own), I32), |begin, warp| {
                        let at = b.at(b.at_byte(of_warp, 4 * n_experts * warp), own);
                        let end = begin + b.load(at, I32);
                        b.store(begin, at);
                        end
                    });
                b.store(end, b.at(next, own));
            });
            b.sync();
            b.if_(is_token, || {
                for (j, (&expert, &rank)) in chosen.iter().zip(&ranks).enumerate() {
                    let place = b.load(b.at(warp_row, expert * 4), I32) + rank;
                    let slot = token * top_k + j;
                    let slots = b.pointer("slots");
                    b.store(slot, b.row(slots, place, 8));
                    b.store(place, b.at_byte(b.row(slots, slot, 8), 4));
                }
            });
            b.sync();
        });
    }

    /// The experts of a token, as they stand in memory.
    pub(crate) fn experts_of(b: &Builder, top_k: usize, token: Value) -> Vec<Value> {
        let experts = b.row(b.pointer("experts"), token, 4 * top_k);
        (0..top_k).map(|j| b.load(b.at_byte(experts, 4 * j), I32)).collect()
    }

    /// A row of f32 in registers.
    pub(crate) fn short_row(b: &Builder, rows: Value, row: Value, cols: usize) -> Vec<Value> {
        let row = b.row(rows, row, 4 * row_stride(Elem::F32, cols));
        let vector = |number: usize| {
            let x = b.load(b.at_byte(row, 16 * number), Type::vector(Num::F32, COLUMNS));
            (0..COLUMNS.min(cols - COLUMNS * number)).map(|lane| x.lane(lane)).collect::<Vec<_>>()
        };
        (0..cols.div_ceil(COLUMNS)).flat_map(vector).collect()
    }

    /// Calls `body` for each tile with this thread's token, and whether there is one; all threads take part.
    fn for_each_tile(b: &Builder, rows: Value, body: impl FnOnce(Value, Value)) {
        b.for_each(0, rows, b.threads_per_block() as usize, |first| {
            let token = first + b.thread();
            body(token, token.lt(rows));
        });
    }

    /// Whether one of the chosen experts is `expert`.
    fn any_is(chosen: &[Value], expert: usize) -> Value {
        let is = chosen.iter().map(|&chosen| chosen.eq(expert));
        is.reduce(|x, y| x | y).expect("an expert at least")
    }

    /// The experts of a token's largest logits, each once whatever the logits; they and their weights are written.
    fn largest(b: &Builder, spec: &Spec, token: Value) -> Vec<Value> {
        let &Spec { n_experts, top_k, .. } = spec;
        let x = short_row(b, b.pointer("logits"), token, n_experts);
        let log2_e = b.f32(std::f32::consts::LOG2_E);
        let most = x[1..].iter().fold(x[0], |most, &x| b.greater(most, x));
        let probability = |x: Value| b.exp2((x - most) * log2_e);
        let sum = x[1..].iter().fold(probability(x[0]), |sum, &x| sum + probability(x));
        let scale = b.reciprocal(sum);

        let weights = b.row(b.pointer("weights"), token, 4 * row_stride(Elem::F32, top_k));
        let experts = b.row(b.pointer("experts"), token, 4 * top_k);
        let mut largest = Largest::of(b, x);
        let choose = |j: usize| {
            let (logit, expert) = largest.take();
            b.store(probability(logit) * scale, b.at_byte(weights, 4 * j));
            b.store(expert, b.at_byte(experts, 4 * j));
            expert
        };
        (0..top_k).map(choose).collect()
    }

    /// The largest of some numbers, one after the other, each once whatever they are.
    pub(crate) struct Largest<'a, 'm> {
        b: &'a Builder<'m>,
        x: Vec<Value>,
        taken: Vec<Value>,
    }

    impl<'a, 'm> Largest<'a, 'm> {
        pub(crate) fn of(b: &'a Builder<'m>, x: Vec<Value>) -> Self {
            let taken = vec![b.i32(0).ne(0); x.len()];
            Largest { b, x, taken }
        }

        /// The largest that was not taken, of equals the first, and its index.
        pub(crate) fn take(&mut self) -> (Value, Value) {
            let b = self.b;
            let no = b.i32(0).ne(0);
            let mut best = (b.f32(0.0), b.i32(-1));
            for (index, (&x, &taken)) in self.x.iter().zip(&self.taken).enumerate() {
                let is_first = best.1.lt(0);
                let is_better = is_first | x.gt(best.0);
                let wins = taken.select(no, is_better);
                best = (wins.select(x, best.0), wins.select(index, best.1));
            }
            for (index, taken) in self.taken.iter_mut().enumerate() {
                *taken = *taken | best.1.eq(index);
            }
            best
        }
    }
}
