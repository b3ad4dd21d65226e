//! A row distributed over the threads of a block: each thread processes vectors of four columns at a distance of one block
//! width. Blocks have [`super::row_threads`] threads.

use super::{Builder, COLUMNS};
use crate::cpu::builder::{Num, Type, Value};
use crate::kernel::Elem;

/// Calls `body` for each vector of this thread with its first column, an i32, if that is one of `cols` columns. The last
/// vector may extend beyond the last column, into the row's padding.
#[track_caller]
pub(crate) fn for_each_vector(b: &Builder, cols: usize, mut body: impl FnMut(usize, Value)) {
    let threads = b.threads_per_block() as usize;
    let vectors = cols.div_ceil(COLUMNS);
    let first = b.thread() * COLUMNS;
    for number in 0..vectors.div_ceil(threads) {
        let column = first + number * threads * COLUMNS;
        if (number + 1) * threads <= vectors {
            body(number, column);
        } else {
            b.if_(column.lt(cols), || body(number, column));
        }
    }
}

/// Like [`for_each_vector`], and returns the results of the bodies, which are f32 vectors; zeros if there is no column.
#[track_caller]
pub(crate) fn map_vectors(b: &Builder, cols: usize, mut body: impl FnMut(Value) -> Value) -> Vec<Value> {
    let threads = b.threads_per_block() as usize;
    let vectors = cols.div_ceil(COLUMNS);
    let first = b.thread() * COLUMNS;
    (0..vectors.div_ceil(threads))
        .map(|number| {
            let column = first + number * threads * COLUMNS;
            if (number + 1) * threads <= vectors {
                return body(column);
            }
            let inside = column.lt(cols);
            let [x] = b.if_else(inside, || [body(column)], || [b.splat(0.0, COLUMNS)]);
            x
        })
        .collect()
}

/// `x` with zeros in the lanes beyond the last column.
#[track_caller]
pub(crate) fn masked(b: &Builder, cols: usize, column: Value, x: Value) -> Value {
    if cols.is_multiple_of(COLUMNS) {
        return x;
    }
    let columns = column.broadcast(COLUMNS) + b.iota(COLUMNS);
    columns.lt(b.splat_i32(cols as i32, COLUMNS)).select(x, b.splat(0.0, COLUMNS))
}

/// Loads four elements of an f32 or bf16 row as f32, from `column` on.
#[track_caller]
pub(crate) fn load(b: &Builder, elem: Elem, row: Value, column: Value) -> Value {
    match elem {
        Elem::F32 => load_f32(b, row, column),
        Elem::Bf16 => load_bf16(b, row, column),
        _ => panic!("a row of {}", elem.name()),
    }
}

/// Loads four elements of a dense f32 vector with `cols` elements; zeros beyond its end, where nothing is read.
#[track_caller]
pub(crate) fn load_dense(b: &Builder, vector: Value, cols: usize, column: Value) -> Value {
    let at = b.at(vector, column * 4);
    if cols.is_multiple_of(COLUMNS) {
        return b.load(at, Type::vector(Num::F32, COLUMNS));
    }
    (0..COLUMNS).fold(b.splat(0.0, COLUMNS), |x, lane| {
        let inside = (column + lane).lt(cols);
        let element = || [b.load(b.at_byte(at, 4 * lane), Type::scalar(Num::F32))];
        let [element] = b.if_else(inside, element, || [b.f32(0.0)]);
        x.with_lane(lane, element)
    })
}

/// This thread's vectors of a dense f32 vector with `cols` elements, in the order of [`for_each_vector`]. The compiler does
/// not move the loads, so that they overlap with later ones. `None` if `cols` is no multiple of a vector's length.
#[track_caller]
pub(crate) fn load_dense_ahead(b: &Builder, vector: Value, cols: usize) -> Option<Vec<Value>> {
    if !cols.is_multiple_of(COLUMNS) {
        return None;
    }
    let threads = b.threads_per_block() as usize;
    let load = |number: usize| {
        let column = b.thread() * COLUMNS + number * threads * COLUMNS;
        let words = b.load_or_zero(b.at(vector, column * 4), column.lt(cols));
        self::vector(&words.map(|word| word.bitcast(Num::F32)))
    };
    Some((0..cols.div_ceil(COLUMNS).div_ceil(threads)).map(load).collect())
}

