//! A row over the threads of a block: each thread takes vectors of four columns, a block's width apart. Blocks are as
//! wide as [`super::row_threads`] says.

use super::{Builder, COLUMNS};
use crate::cpu::builder::{Compare, Num, Type, Value};
use crate::kernel::Elem;

/// Calls `body` for each vector of this thread with its first column, an i32, where that is one of `cols` columns. In the
/// last vector some columns may lie beyond; their memory is the row's padding.
#[track_caller]
pub(crate) fn for_each_vector(b: &Builder, cols: usize, mut body: impl FnMut(usize, Value)) {
    let threads = b.threads_per_block() as usize;
    let vectors = cols.div_ceil(COLUMNS);
    let first = b.scaled(b.thread(), COLUMNS);
    for number in 0..vectors.div_ceil(threads) {
        let column = b.add(first, b.i32((number * threads * COLUMNS) as i32));
        if (number + 1) * threads <= vectors {
            body(number, column);
        } else {
            b.if_(b.cmp(Compare::Lt, column, b.i32(cols as i32)), || body(number, column));
        }
    }
}

/// As [`for_each_vector`], giving what the bodies give, f32 vectors; zeros where there is no column.
#[track_caller]
pub(crate) fn map_vectors(b: &Builder, cols: usize, mut body: impl FnMut(Value) -> Value) -> Vec<Value> {
    let threads = b.threads_per_block() as usize;
    let vectors = cols.div_ceil(COLUMNS);
    let first = b.scaled(b.thread(), COLUMNS);
    (0..vectors.div_ceil(threads))
        .map(|number| {
            let column = b.add(first, b.i32((number * threads * COLUMNS) as i32));
            if (number + 1) * threads <= vectors {
                return body(column);
            }
            let inside = b.cmp(Compare::Lt, column, b.i32(cols as i32));
            let [x] = b.if_else(inside, || [body(column)], || [b.splat(0.0, COLUMNS)]);
            x
        })
        .collect()
}

/// Zero in the lanes beyond the last column.
#[track_caller]
pub(crate) fn masked(b: &Builder, cols: usize, column: Value, x: Value) -> Value {
    if cols.is_multiple_of(COLUMNS) {
        return x;
    }
    let columns = b.add(b.broadcast(column, COLUMNS), b.iota(COLUMNS));
    b.select(b.cmp(Compare::Lt, columns, b.splat_i32(cols as i32, COLUMNS)), x, b.splat(0.0, COLUMNS))
}

/// Four elements of a row of f32 or bf16 as f32, from the column on.
#[track_caller]
pub(crate) fn load(b: &Builder, elem: Elem, row: Value, column: Value) -> Value {
    match elem {
        Elem::F32 => load_f32(b, row, column),
        Elem::Bf16 => load_bf16(b, row, column),
        _ => panic!("a row of {}", elem.name()),
    }
}

/// Four elements of a dense f32 vector of `cols` elements, zero beyond its end, where nothing is read.
#[track_caller]
pub(crate) fn load_dense(b: &Builder, vector: Value, cols: usize, column: Value) -> Value {
    let at = b.at(vector, b.scaled(column, 4));
    if cols.is_multiple_of(COLUMNS) {
        return b.load(at, Type::vector(Num::F32, COLUMNS));
    }
    (0..COLUMNS).fold(b.splat(0.0, COLUMNS), |x, lane| {
        let inside = b.cmp(Compare::Lt, b.add(column, b.i32(lane as i32)), b.i32(cols as i32));
        let element = || [b.load(b.at_byte(at, 4 * lane), Type::scalar(Num::F32))];
        let [element] = b.if_else(inside, element, || [b.f32(0.0)]);
        b.insert(element, x, lane)
    })
}

/// Four f32 of a row, from the column on.
#[track_caller]
pub(crate) fn load_f32(b: &Builder, row: Value, column: Value) -> Value {
    b.load(b.at(row, b.scaled(column, 4)), Type::vector(Num::F32, COLUMNS))
}

/// Four f32 to a row of f32 or bf16, from the column on.
#[track_caller]
pub(crate) fn store(b: &Builder, x: Value, elem: Elem, row: Value, column: Value) {
    let to = b.at(row, b.scaled(column, elem.bytes()));
    match elem {
        Elem::F32 => b.store(x, to),
        Elem::Bf16 => {
            let [low, high] = [0, 2].map(|lane| b.pack_bf16(b.extract(x, lane), b.extract(x, lane + 1)));
            let pairs = b.insert(high, b.broadcast(low, 2), 1);
            b.store(pairs, to);
        }
        _ => panic!("a row of {}", elem.name()),
    }
}

/// One over the root of the mean square of a row's columns plus eps, in every lane of a vector; `x` are the row's vectors of
/// this thread, zero beyond the last column.
#[track_caller]
pub(crate) fn inverse_rms(b: &Builder, cols: usize, eps: f64, x: &[Value], scratch: Value) -> Value {
    let squares = x.iter().fold(b.splat(0.0, COLUMNS), |squares, &x| b.fma(x, x, squares));
    let sum = b.block_sum(b.reduce_add(squares), scratch);
    let mean = b.mul(sum, b.f32(1.0 / cols as f32));
    b.broadcast(b.rsqrt(b.add(mean, b.f32(eps as f32))), COLUMNS)
}

/// Four bf16 of a row as f32, from the column on.
#[track_caller]
pub(crate) fn load_bf16(b: &Builder, row: Value, column: Value) -> Value {
    let pairs = b.load(b.at(row, b.scaled(column, 2)), Type::vector(Num::I32, COLUMNS / 2));
    let [x, y] = [0, 1].map(|pair| b.unpack_bf16(b.extract(pairs, pair)));
    vector(b, &[x, y].concat())
}

/// The vector of these scalars.
#[track_caller]
pub(crate) fn vector(b: &Builder, lanes: &[Value]) -> Value {
    let first = b.broadcast(lanes[0], lanes.len());
    lanes.iter().enumerate().skip(1).fold(first, |x, (lane, &scalar)| b.insert(scalar, x, lane))
}

/// Copies the bytes of a row, and what is behind them up to a multiple of 16, by a block of [`super::copy_threads`].
#[track_caller]
pub(crate) fn copy(b: &Builder, from: Value, to: Value, bytes: usize) {
    const PIECE: usize = 16;
    let (threads, pieces) = (b.threads_per_block() as usize, bytes.div_ceil(PIECE));
    for first in (0..pieces).step_by(threads) {
        let piece = b.add(b.thread(), b.i32(first as i32));
        let at = b.scaled(piece, PIECE);
        let copy = || b.store(b.load(b.at(from, at), Type::vector(Num::I32, 4)), b.at(to, at));
        match first + threads <= pieces {
            true => copy(),
            false => b.if_(b.cmp(Compare::Lt, piece, b.i32(pieces as i32)), copy),
        }
    }
}

/// A function of scalars, lane by lane.
#[track_caller]
pub(crate) fn map(b: &Builder, x: Value, function: impl Fn(Value) -> Value) -> Value {
    vector(b, &(0..x.lanes()).map(|lane| function(b.extract(x, lane))).collect::<Vec<_>>())
}
