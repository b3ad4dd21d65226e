//! Selection in registers and sorting by expert, for fused routers and for the unfused kernels.

use super::{Builder, COLUMNS, WARP, row_stride};
use crate::cpu::builder::{Num, Type, Value};
use crate::kernel::Elem;
use crate::moe_route::hopper::MAX_EXPERTS;

const I32: Type = Type::scalar(Num::I32);

/// Sorts the slots of all tokens by expert into `slots` and `offsets`, in one block. `chosen` is called once per token,
/// returns its experts, and leaves them in `experts`.
///
/// 1. for each tile: count the slots of each expert
/// 2. prefix sums: each expert's first slot
/// 3. for each tile: count the slots per warp and expert, compute their prefix sums, place each slot
///
/// Counts within a warp are ballots, so the order of threads does not affect the result.
pub(crate) fn sort_by_expert(b: &Builder, n_experts: usize, top_k: usize, chosen: impl FnOnce(Value) -> Vec<Value>) {
    assert!(n_experts <= MAX_EXPERTS && top_k <= n_experts, "{top_k} of {n_experts} experts");
    let sort = Sort {
        b,
        n_experts,
        top_k,
        rows: b.count("rows"),
        is_expert: b.thread().lt(n_experts),
        own: b.thread() * 4,
        next: b.shared(),
        of_warp: b.shared_at(4 * n_experts),
    };
    let warp_row = b.at(sort.of_warp, b.warp() * (4 * n_experts));
    // 1. count
    b.if_(sort.is_expert, || b.store(b.i32(0), b.at(sort.next, sort.own)));
    b.sync();
    sort.count(chosen);
    b.sync();
    // 2. prefix sums
    b.if_(b.thread().eq(0), || sort.offsets());
    b.sync();
    // 3. places
    sort.place(warp_row);
}

struct Sort<'a, 'm> {
    b: &'a Builder<'m>,
    n_experts: usize,
    top_k: usize,
    /// Number of tokens.
    rows: Value,
    /// Whether this thread's number is an expert's.
    is_expert: Value,
    /// Offset of this thread's expert in a row of experts.
    own: Value,
    /// In shared memory: the next free position of each expert.
    next: Value,
    /// In shared memory: the same for each warp, one row of experts per warp.
    of_warp: Value,
}

impl Sort<'_, '_> {
    /// Adds the slots of each expert to `next`.
    fn count(&self, chosen: impl FnOnce(Value) -> Vec<Value>) {
        let b = self.b;
        self.for_each_tile(|token, is_token| {
            let chosen = b.if_else(is_token, || chosen(token), || vec![b.i32(-1); self.top_k]);
            for expert in 0..self.n_experts {
                let count = b.count_ones(b.ballot(any_is(&chosen, expert)));
                b.if_(b.lane().eq(0), || {
                    b.atomic_add_shared(b.at_byte(self.next, 4 * expert), count);
                });
            }
        });
    }

    /// Prefix sums of `next`, also written to `offsets`; by one thread.
    fn offsets(&self) {
        let b = self.b;
        let offsets = b.pointer("offsets");
        let end = (0..self.n_experts).fold(b.i32(0), |begin, expert| {
            let at = b.at_byte(self.next, 4 * expert);
            let end = begin + b.load(at, I32);
            b.store(begin, at);
            b.store(begin, b.at_byte(offsets, 4 * expert));
            end
        });
        b.store(end, b.at_byte(offsets, 4 * self.n_experts));
    }

    /// Places each slot; `warp_row` is the warp's row of `of_warp`.
    fn place(&self, warp_row: Value) {
        let &Sort { b, n_experts, top_k, .. } = self;
        self.for_each_tile(|token, is_token| {
            let chosen = b.if_else(is_token, || experts_of(b, top_k, token), || vec![b.i32(-1); top_k]);
            let below = b.lanes_below();
            let mut ranks = vec![b.i32(0); top_k];
            for expert in 0..n_experts {
                let who = b.ballot(any_is(&chosen, expert));
                let rank = b.count_ones(who & below);
                for (rank_of, &chosen) in ranks.iter_mut().zip(&chosen) {
                    *rank_of = chosen.eq(expert).select(rank, *rank_of);
                }
                b.if_(b.lane().eq(0), || b.store(b.count_ones(who), b.at_byte(warp_row, 4 * expert)));
            }
            b.sync();
            b.if_(self.is_expert, || self.advance());
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

    /// Prefix sums over the warps' counts of this thread's expert, starting at its next free position.
    fn advance(&self) {
        let b = self.b;
        let first = b.load(b.at(self.next, self.own), I32);
        let n_warps = (b.threads_per_block() / WARP) as usize;
        let end = (0..n_warps).fold(first, |begin, warp| {
            let at = b.at(b.at_byte(self.of_warp, 4 * self.n_experts * warp), self.own);
            let end = begin + b.load(at, I32);
            b.store(begin, at);
            end
        });
        b.store(end, b.at(self.next, self.own));
    }

    /// Calls `body` for each tile with this thread's token and whether it exists; all threads participate.
    fn for_each_tile(&self, body: impl FnOnce(Value, Value)) {
        let b = self.b;
        b.for_each(0, self.rows, b.threads_per_block() as usize, |first| {
            let token = first + b.thread();
            body(token, token.lt(self.rows));
        });
    }
}

/// Loads the experts of a token.
pub(crate) fn experts_of(b: &Builder, top_k: usize, token: Value) -> Vec<Value> {
    let experts = b.row(b.pointer("experts"), token, 4 * top_k);
    (0..top_k).map(|j| b.load(b.at_byte(experts, 4 * j), I32)).collect()
}

/// Loads an f32 row into registers.
pub(crate) fn short_row(b: &Builder, rows: Value, row: Value, cols: usize) -> Vec<Value> {
    let row = b.row(rows, row, 4 * row_stride(Elem::F32, cols));
    let vector = |number: usize| {
        let x = b.load(b.at_byte(row, 16 * number), Type::vector(Num::F32, COLUMNS));
        (0..COLUMNS.min(cols - COLUMNS * number)).map(|lane| x.lane(lane)).collect::<Vec<_>>()
    };
    (0..cols.div_ceil(COLUMNS)).flat_map(vector).collect()
}

/// Whether one of the chosen experts is `expert`.
fn any_is(chosen: &[Value], expert: usize) -> Value {
    chosen.iter().map(|&chosen| chosen.eq(expert)).reduce(|x, y| x | y).expect("an expert at least")
}

/// Selection of the largest numbers, in descending order, each taken once.
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

    /// Takes the largest remaining number and its index. Ties are broken by lowest index.
    pub(crate) fn take(&mut self) -> (Value, Value) {
        let b = self.b;
        let no = b.i32(0).ne(0);
        let mut best = (b.f32(0.0), b.i32(-1));
        for (index, (&x, &taken)) in self.x.iter().zip(&self.taken).enumerate() {
            let is_better = best.1.lt(0) | x.gt(best.0);
            let wins = taken.select(no, is_better);
            best = (wins.select(x, best.0), wins.select(index, best.1));
        }
        for (index, taken) in self.taken.iter_mut().enumerate() {
            *taken = *taken | best.1.eq(index);
        }
        best
    }
}
