//! Exact conversion of weights of one byte to bf16 fragments.
//!
//! int8: |q| ≤ 128 has seven bits besides the sign.
//!
//! ```text
//! 0x4300 | (q & 0x7f)             128 + the low seven bits
//! 0xc300 | (q & 0x80)             −128, or −256 if the sign is set
//! ```
//!
//! Their sum is q. Each pair of bytes takes one permutation, two logical operations and one addition.
//!
//! fp8: E4M3 has the bits of a bf16 with a sign, 4 bits of exponent and 3 of mantissa.
//!
//! ```text
//! (s e e e e m m m) → s 0000 eeee mmm 0000        as bf16: the number times 2⁻¹²⁰
//! ```
//!
//! Subnormal numbers too, because bf16 has them, and products of bf16 keep them. Each pair of bytes takes one permutation, a shift, two
//! logical operations and one product with 2¹²⁰. (There is no NaN: packing refuses it.)

use crate::cpu::builder::{Num, Value};
use crate::hopper::asm::Effect;
use crate::hopper::{Builder, fragment};
use crate::kernel::Elem;

/// The left operands of four steps of 16 inputs: 16 bytes of the lane's row in each half, one word per step.
pub(super) fn fragments(b: &Builder, format: Elem, upper: [Value; 4], lower: [Value; 4]) -> Vec<[Value; 4]> {
    let widen = if format == Elem::F8 { e4m3 } else { int8 };
    let operand = |step: usize| {
        let [upper, lower] = [upper, lower].map(|row| widen(b, row[step]));
        fragment::left(upper, lower)
    };
    (0..4).map(operand).collect()
}

/// Four E4M3 numbers as two pairs of bf16.
fn e4m3(b: &Builder, bytes: Value) -> [Value; 2] {
    ["0x1404", "0x3424"].map(|which| {
        // Each byte is the upper half of a word of 16 bits.
        let high = b.asm1(Effect::Pure, &format!("prmt.b32 $0, $1, 0, {which};"), &[bytes], Num::I32);
        let bits = ((high >> 4) & 0x07f0_07f0) | (high & 0x8000_8000_u32 as i32);
        // 2¹²⁰ in bf16, and −0, which adds nothing to any number.
        let (unit, zero) = (b.i32(0x7b80_7b80), b.i32(0x8000_8000_u32 as i32));
        b.asm1(Effect::Pure, "fma.rn.bf16x2 $0, $1, $2, $3;", &[bits, unit, zero], Num::I32)
    })
}

/// Four int8 as two pairs of bf16.
fn int8(b: &Builder, bytes: Value) -> [Value; 2] {
    ["0x4140", "0x4342"].map(|which| {
        let spread = b.asm1(Effect::Pure, &format!("prmt.b32 $0, $1, 0, {which};"), &[bytes], Num::I32);
        let bits = |mask: u32, exponent: u32| (spread & mask as i32) | exponent as i32;
        let (magnitude, offset) = (bits(0x007f_007f, 0x4300_4300), bits(0x0080_0080, 0xc300_c300));
        let one = b.i32(0x3f80_3f80);
        b.asm1(Effect::Pure, "fma.rn.bf16x2 $0, $1, $2, $3;", &[magnitude, one, offset], Num::I32)
    })
}
