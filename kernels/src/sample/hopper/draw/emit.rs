//! The body of the draw.

use super::{Setting, Spec};
use crate::cpu::builder::{Compare, Num, Type, Value};
use crate::hopper::{Builder, COLUMNS};
use crate::sample::hopper::NO_TOKEN;
use crate::sample::hopper::row::{Largest, Logit, NO_KEY, Row};

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let number = b.block();
    b.if_(b.cmp(Compare::Lt, number, b.count("outputs")), || {
        let row = Row::new(b, spec.vocab, number);
        // 1. largest
        let largest = row.largest();
        let at = b.row(b.pointer("settings"), number, 4 * Setting::WORDS);
        let word = |index: usize, num: Num| b.load(b.at_byte(at, 4 * index), Type::scalar(num));
        let temperature = word(0, Num::F32);
        let is_greedy = b.cmp(Compare::Eq, temperature, b.f32(0.0));
        let is_settled = b.or(is_greedy, b.cmp(Compare::Eq, largest.token, b.i32(NO_TOKEN)));
        let likeliest = largest.token;
        let draw = || {
            let draw = Draw { b, row, largest, temperature: b.to_f64(temperature) };
            let kept = draw.top_k(word(1, Num::I32));
            let kept = draw.top_p(kept, b.to_f64(word(2, Num::F32)));
            let uniform = draw.uniform(word(4, Num::I32), word(5, Num::I32));
            [draw.walk(kept, b.to_f64(word(3, Num::F32)), uniform)]
        };
        let [token] = b.if_else(is_settled, || [likeliest], draw);
        b.if_(b.cmp(Compare::Eq, b.thread(), b.i32(0)), || {
            b.store(token, b.at(b.pointer("tokens"), b.scaled(number, 4)));
        });
    });
}

/// One row, of which a token is drawn.
struct Draw<'a, 'm> {
    b: &'a Builder<'m>,
    row: Row<'a, 'm>,
    largest: Largest,
    /// f64
    temperature: Value,
}

/// The tokens still in the draw: those with a key above `key`, and those with it up to token `last`.
#[derive(Clone, Copy)]
struct Kept {
    key: Value,
    last: Value,
    /// How many, i32.
    count: Value,
}

/// Where halving ended: the greatest key that is enough, how many tokens have it or a greater one, how many a greater one.
struct Edge {
    key: Value,
    reach: Value,
    above: Value,
}

