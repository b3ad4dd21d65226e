//! Rows of bf16 in global memory as fragments of products: lane l has rows l / 4 and l / 4 + 8 of 16, and columns
//! 2 (l mod 4) and the next of each 8.

use crate::cpu::builder::{Compare, Num, Type, Value};
use crate::hopper::Builder;
use crate::hopper::asm::Effect;

/// The fragments of a row pair's `columns` columns for products over steps of 16 of them, zeros beyond. `rows` are where the
/// rows begin; without a second one, the rows from 8 on are zeros.
#[track_caller]
pub fn load(b: &Builder, columns: usize, rows: &[Value]) -> Vec<[Value; 4]> {
    // A register of its own: a constant that others share would be used between a wgmma and its fence.
    let zero = b.asm1(Effect::Memory, "mov.b32 $0, 0;", &[], Num::I32);
    let quad = b.scaled(b.and(b.thread(), b.i32(3)), 2);
    let step = |step: usize| {
        std::array::from_fn(|register| {
            let first = 16 * step + 8 * (register / 2);
            match rows.get(register % 2) {
                Some(&row) if first < columns => pair(b, columns, row, quad, first),
                _ => zero,
            }
        })
    };
    (0..columns.div_ceil(16)).map(step).collect()
}

/// Columns `first + quad` and the next; zeros beyond the last.
#[track_caller]
fn pair(b: &Builder, columns: usize, row: Value, quad: Value, first: usize) -> Value {
    let at = b.at_byte(b.at(row, b.scaled(quad, 2)), 2 * first);
    let word = || b.load(at, Type::scalar(Num::I32));
    let zero = || b.i32(0);
    if columns.is_multiple_of(2) && first + 8 <= columns {
        return word();
    }
    let inside = |e: usize| b.cmp(Compare::Lt, b.add(quad, b.i32((first + e) as i32)), b.i32(columns as i32));
    if columns.is_multiple_of(2) {
        let [x] = b.if_else(inside(0), || [word()], || [zero()]);
        return x;
    }
    // Rows do not begin at multiples of 4 bytes.
    let [low, high] = [0, 1].map(|e| {
        let half = || [b.to_i32(b.load(b.at_byte(at, 2 * e), Type::scalar(Num::I16)))];
        let [x] = b.if_else(inside(e), half, || [zero()]);
        b.and(x, b.i32(0xffff))
    });
    b.or(low, b.shl(high, 16))
}

/// Rounds two f32 to bf16 and stores them to columns `first + quad` and the next of a row, where there are so many.
#[track_caller]
pub fn store_pair(b: &Builder, columns: usize, row: Value, quad: Value, first: usize, [low, high]: [Value; 2]) {
    if first >= columns {
        return;
    }
    let at = b.at_byte(b.at(row, b.scaled(quad, 2)), 2 * first);
    let word = || b.store(b.pack_bf16(low, high), at);
    let inside = |e: usize| b.cmp(Compare::Lt, b.add(quad, b.i32((first + e) as i32)), b.i32(columns as i32));
    match (columns.is_multiple_of(2), first + 8 <= columns) {
        (true, true) => word(),
        (true, false) => b.if_(inside(0), word),
        (false, _) => {
            for (e, x) in [low, high].into_iter().enumerate() {
                b.if_(inside(e), || b.store(b.round_bf16(x), b.at_byte(at, 2 * e)));
            }
        }
    }
}
