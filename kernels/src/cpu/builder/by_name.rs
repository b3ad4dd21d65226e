//! Operations by name, each the same as an operator or a method of [`Value`].

use super::{Builder, Compare, Num, Value};

impl Builder<'_> {
    /// `x + y`.
    #[track_caller]
    pub fn add(&self, x: Value, y: Value) -> Value {
        x + y
    }

    /// `x - y`.
    #[track_caller]
    pub fn sub(&self, x: Value, y: Value) -> Value {
        x - y
    }

    /// `x * y`.
    #[track_caller]
    pub fn mul(&self, x: Value, y: Value) -> Value {
        x * y
    }

    /// `x / y`.
    #[track_caller]
    pub fn div(&self, x: Value, y: Value) -> Value {
        x / y
    }

    /// `x % y`.
    #[track_caller]
    pub fn rem(&self, x: Value, y: Value) -> Value {
        x % y
    }

    /// `x & y`.
    #[track_caller]
    pub fn and(&self, x: Value, y: Value) -> Value {
        x & y
    }

    /// `x | y`.
    #[track_caller]
    pub fn or(&self, x: Value, y: Value) -> Value {
        x | y
    }

    /// `x ^ y`.
    #[track_caller]
    pub fn xor(&self, x: Value, y: Value) -> Value {
        x ^ y
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn max(&self, x: Value, y: Value) -> Value {
        x.max(y)
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn min(&self, x: Value, y: Value) -> Value {
        x.min(y)
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn interleave(&self, x: Value, y: Value) -> Value {
        x.interleave(y)
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn ceil_div(&self, x: Value, y: Value) -> Value {
        x.div_ceil(y)
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn neg(&self, x: Value) -> Value {
        -x
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn abs(&self, x: Value) -> Value {
        x.abs()
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn sqrt(&self, x: Value) -> Value {
        x.sqrt()
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn to_f32(&self, x: Value) -> Value {
        x.to_f32()
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn to_f64(&self, x: Value) -> Value {
        x.to_f64()
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn to_bf16(&self, x: Value) -> Value {
        x.to_bf16()
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn to_f16(&self, x: Value) -> Value {
        x.to_f16()
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn to_i32(&self, x: Value) -> Value {
        x.to_i32()
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn to_i16(&self, x: Value) -> Value {
        x.to_i16()
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn to_i8(&self, x: Value) -> Value {
        x.to_i8()
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn to_index(&self, x: Value) -> Value {
        x.to_index()
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn reduce_add(&self, x: Value) -> Value {
        x.reduce_add()
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn reduce_max(&self, x: Value) -> Value {
        x.reduce_max()
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn round_even(&self, x: Value) -> Value {
        x.round_ties_even()
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn fma(&self, x: Value, y: Value, z: Value) -> Value {
        x.mul_add(y, z)
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn shl(&self, x: Value, bits: u32) -> Value {
        x << bits
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn shr(&self, x: Value, bits: u32) -> Value {
        x >> bits
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn shr_signed(&self, x: Value, bits: u32) -> Value {
        x.shr_signed(bits)
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn cmp(&self, how: Compare, x: Value, y: Value) -> Value {
        x.cmp(how, y)
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn select(&self, condition: Value, x: Value, y: Value) -> Value {
        condition.select(x, y)
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn bitcast(&self, x: Value, num: Num) -> Value {
        x.bitcast(num)
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn reinterpret(&self, x: Value, num: Num) -> Value {
        x.reinterpret(num)
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn broadcast(&self, x: Value, lanes: usize) -> Value {
        x.broadcast(lanes)
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn extract(&self, x: Value, lane: usize) -> Value {
        x.lane(lane)
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn insert(&self, scalar: Value, x: Value, lane: usize) -> Value {
        x.with_lane(lane, scalar)
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn shuffle(&self, x: Value, y: Value, lanes: &[usize]) -> Value {
        x.shuffle(y, lanes)
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn slice(&self, x: Value, first: usize, count: usize) -> Value {
        x.slice(first, count)
    }

    /// [`Value`]'s method.
    #[track_caller]
    pub fn concat(&self, parts: &[Value]) -> Value {
        Value::concat(parts)
    }
}
