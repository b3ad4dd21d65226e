//! A row of logits distributed over the threads of a block, four at a time, and its largest logit.

use super::NO_TOKEN;
use crate::cpu::builder::{Carried, Num, Type, Value};
use crate::hopper::{Builder, COLUMNS, row_stride};
use crate::kernel::Elem;

/// The key of excluded logits: NaN, and those beyond the row.
pub(super) const NO_KEY: i32 = i32::MIN;

pub(super) struct Row<'a, 'm> {
    pub b: &'a Builder<'m>,
    pub vocab: usize,
    logits: Value,
    /// Eight bytes of shared memory for each warp.
    pub scratch: Value,
}

#[derive(Clone, Copy)]
pub(super) struct Logit {
    pub value: Value,
    /// i32 with the order of the logits, −0 below 0; [`NO_KEY`] for excluded logits.
    pub key: Value,
    pub token: Value,
}

/// The largest logit of a row.
pub(super) struct Largest {
    pub value: Value,
    /// The lowest token with this logit; [`NO_TOKEN`] if it is not finite.
    pub token: Value,
}

impl<'a, 'm> Row<'a, 'm> {
    /// Row `number`; the shared memory starts with the scratch area.
    pub fn new(b: &'a Builder<'m>, vocab: usize, number: Value) -> Self {
        let logits = b.row(b.pointer("logits"), number, 4 * row_stride(Elem::F32, vocab));
        Row { b, vocab, logits, scratch: b.shared() }
    }

    /// Columns that the block processes at once.
    pub fn tile(&self) -> usize {
        COLUMNS * self.b.threads_per_block() as usize
    }

    /// Loads the logits of this thread from column `first` on.
    pub fn logits(&self, first: Value) -> Vec<Logit> {
        let (b, vocab) = (self.b, self.vocab);
        let x = b.load(b.at(self.logits, first * 4), Type::vector(Num::F32, COLUMNS));
        let logit = |lane: usize| {
            let (value, token) = (x.lane(lane), first + lane);
            let key = key(value);
            let key = if vocab.is_multiple_of(COLUMNS) { key } else { token.lt(vocab).select(key, NO_KEY) };
            Logit { value, key, token }
        };
        (0..COLUMNS).map(logit).collect()
    }

    /// Folds over the logits of this thread, lowest token first, with carried values.
    pub fn fold<C: Carried>(&self, init: C, body: impl Fn(C, Logit) -> C) -> C {
        let first = self.b.thread() * COLUMNS;
        self.b.for_range(first, self.vocab, self.tile(), init, |column, carried| {
            self.logits(column).into_iter().fold(carried, &body)
        })
    }

    /// The largest logit, as in the host's `greedy`: −0 and 0 are equal.
    pub fn largest(&self) -> Largest {
        let b = self.b;
        let none = b.i32(i32::MAX);
        let [own, token] = self.fold([b.i32(NO_KEY), none], |[most, of], logit| {
            // The key of −0 is −1.
            let key = logit.key.eq(-1).select(0, logit.key);
            let is_more = key.gt(most);
            [is_more.select(key, most), is_more.select(logit.token, of)]
        });
        let most = b.block_reduce(own, self.scratch, |x, y| x.max(y));
        let token = own.eq(most).select(token, none);
        let token = b.block_reduce(token, self.scratch, |x, y| x.min(y));
        let above = most.gt(key_of(f32::NEG_INFINITY));
        let below = most.lt(key_of(f32::INFINITY));
        Largest { value: ordered(most).bitcast(Num::F32), token: (above & below).select(token, NO_TOKEN) }
    }
}

/// Maps the bits of an f32 to an i32 with the same order, and back.
pub(super) fn ordered(bits: Value) -> Value {
    bits ^ (bits.shr_signed(31) & i32::MAX)
}

fn key(value: Value) -> Value {
    let bits = value.bitcast(Num::I32);
    let magnitude = bits & i32::MAX;
    let ordered = ordered(bits);
    magnitude.le(f32::INFINITY.to_bits()).select(ordered, NO_KEY)
}

/// The key of a constant.
fn key_of(x: f32) -> i32 {
    let bits = x.to_bits() as i32;
    bits ^ (bits >> 31 & i32::MAX)
}
