//! Work that is found on the device: each sequence has some pieces, which the blocks of the grid take in turn, sequence after
//! sequence, whatever the sequences' lengths.

use crate::cpu::builder::Value;
use crate::hopper::Builder;

/// Calls `body` with the sequence and the number in it of each piece of this block; `pieces` says how many a sequence has.
/// Values are carried from piece to piece.
#[track_caller]
pub fn deal(
    b: &Builder,
    pieces: impl FnOnce(Value) -> Value,
    init: &[Value],
    body: impl FnOnce(Value, Value, &[Value]) -> Vec<Value>,
) {
    let grid = b.n_blocks();
    let init = [&[b.block()], init].concat();
    b.for_range_vec(b.i32(0), b.count("sequences"), 1, &init, |s, carried| {
        let (first, carried) = (carried[0], &carried[1..]);
        let count = pieces(s);
        let rest = b.max(b.sub(count, first), b.i32(0));
        let turns = b.div(b.sub(b.add(rest, grid), b.i32(1)), grid);
        let carried = b.for_range_vec(b.i32(0), turns, 1, carried, |turn, carried| {
            body(s, b.add(first, b.mul(turn, grid)), carried)
        });
        let first = b.sub(b.add(first, b.mul(turns, grid)), count);
        [vec![first], carried].concat()
    });
}
