//! Operations across lanes: broadcast, extract, insert, shuffle, reduce.

use super::types::{Num, Type, Value};
use super::value::{op, op_with};
use melior::Context;
use melior::ir::attribute::{ArrayAttribute, DenseI64ArrayAttribute, IntegerAttribute};
use melior::ir::{Attribute, r#type::IntegerType};

impl Value {
    /// Broadcasts a scalar to every lane.
    #[track_caller]
    pub fn broadcast(self, lanes: usize) -> Value {
        assert_eq!(self.ty.lanes, None, "broadcast of a vector");
        op("vector.broadcast", &[self], Type::vector(self.ty.num, lanes))
    }

    /// Lane `lane` of a vector.
    #[track_caller]
    pub fn lane(self, lane: usize) -> Value {
        assert!(lane < self.lanes() && self.ty.lanes.is_some(), "lane {lane} of {}", self.ty);
        op_with("vector.extract", &[self], Type::scalar(self.ty.num), "static_position", |context| {
            position(context, lane)
        })
    }

    /// The vector with `scalar` in lane `lane`.
    #[track_caller]
    pub fn with_lane(self, lane: usize, scalar: Value) -> Value {
        assert!(lane < self.lanes() && scalar.ty == Type::scalar(self.ty.num), "{} in {}", scalar.ty, self.ty);
        op_with("vector.insert", &[scalar, self], self.ty, "static_position", |context| position(context, lane))
    }

    /// The lanes selected by `lanes`: 0 and up from `self`, `self.lanes()` and up from `y`.
    #[track_caller]
    pub fn shuffle(self, y: Value, lanes: &[usize]) -> Value {
        assert!(self.ty == y.ty && self.ty.lanes.is_some(), "shuffle of {} and {}", self.ty, y.ty);
        assert!(lanes.iter().all(|&lane| lane < 2 * self.lanes()), "shuffle of {} by {lanes:?}", self.ty);
        op_with("vector.shuffle", &[self, y], Type::vector(self.ty.num, lanes.len()), "mask", |context| {
            let i64_type = IntegerType::new(context, 64).into();
            let mask = lanes.iter().map(|&lane| IntegerAttribute::new(i64_type, lane as i64).into());
            ArrayAttribute::new(context, &mask.collect::<Vec<Attribute>>()).into()
        })
    }

    /// `count` lanes, starting at `first`.
    #[track_caller]
    pub fn slice(self, first: usize, count: usize) -> Value {
        self.shuffle(self, &(first..first + count).collect::<Vec<_>>())
    }

    /// Concatenates vectors of one type; their number is a power of two.
    #[track_caller]
    pub fn concat(parts: &[Value]) -> Value {
        match parts {
            [all] => *all,
            _ => {
                let (low, high) = parts.split_at(parts.len() / 2);
                let (low, high) = (Value::concat(low), Value::concat(high));
                low.shuffle(high, &(0..2 * low.lanes()).collect::<Vec<_>>())
            }
        }
    }

    /// Reinterprets the bits of a vector as lanes of another width.
    #[track_caller]
    pub fn reinterpret(self, num: Num) -> Value {
        let bytes = self.lanes() * self.ty.num.bytes();
        assert!(self.ty.lanes.is_some() && bytes.is_multiple_of(num.bytes()), "reinterpret {} as {num}", self.ty);
        op("vector.bitcast", &[self], Type::vector(num, bytes / num.bytes()))
    }

    /// `self₀ y₀ self₁ y₁ …`
    #[track_caller]
    pub fn interleave(self, y: Value) -> Value {
        let lanes: Vec<usize> = (0..self.lanes()).flat_map(|lane| [lane, self.lanes() + lane]).collect();
        self.shuffle(y, &lanes)
    }

    /// The sum of all lanes, in a fixed order: the upper half is added to the lower half until one lane is left. Rounding
    /// therefore depends only on the number of lanes, never on the target.
    #[track_caller]
    pub fn reduce_add(self) -> Value {
        let lanes = self.assert_reducible();
        lanes.fold(self, |x, half| x.slice(0, half) + x.slice(half, half)).lane(0)
    }

    /// The maximum of all lanes, in the order of [`reduce_add`](Self::reduce_add).
    #[track_caller]
    pub fn reduce_max(self) -> Value {
        let lanes = self.assert_reducible();
        lanes.fold(self, |x, half| x.slice(0, half).max(x.slice(half, half))).lane(0)
    }

    /// The lane counts of the reduction steps: a half, a quarter, … 1.
    #[track_caller]
    fn assert_reducible(self) -> impl Iterator<Item = usize> {
        assert!(self.lanes().is_power_of_two() && self.ty.lanes.is_some(), "reduce {}: not a power of two", self.ty);
        assert_ne!(self.ty.num, Num::I1, "reduce {}", self.ty);
        (0..self.lanes().ilog2()).rev().map(|bit| 1 << bit)
    }
}

fn position(context: &Context, lane: usize) -> Attribute<'_> {
    DenseI64ArrayAttribute::new(context, &[lane as i64]).into()
}