/// Loads four f32 of a row, from `column` on.
#[track_caller]
pub(crate) fn load_f32(b: &Builder, row: Value, column: Value) -> Value {
    b.load(b.at(row, column * 4), Type::vector(Num::F32, COLUMNS))
}

/// Stores four f32 to an f32 or bf16 row, from `column` on.
#[track_caller]
pub(crate) fn store(b: &Builder, x: Value, elem: Elem, row: Value, column: Value) {
    let to = b.at(row, column * elem.bytes());
    match elem {
        Elem::F32 => b.store(x, to),
        Elem::Bf16 => {
            let [low, high] = [0, 2].map(|lane| b.pack_bf16(x.lane(lane), x.lane(lane + 1)));
            let pairs = low.broadcast(2).with_lane(1, high);
            b.store(pairs, to);
        }
        _ => panic!("a row of {}", elem.name()),
    }
}

/// 1 / sqrt(mean square of a row's columns + eps), in every lane of a vector. `x` are this thread's vectors of the row,
/// zero beyond the last column.
#[track_caller]
pub(crate) fn inverse_rms(b: &Builder, cols: usize, eps: f64, x: &[Value], scratch: Value) -> Value {
    let squares = x.iter().fold(b.splat(0.0, COLUMNS), |squares, &x| x.mul_add(x, squares));
    inverse(b, cols, eps, b.block_sum(squares.reduce_add(), scratch))
}

/// 1 / sqrt(sum of squares / cols + eps), in every lane of a vector.
#[track_caller]
pub(crate) fn inverse(b: &Builder, cols: usize, eps: f64, squares: Value) -> Value {
    let mean = squares * (1.0 / cols as f32);
    b.rsqrt(mean + eps as f32).broadcast(COLUMNS)
}

/// Loads four bf16 of a row as f32, from `column` on.
#[track_caller]
pub(crate) fn load_bf16(b: &Builder, row: Value, column: Value) -> Value {
    let pairs = b.load(b.at(row, column * 2), Type::vector(Num::I32, COLUMNS / 2));
    let [x, y] = [0, 1].map(|pair| b.unpack_bf16(pairs.lane(pair)));
    vector(&[x, y].concat())
}

/// Builds a vector from scalars.
#[track_caller]
pub(crate) fn vector(lanes: &[Value]) -> Value {
    let first = lanes[0].broadcast(lanes.len());
    lanes.iter().enumerate().skip(1).fold(first, |x, (lane, &scalar)| x.with_lane(lane, scalar))
}

/// Copies the bytes of a row, rounded up to a multiple of 16, with a block of [`super::copy_threads`] threads.
#[track_caller]
pub(crate) fn copy(b: &Builder, from: Value, to: Value, bytes: usize) {
    const PIECE: usize = 16;
    let (threads, pieces) = (b.threads_per_block() as usize, bytes.div_ceil(PIECE));
    for first in (0..pieces).step_by(threads) {
        let piece = b.thread() + first;
        let at = piece * PIECE;
        let copy = || b.store(b.load(b.at(from, at), Type::vector(Num::I32, 4)), b.at(to, at));
        match first + threads <= pieces {
            true => copy(),
            false => b.if_(piece.lt(pieces), copy),
        }
    }
}

/// Applies a scalar function lane by lane.
#[track_caller]
pub(crate) fn map(x: Value, function: impl Fn(Value) -> Value) -> Value {
    vector(&(0..x.lanes()).map(|lane| function(x.lane(lane))).collect::<Vec<_>>())
}
