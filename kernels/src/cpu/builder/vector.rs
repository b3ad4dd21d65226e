//! Between lanes: broadcast, extract, insert, shuffle, reduce.

use super::{Builder, Num, Type, Value};
use melior::ir::attribute::{ArrayAttribute, DenseI64ArrayAttribute, IntegerAttribute};
use melior::ir::{Attribute, r#type::IntegerType};

impl Builder<'_> {
    /// A scalar in every lane.
    #[track_caller]
    pub fn broadcast(&self, x: Value, lanes: usize) -> Value {
        assert_eq!(x.ty.lanes, None, "broadcast of a vector");
        self.op1("vector.broadcast", &[x], Type::vector(x.ty.num, lanes), &[])
    }

    /// Lane `lane` of a vector.
    #[track_caller]
    pub fn extract(&self, x: Value, lane: usize) -> Value {
        assert!(lane < x.lanes() && x.ty.lanes.is_some(), "extract lane {lane} of {}", x.ty);
        let position = DenseI64ArrayAttribute::new(self.context, &[lane as i64]).into();
        self.op1("vector.extract", &[x], Type::scalar(x.ty.num), &[("static_position", position)])
    }

    /// The vector with `scalar` in lane `lane`.
    #[track_caller]
    pub fn insert(&self, scalar: Value, x: Value, lane: usize) -> Value {
        assert!(lane < x.lanes() && scalar.ty == Type::scalar(x.ty.num), "insert {} in {}", scalar.ty, x.ty);
        let position = DenseI64ArrayAttribute::new(self.context, &[lane as i64]).into();
        self.op1("vector.insert", &[scalar, x], x.ty, &[("static_position", position)])
    }

    /// A vector of the lanes that `lanes` names: 0 and up from x, `x.lanes()` and up from y.
    #[track_caller]
    pub fn shuffle(&self, x: Value, y: Value, lanes: &[usize]) -> Value {
        assert!(x.ty == y.ty && x.ty.lanes.is_some(), "shuffle of {} and {}", x.ty, y.ty);
        assert!(lanes.iter().all(|&lane| lane < 2 * x.lanes()), "shuffle of {} by {lanes:?}", x.ty);
        let i64_type = IntegerType::new(self.context, 64).into();
        let mask: Vec<Attribute> =
            lanes.iter().map(|&lane| IntegerAttribute::new(i64_type, lane as i64).into()).collect();
        let mask = ArrayAttribute::new(self.context, &mask).into();
        self.op1("vector.shuffle", &[x, y], Type::vector(x.ty.num, lanes.len()), &[("mask", mask)])
    }

    /// `count` lanes from `first` on.
    #[track_caller]
    pub fn slice(&self, x: Value, first: usize, count: usize) -> Value {
        self.shuffle(x, x, &(first..first + count).collect::<Vec<_>>())
    }

    /// The lanes of vectors of one type, one vector after the other; their number is a power of two.
    #[track_caller]
    pub fn concat(&self, parts: &[Value]) -> Value {
        match parts {
            [all] => *all,
            _ => {
                let (low, high) = parts.split_at(parts.len() / 2);
                let (low, high) = (self.concat(low), self.concat(high));
                self.shuffle(low, high, &(0..2 * low.lanes()).collect::<Vec<_>>())
            }
        }
    }

    /// The bits of a vector as lanes of another width.
    #[track_caller]
    pub fn reinterpret(&self, x: Value, num: Num) -> Value {
        let bytes = x.lanes() * x.ty.num.bytes();
        assert!(x.ty.lanes.is_some() && bytes.is_multiple_of(num.bytes()), "reinterpret {} as {num}", x.ty);
        self.op1("vector.bitcast", &[x], Type::vector(num, bytes / num.bytes()), &[])
    }

    /// `x₀ y₀ x₁ y₁ …`
    #[track_caller]
    pub fn interleave(&self, x: Value, y: Value) -> Value {
        let lanes: Vec<usize> = (0..x.lanes()).flat_map(|lane| [lane, x.lanes() + lane]).collect();
        self.shuffle(x, y, &lanes)
    }

    /// The sum of all lanes, in a fixed order: the upper half is added to the lower until one lane is left, so that
    /// the rounding depends on the number of lanes alone, never on the target.
    #[track_caller]
    pub fn reduce_add(&self, x: Value) -> Value {
        self.reduce(x, |x, y| self.add(x, y))
    }

    /// The greatest lane, in the order of [`reduce_add`](Self::reduce_add).
    #[track_caller]
    pub fn reduce_max(&self, x: Value) -> Value {
        self.reduce(x, |x, y| self.max(x, y))
    }

    #[track_caller]
    fn reduce(&self, x: Value, combine: impl Fn(Value, Value) -> Value) -> Value {
        assert!(x.lanes().is_power_of_two() && x.ty.lanes.is_some(), "reduce {}: lanes not a power of two", x.ty);
        assert_ne!(x.ty.num, Num::I1, "reduce {}", x.ty);
        let mut x = x;
        while x.lanes() > 1 {
            let half = x.lanes() / 2;
            x = combine(self.slice(x, 0, half), self.slice(x, half, half));
        }
        self.extract(x, 0)
    }
}
