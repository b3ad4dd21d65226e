//! Matrix products with integer weights of 8, 4 and 3 bits.
//!
//! ```text
//! int8:  weight[i, j] = scale[i] · q[i, j]             −127 ≤ q ≤ 127, scale f32
//! int4:  weight[i, j] = scale[i, j / 32] · q[i, j]     −8 ≤ q ≤ 7, scale bf16
//! int3:  weight[i, j] = scale[i, j / 32] · q[i, j]     −4 ≤ q ≤ 3, scale bf16
//! ```
//!
//! Inputs are zero-padded to K, the next multiple of 32. A panel of 16 outputs holds
//!
//! ```text
//! int8:  [K / 2][16][2] bytes: inputs 2p and 2p + 1 of each output, adjacent
//! int4:  [K / 4][16][2] bytes: byte (p, i, s) has input 4p + s in its low nibble, 4p + 2 + s in its high nibble
//! int3:  [K / 32][3][16][2] words of 16 bits: word (g, w, i, s) has the inputs 32g + 10w + 2b + s for b = 0 … 4, three bits each, and
//!        in its highest bit the bit w of input 32g + 30 + s
//! ```
//!
//! Scales are in the slot after the weight: `[16]` for int8 and `[K / 32][16]` for int4 and int3, panel after panel.

use crate::kernel::{Elem, Param, padded};

#[cfg(feature = "emit")]
mod bytes;
#[cfg(feature = "emit")]
pub(super) mod product;
#[cfg(feature = "emit")]
mod quantize;
#[cfg(feature = "emit")]
mod tiles;
#[cfg(feature = "emit")]
pub(super) mod weights;

/// Inputs per scale of int4 and int3 weights; integer panels pad their inputs to a multiple of this.
pub const GROUP: usize = 32;

/// Inputs per scale of fp8 weights (`cpu::panel`).
pub const FP8_GROUP: usize = 128;

/// Number of inputs including padding.
pub fn padded_inputs(k: usize) -> usize {
    k.next_multiple_of(GROUP)
}

/// The slot of the weights' scales; `None` for formats without scales.
pub fn scales(format: Elem) -> Option<Param> {
    match format {
        Elem::I8 => Some(Param::read("scales", Elem::F32, &[])),
        Elem::I4 | Elem::I3 => Some(Param::read("scales", Elem::Bf16, &[])),
        Elem::F8 => Some(Param::read("scales", Elem::F32, &[])),
        Elem::F32 | Elem::Bf16 | Elem::F16 | Elem::I32 => None,
    }
}

/// Number of scales of a matrix, including padding; 0 for formats without scales.
pub fn n_scales(format: Elem, n: usize, k: usize) -> usize {
    match format {
        Elem::I8 => padded(n),
        Elem::I4 | Elem::I3 => padded(n) * (padded_inputs(k) / GROUP),
        Elem::F8 => padded(n) * k.div_ceil(FP8_GROUP),
        Elem::F32 | Elem::Bf16 | Elem::F16 | Elem::I32 => 0,
    }
}

/// Bytes of a matrix in any format, including scales and excluding padding.
pub(crate) fn weight_bytes(format: Elem, n: usize, k: usize) -> f64 {
    let scales = match format {
        Elem::I8 => n * Elem::F32.bytes(),
        Elem::I4 | Elem::I3 => n * k.div_ceil(GROUP) * Elem::Bf16.bytes(),
        Elem::F8 => n * k.div_ceil(FP8_GROUP) * Elem::F32.bytes(),
        Elem::F32 | Elem::Bf16 | Elem::F16 | Elem::I32 => 0,
    };
    (n * k * format.bits()) as f64 / 8.0 + scales as f64
}

/// Inputs per scale when x is quantized: their products with weights of maximum magnitude sum to less than 2³¹.
#[cfg(feature = "emit")]
fn activation_group(format: Elem) -> usize {
    match format {
        Elem::I8 => 128,
        _ => GROUP,
    }
}
