//! Exact conversion of int8 weights to bf16 fragments: |q| ≤ 128 has seven bits besides the sign.
//!
//! ```text
//! 0x4300 | (q & 0x7f)             128 + the low seven bits
//! 0xc300 | (q & 0x80)             −128, or −256 if the sign is set
//! ```
//!
//! Their sum is q. Each pair of bytes takes one permutation, two logical operations and one addition.

use crate::cpu::builder::{Num, Value};
use crate::hopper::asm::Effect;
use crate::hopper::{Builder, fragment};

/// The left operands of four steps of 16 inputs: 16 bytes of the lane's row in each half, one word per step.
pub(super) fn fragments(b: &Builder, upper: [Value; 4], lower: [Value; 4]) -> Vec<[Value; 4]> {
    let operand = |step| {
        let [upper, lower] = [upper, lower].map(|row| widen(b, row[step]));
        fragment::left(upper, lower)
    };
    (0..4).map(operand).collect()
}

/// Four int8 as two pairs of bf16.
fn widen(b: &Builder, bytes: Value) -> [Value; 2] {
    ["0x4140", "0x4342"].map(|which| {
        let spread = b.asm1(Effect::Pure, &format!("prmt.b32 $0, $1, 0, {which};"), &[bytes], Num::I32);
        let bits = |mask: u32, exponent: u32| (spread & mask as i32) | exponent as i32;
        let (magnitude, offset) = (bits(0x007f_007f, 0x4300_4300), bits(0x0080_0080, 0xc300_c300));
        let one = b.i32(0x3f80_3f80);
        b.asm1(Effect::Pure, "fma.rn.bf16x2 $0, $1, $2, $3;", &[magnitude, one, offset], Num::I32)
    })
}
