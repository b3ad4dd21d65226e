//! The kernel body of the draw.

use super::{Setting, Spec};
use crate::cpu::builder::{Carried, Num, Type, Value};
use crate::hopper::{Builder, COLUMNS};
use crate::sample::hopper::NO_TOKEN;
use crate::sample::hopper::row::{Largest, Logit, NO_KEY, Row, ordered};

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let number = b.block();
    b.if_(number.lt(b.count("outputs")), || {
        let row = Row::new(b, spec.vocab, number);
        // 1. largest
        let largest = row.largest();
        let at = b.row(b.pointer("settings"), number, 4 * Setting::WORDS);
        let word = |index: usize, num: Num| b.load(b.at_byte(at, 4 * index), Type::scalar(num));
        let temperature = word(Setting::TEMPERATURE, Num::F32);
        let is_settled = temperature.eq(0.0) | largest.token.eq(NO_TOKEN);
        let likeliest = largest.token;
        let draw = || {
            let draw = Draw { b, row, largest, temperature: temperature.to_f64() };
            let kept = draw.top_k(word(Setting::TOP_K, Num::I32));
            let kept = draw.top_p(kept, word(Setting::TOP_P, Num::F32).to_f64());
            let uniform = uniform(Setting::DRAW.map(|half| word(half, Num::I32)));
            draw.walk(kept, word(Setting::MIN_P, Num::F32).to_f64(), uniform)
        };
        let token = b.if_else(is_settled, || likeliest, draw);
        b.if_(b.thread().eq(0), || {
            b.store(token, b.at(b.pointer("tokens"), number * 4));
        });
    });
}

/// One row from which a token is drawn.
struct Draw<'a, 'm> {
    b: &'a Builder<'m>,
    row: Row<'a, 'm>,
    largest: Largest,
    /// f64
    temperature: Value,
}

/// The remaining tokens: those with a key above `key`, and those with this key up to token `last`.
#[derive(Clone, Copy)]
struct Kept {
    key: Value,
    last: Value,
    /// Number of tokens, i32.
    count: Value,
}

/// Result of the bisection: the greatest sufficient key, how many tokens have it or a greater one, and how many have a
/// greater one.
struct Edge {
    key: Value,
    reach: Value,
    above: Value,
}

