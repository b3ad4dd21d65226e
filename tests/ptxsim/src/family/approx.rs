//! The special-function unit: right within the documented error, and no righter.
//!
//! | instruction | error (PTX ISA 8.0) |
//! |---|---|
//! | ex2, lg2 | 2⁻²² relative (lg2 between 0.5 and 2: absolute) |
//! | rcp, sqrt | 1 ulp |
//! | rsqrt | 2⁻²²·⁹ relative |
//! | tanh | 2⁻¹¹ relative |
//! | sin, cos | 2⁻²⁰·⁵ absolute |
//!
//! Each result is moved inside that error by an amount drawn from the seed and the operand's bits: the same operand gives the
//! same result throughout a launch, as on the hardware. Zeros, infinities and NaN stay exact.

use super::Op;
use super::float::flush;
use crate::decode::{Call, Decoder};
use crate::fault::ParseError;
use crate::parse::RegisterKind::Word;
use crate::registers::{Registers, Slot, map1};
use crate::rng::mix;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    Ex2,
    Lg2,
    Rcp,
    Rsqrt,
    Sqrt,
    Tanh,
    Sin,
    Cos,
}

/// One function of f32.
#[derive(Debug)]
pub(crate) struct Approx {
    f: Function,
    ftz: bool,
    /// `.rn`: rounded to nearest, no error but that.
    rounded: bool,
    d: Slot,
    a: Slot,
}

/// How far results are moved.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Error {
    pub seed: u64,
    pub exact: bool,
}

pub(super) fn decode(d: &mut Decoder, call: &Call) -> Result<Op, ParseError> {
    let f = match call.parts[0] {
        "ex2" => Function::Ex2,
        "lg2" => Function::Lg2,
        "rcp" => Function::Rcp,
        "rsqrt" => Function::Rsqrt,
        "sqrt" => Function::Sqrt,
        "tanh" => Function::Tanh,
        "sin" => Function::Sin,
        _ => Function::Cos,
    };
    let rounded = call.has("rn");
    if call.last() != "f32" || !rounded && !call.has("approx") || call.has("rz") {
        return d.unknown();
    }
    d.count(call, 2..=2)?;
    let (a, target) = (d.r(&call.operands[1])?, d.target(&call.operands[0], Word)?);
    Ok(Op::Approx(Approx { f, ftz: call.has("ftz"), rounded, d: target, a }))
}

impl Approx {
    pub fn run(&self, regs: &mut Registers, mask: u32, error: Error) {
        let out = map1(regs.r.get(self.a), |bits| {
            let x = if self.ftz { flush(f32::from_bits(bits)) } else { f32::from_bits(bits) };
            let y = self.value(x, if self.rounded || error.exact { None } else { Some(error.seed) });
            (if self.ftz { flush(y) } else { y }).to_bits()
        });
        regs.r.put(self.d, &out, regs.r.poison(self.a), mask);
    }

    fn value(&self, x: f32, seed: Option<u64>) -> f32 {
        let wide = f64::from(x);
        let y = match self.f {
            Function::Ex2 => wide.exp2(),
            Function::Lg2 => wide.log2(),
            Function::Rcp => 1.0 / wide,
            Function::Rsqrt => 1.0 / wide.sqrt(),
            Function::Sqrt => wide.sqrt(),
            Function::Tanh => wide.tanh(),
            Function::Sin => wide.sin(),
            Function::Cos => wide.cos(),
        };
        let Some(seed) = seed else { return y as f32 };
        if y == 0.0 || !y.is_finite() {
            return y as f32;
        }
        let (relative, absolute) = match self.f {
            Function::Lg2 if wide > 0.5 && wide < 2.0 => (0.0, 2f64.powi(-22)),
            Function::Ex2 | Function::Lg2 => (2f64.powi(-22), 0.0),
            Function::Rsqrt => (2f64.powf(-22.9), 0.0),
            Function::Rcp | Function::Sqrt => (2f64.powi(-24), 0.0),
            Function::Tanh => (2f64.powi(-11), 0.0),
            Function::Sin | Function::Cos => (0.0, 2f64.powf(-20.5)),
        };
        // In [−1, 1), short of the bound by what rounding to f32 may add.
        let draw = (mix(seed ^ u64::from(x.to_bits()) << 8 ^ self.f as u64) >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
        let moved = y + draw * 0.75 * (absolute + relative * y.abs());
        moved as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_within_the_bound_and_uses_it() {
        for (f, bound) in [(Function::Ex2, -22), (Function::Rcp, -23), (Function::Tanh, -11)] {
            let op = Approx { f, ftz: true, rounded: false, d: 0, a: 0 };
            let mut worst: f64 = 0.0;
            for i in 1..4000 {
                let x = i as f32 / 500.0;
                let exact = f64::from(op.value(x, None));
                worst = worst.max((f64::from(op.value(x, Some(7))) / exact - 1.0).abs());
            }
            let bound = 2f64.powi(bound);
            assert!(worst > bound / 3.0 && worst < bound * 1.3, "{f:?}: {worst:e} of {bound:e}");
        }
    }
}