impl<'m> Draw<'_, 'm> {
    /// 2. The `k` likeliest, where k is not 0.
    fn top_k(&self, k: Value) -> Kept {
        let b = self.b;
        let any = b.i32(NO_KEY + 1);
        let n = self.count(|logit| b.cmp(Compare::Ge, logit.key, any));
        let all = [any, b.i32(i32::MAX), n];
        let is_limited = b.and(b.cmp(Compare::Gt, k, b.i32(0)), b.cmp(Compare::Lt, k, n));
        let limit = || {
            let edge = self.halve(any, n, |key| {
                let count = self.count(|logit| b.cmp(Compare::Ge, logit.key, key));
                (b.cmp(Compare::Ge, count, k), count)
            });
            let last = self.last_of(&edge, b.sub(k, edge.above), b.i32(i32::MAX));
            [edge.key, last, k]
        };
        Kept::of(b.if_else(is_limited, limit, || all))
    }

    /// 3. Of what is kept the likeliest that together reach the share `p` of the weight, where that is below 1.
    fn top_p(&self, kept: Kept, p: Value) -> Kept {
        let b = self.b;
        let limit = || {
            let sum = self.weigh(kept, |_| None);
            let wanted = b.mul(p, sum);
            let edge = self.halve(kept.key, kept.count, |key| {
                let own = self.own_weight(kept, |logit| Some(b.cmp(Compare::Ge, logit.key, key)));
                let [sum, count] = own.map(|x| self.total(x));
                (b.cmp(Compare::Ge, sum, wanted), count)
            });
            // So many of those alike as reach what those above leave.
            let above = self.weigh(kept, |logit| Some(b.cmp(Compare::Gt, logit.key, edge.key)));
            let alike = b.sub(edge.reach, edge.above);
            let bits = b.xor(edge.key, b.and(b.shr_signed(edge.key, 31), b.i32(i32::MAX)));
            let share = b.div(b.sub(wanted, above), self.weight(b.bitcast(bits, Num::F32)));
            let is_few = b.cmp(Compare::Lt, share, b.to_f64(alike));
            let share = b.select(is_few, share, b.to_f64(alike));
            let whole = b.to_i32(share);
            let is_whole = b.cmp(Compare::Ge, b.to_f64(whole), share);
            let needed = b.max(b.select(is_whole, whole, b.add(whole, b.i32(1))), b.i32(1));
            // Above the edge of top-k all tokens that are alike are kept.
            let is_same = b.cmp(Compare::Eq, edge.key, kept.key);
            let last = self.last_of(&edge, needed, b.select(is_same, kept.last, b.i32(i32::MAX)));
            [edge.key, last, b.add(edge.above, needed)]
        };
        let is_limited = b.cmp(Compare::Lt, p, b.f64(1.0));
        Kept::of(b.if_else(is_limited, limit, || [kept.key, kept.last, kept.count]))
    }

    /// 4. The first token, in their order, up to which the weights sum to more than the share `uniform`.
    fn walk(&self, kept: Kept, min_p: Value, uniform: Value) -> Value {
        let (b, row) = (self.b, &self.row);
        let zero = b.f64(0.0);
        let weight_of = |logit: Logit| {
            let weight = || {
                let weight = self.weight(logit.value);
                [b.select(b.cmp(Compare::Ge, weight, min_p), weight, zero)]
            };
            let [weight] = b.if_else(kept.has(b, logit), weight, || [zero]);
            weight
        };
        let [own] = row.fold([zero], |[sum], logit| [b.add(sum, weight_of(logit))]);
        let sum = self.total(own);
        let share = b.mul(uniform, sum);
        let none = b.i32(i32::MAX);
        let is_open = |[first, _, found]: [Value; 3]| {
            let is_left = b.cmp(Compare::Lt, first, b.i32(row.vocab as i32));
            b.and(is_left, b.cmp(Compare::Eq, found, none))
        };
        let tile = |[first, passed, _]: [Value; 3]| {
            let column = b.add(first, b.scaled(b.thread(), COLUMNS));
            let weights = || row.logits(column).into_iter().map(weight_of).collect();
            let inside = b.cmp(Compare::Lt, column, b.i32(row.vocab as i32));
            let weights = b.if_else_vec(inside, weights, || vec![zero; COLUMNS]);
            let own = weights[1..].iter().fold(weights[0], |sum, &weight| b.add(sum, weight));
            let [before, total] = b.block_scan(own, row.scratch);
            let mut up_to = b.add(passed, before);
            let mut found = none;
            for (lane, &weight) in weights.iter().enumerate() {
                up_to = b.add(up_to, weight);
                let is_it = b.and(b.cmp(Compare::Gt, up_to, share), b.cmp(Compare::Gt, weight, zero));
                let token = b.add(column, b.i32(lane as i32));
                found = b.min(found, b.select(is_it, token, none));
            }
            let found = b.block_reduce(found, row.scratch, |x, y| b.min(x, y));
            [b.add(first, b.i32(row.tile() as i32)), b.add(passed, total), found]
        };
        let [_, _, found] = b.while_([b.i32(0), zero, none], is_open, tile);
        // The last bit of rounding may leave none.
        b.select(b.cmp(Compare::Eq, found, none), self.largest.token, found)
    }

    /// The upper 53 of 64 random bits as a number in [0, 1).
    fn uniform(&self, low: Value, high: Value) -> Value {
        let b = self.b;
        let high = b.mul(b.to_f64(high), b.f64(2f64.powi(21)));
        b.mul(b.add(high, b.to_f64(b.shr(low, 11))), b.f64(2f64.powi(-53)))
    }

    fn weight(&self, value: Value) -> Value {
        let b = self.b;
        let below = b.sub(b.to_f64(value), b.to_f64(self.largest.value));
        b.exp_f64(b.div(below, self.temperature))
    }

    /// How many logits of the row satisfy a condition.
    fn count(&self, condition: impl Fn(Logit) -> Value) -> Value {
        let b = self.b;
        let [own] = self.row.fold([b.i32(0)], |[n], logit| [b.add(n, b.to_i32(condition(logit)))]);
        self.total(own)
    }

    /// The weight of the kept tokens that satisfy a condition, of all of them where there is none.
    fn weigh(&self, kept: Kept, condition: impl Fn(Logit) -> Option<Value>) -> Value {
        let [own, _] = self.own_weight(kept, condition);
        self.total(own)
    }

    /// The sum over the block.
    fn total(&self, own: Value) -> Value {
        self.b.block_reduce(own, self.row.scratch, |x, y| self.b.add(x, y))
    }

    /// The weight and the number of this thread's kept tokens that satisfy a condition.
    fn own_weight(&self, kept: Kept, condition: impl Fn(Logit) -> Option<Value>) -> [Value; 2] {
        let b = self.b;
        self.row.fold([b.f64(0.0), b.i32(0)], |[sum, n], logit| {
            let is_kept = kept.has(b, logit);
            let takes_part = condition(logit).map_or(is_kept, |condition| b.and(is_kept, condition));
            let weigh = || [b.add(sum, self.weight(logit.value)), b.add(n, b.i32(1))];
            b.if_else(takes_part, weigh, || [sum, n])
        })
    }

    /// The greatest key that is enough, from `least` on, which is, and which `reach` tokens have or exceed; `enough` says so of a
    /// key, and how many tokens have it or a greater one.
    fn halve(&self, least: Value, reach: Value, enough: impl FnOnce(Value) -> (Value, Value)) -> Edge {
        let b = self.b;
        let one = b.i32(1);
        let is_open = |[least, most, reach, above]: [Value; 4]| {
            // With one token between the two every key of the interval names the same tokens.
            let is_wide = b.cmp(Compare::Lt, least, most);
            b.and(is_wide, b.cmp(Compare::Gt, b.sub(reach, above), one))
        };
        let step = |[least, most, reach, above]: [Value; 4]| {
            let span = b.sub(most, least);
            let middle = b.add(least, b.add(b.shr(span, 1), b.and(span, one)));
            let (is_enough, count) = enough(middle);
            [
                b.select(is_enough, middle, least),
                b.select(is_enough, most, b.sub(middle, one)),
                b.select(is_enough, count, reach),
                b.select(is_enough, above, count),
            ]
        };
        let most = b.bitcast(self.largest.value, Num::I32);
        let most = b.xor(most, b.and(b.shr_signed(most, 31), b.i32(i32::MAX)));
        let [key, _, reach, above] = b.while_([least, most, reach, b.i32(0)], is_open, step);
        Edge { key, reach, above }
    }

    /// The token up to which `needed` of those alike at an edge lie; `all` where that is all of them.
    fn last_of(&self, edge: &Edge, needed: Value, all: Value) -> Value {
        let b = self.b;
        let search = || {
            let is_open = |[first, last]: [Value; 2]| b.cmp(Compare::Lt, first, last);
            let step = |[first, last]: [Value; 2]| {
                let middle = b.add(first, b.shr(b.sub(last, first), 1));
                let n = self.count(|logit| {
                    let is_alike = b.cmp(Compare::Eq, logit.key, edge.key);
                    b.and(is_alike, b.cmp(Compare::Le, logit.token, middle))
                });
                let is_enough = b.cmp(Compare::Ge, n, needed);
                [b.select(is_enough, first, b.add(middle, b.i32(1))), b.select(is_enough, middle, last)]
            };
            let [_, last] = b.while_([b.i32(0), b.i32(self.row.vocab as i32 - 1)], is_open, step);
            [last]
        };
        let is_all = b.cmp(Compare::Ge, needed, b.sub(edge.reach, edge.above));
        let [last] = b.if_else(is_all, || [all], search);
        last
    }
}

impl Kept {
    fn of([key, last, count]: [Value; 3]) -> Kept {
        Kept { key, last, count }
    }

    fn has(&self, b: &Builder, logit: Logit) -> Value {
        let is_above = b.cmp(Compare::Gt, logit.key, self.key);
        let is_alike = b.cmp(Compare::Eq, logit.key, self.key);
        b.or(is_above, b.and(is_alike, b.cmp(Compare::Le, logit.token, self.last)))
    }
}