impl<'m> Draw<'_, 'm> {
    /// 2. Keeps the `k` most likely tokens, unless k is 0.
    fn top_k(&self, k: Value) -> Kept {
        let b = self.b;
        let any = b.i32(NO_KEY + 1);
        let n = self.count(|logit| logit.key.ge(any));
        let all = Kept { key: any, last: b.i32(i32::MAX), count: n };
        let is_limited = k.gt(0) & k.lt(n);
        let limit = || {
            let edge = self.halve(any, n, |key| {
                let count = self.count(|logit| logit.key.ge(key));
                (count.ge(k), count)
            });
            let last = self.last_of(&edge, k - edge.above, b.i32(i32::MAX));
            Kept { key: edge.key, last, count: k }
        };
        b.if_else(is_limited, limit, || all)
    }

    /// 3. Of the kept tokens, keeps the most likely ones that together reach the fraction `p` of the weight, if p is below
    ///    1.
    fn top_p(&self, kept: Kept, p: Value) -> Kept {
        let b = self.b;
        let limit = || {
            let sum = self.weigh(kept, |_| None);
            let wanted = p * sum;
            let edge = self.halve(kept.key, kept.count, |key| {
                let own = self.own_weight(kept, |logit| Some(logit.key.ge(key)));
                let [sum, count] = own.map(|x| self.total(x));
                (sum.ge(wanted), count)
            });
            // Keep as many tokens at the edge as are needed to reach the fraction that those above leave open.
            let above = self.weigh(kept, |logit| Some(logit.key.gt(edge.key)));
            let alike = edge.reach - edge.above;
            let bits = ordered(edge.key);
            let share = (wanted - above) / self.weight(bits.bitcast(Num::F32));
            let is_few = share.lt(alike.to_f64());
            let share = is_few.select(share, alike.to_f64());
            let whole = share.to_i32();
            let is_whole = whole.to_f64().ge(share);
            let needed = is_whole.select(whole, whole + 1).max(1);
            // Above the edge of top-k, all tokens with the key are kept.
            let is_same = edge.key.eq(kept.key);
            let last = self.last_of(&edge, needed, is_same.select(kept.last, i32::MAX));
            Kept { key: edge.key, last, count: edge.above + needed }
        };
        b.if_else(p.lt(1.0), limit, || kept)
    }

    /// 4. The first token, in token order, at which the running sum of weights exceeds the fraction `uniform`.
    fn walk(&self, kept: Kept, min_p: Value, uniform: Value) -> Value {
        let (b, row) = (self.b, &self.row);
        let zero = b.f64(0.0);
        let weight_of = |logit: Logit| {
            let weight = || {
                let weight = self.weight(logit.value);
                weight.ge(min_p).select(weight, zero)
            };
            b.if_else(kept.has(logit), weight, || zero)
        };
        let own = row.fold(zero, |sum, logit| sum + weight_of(logit));
        let sum = self.total(own);
        let share = uniform * sum;
        let none = b.i32(i32::MAX);
        let is_open = |[first, _, found]: [Value; 3]| first.lt(row.vocab) & found.eq(none);
        let tile = |[first, passed, _]: [Value; 3]| {
            let column = first + b.thread() * COLUMNS;
            let weights = || row.logits(column).into_iter().map(weight_of).collect();
            let weights: Vec<Value> = b.if_else(column.lt(row.vocab), weights, || vec![zero; COLUMNS]);
            let own = weights[1..].iter().fold(weights[0], |sum, &weight| sum + weight);
            let [before, total] = b.block_scan(own, row.scratch);
            let mut up_to = passed + before;
            let mut found = none;
            for (lane, &weight) in weights.iter().enumerate() {
                up_to = up_to + weight;
                let is_it = up_to.gt(share) & weight.gt(zero);
                found = found.min(is_it.select(column + lane, none));
            }
            let found = b.block_reduce(found, row.scratch, |x, y| x.min(y));
            [first + row.tile(), passed + total, found]
        };
        let [_, _, found] = b.while_([b.i32(0), zero, none], is_open, tile);
        // Rounding in the last bit may leave no token.
        found.eq(none).select(self.largest.token, found)
    }

    fn weight(&self, value: Value) -> Value {
        let b = self.b;
        let below = value.to_f64() - self.largest.value.to_f64();
        b.exp_f64(below / self.temperature)
    }

    /// Number of logits of the row that satisfy a condition.
    fn count(&self, condition: impl Fn(Logit) -> Value) -> Value {
        let b = self.b;
        let own = self.row.fold(b.i32(0), |n, logit| n + condition(logit).to_i32());
        self.total(own)
    }

    /// The weight of the kept tokens that satisfy a condition; of all kept tokens if the condition is `None`.
    fn weigh(&self, kept: Kept, condition: impl Fn(Logit) -> Option<Value>) -> Value {
        let [own, _] = self.own_weight(kept, condition);
        self.total(own)
    }

    /// The sum over the block.
    fn total(&self, own: Value) -> Value {
        self.b.block_reduce(own, self.row.scratch, |x, y| x + y)
    }

    /// The weight and the number of this thread's kept tokens that satisfy a condition.
    fn own_weight(&self, kept: Kept, condition: impl Fn(Logit) -> Option<Value>) -> [Value; 2] {
        let b = self.b;
        self.row.fold([b.f64(0.0), b.i32(0)], |[sum, n], logit| {
            let is_kept = kept.has(logit);
            let takes_part = condition(logit).map_or(is_kept, |condition| is_kept & condition);
            let weigh = || [sum + self.weight(logit.value), n + 1];
            b.if_else(takes_part, weigh, || [sum, n])
        })
    }

    /// Finds the greatest sufficient key, starting at `least`, which is sufficient; `reach` tokens have `least` or a
    /// greater key. `enough` returns whether a key is sufficient, and how many tokens have it or a greater one.
    fn halve(&self, least: Value, reach: Value, enough: impl FnOnce(Value) -> (Value, Value)) -> Edge {
        let b = self.b;
        // If only one token is between the two bounds, every key of the interval selects the same tokens.
        let is_open = |[least, most, reach, above]: [Value; 4]| least.lt(most) & (reach - above).gt(1);
        let step = |[least, most, reach, above]: [Value; 4]| {
            let span = most - least;
            let middle = least + ((span >> 1) + (span & 1));
            let (is_enough, count) = enough(middle);
            [
                is_enough.select(middle, least),
                is_enough.select(most, middle - 1),
                is_enough.select(count, reach),
                is_enough.select(above, count),
            ]
        };
        let most = ordered(self.largest.value.bitcast(Num::I32));
        let [key, _, reach, above] = b.while_([least, most, reach, b.i32(0)], is_open, step);
        Edge { key, reach, above }
    }

    /// The token up to which `needed` tokens have the edge's key; `all` if no more tokens have it.
    fn last_of(&self, edge: &Edge, needed: Value, all: Value) -> Value {
        let b = self.b;
        let search = || {
            let is_open = |[first, last]: [Value; 2]| first.lt(last);
            let step = |[first, last]: [Value; 2]| {
                let middle = first + ((last - first) >> 1);
                let n = self.count(|logit| logit.key.eq(edge.key) & logit.token.le(middle));
                let is_enough = n.ge(needed);
                [is_enough.select(first, middle + 1), is_enough.select(middle, last)]
            };
            let [_, last] = b.while_([b.i32(0), b.i32(self.row.vocab as i32 - 1)], is_open, step);
            last
        };
        b.if_else(needed.ge(edge.reach - edge.above), || all, search)
    }
}

/// The upper 53 of 64 random bits as a number in [0, 1).
fn uniform([low, high]: [Value; 2]) -> Value {
    let high = high.to_f64() * 2f64.powi(21);
    (high + (low >> 11).to_f64()) * 2f64.powi(-53)
}

impl Kept {
    fn has(&self, logit: Logit) -> Value {
        let is_above = logit.key.gt(self.key);
        is_above | (logit.key.eq(self.key) & logit.token.le(self.last))
    }
}

impl Carried for Kept {
    fn values(self) -> Vec<Value> {
        vec![self.key, self.last, self.count]
    }

    fn of(values: &[Value]) -> Kept {
        Kept { key: values[0], last: values[1], count: values[2] }
    }
}
