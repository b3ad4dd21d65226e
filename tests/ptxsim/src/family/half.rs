//! f16 and bf16 arithmetic, one value or two packed in 32 bits.

use half::{bf16, f16};

use super::float::{maximum, minimum};
use super::number::brain64;
use crate::decode::{Call, Decoder};
use crate::fault::ParseError;
use crate::parse::RegisterKind::Word;
use crate::registers::{Halves, Registers, Slot, map3};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    Add,
    Sub,
    Mul,
    Fma,
    Min,
    Max,
    Neg,
    Abs,
}

/// One operation on halves.
#[derive(Debug)]
pub(crate) struct Half {
    f: Function,
    brain: bool,
    packed: bool,
    relu: bool,
    nan: bool,
    d: Slot,
    abc: [Slot; 3],
}

pub(super) fn decode(d: &mut Decoder, call: &Call) -> Result<Half, ParseError> {
    for part in &call.parts[1..call.parts.len() - 1] {
        if !["rn", "relu", "NaN"].contains(part) {
            return d.unknown();
        }
    }
    let (f, n) = match call.parts[0] {
        "add" => (Function::Add, 2),
        "sub" => (Function::Sub, 2),
        "mul" => (Function::Mul, 2),
        "fma" => (Function::Fma, 3),
        "min" => (Function::Min, 2),
        "max" => (Function::Max, 2),
        "neg" => (Function::Neg, 1),
        "abs" => (Function::Abs, 1),
        _ => return d.unknown(),
    };
    d.count(call, n + 1..=n + 1)?;
    let mut abc = [d.r(&call.operands[1])?; 3];
    for (i, operand) in call.operands[1..].iter().enumerate() {
        abc[i] = d.r(operand)?;
    }
    let ty = call.last();
    Ok(Half {
        f,
        brain: ty.starts_with('b'),
        packed: ty.ends_with("x2"),
        relu: call.has("relu"),
        nan: call.has("NaN"),
        d: d.target(&call.operands[0], Word)?,
        abc,
    })
}

impl Half {
    pub fn run(&self, regs: &mut Registers, mask: u32) {
        let [a, b, c] = self.abc;
        let out = map3(regs.r.get(a), regs.r.get(b), regs.r.get(c), |a, b, c| {
            let low = self.one(a as u16, b as u16, c as u16);
            if !self.packed {
                return u32::from(low);
            }
            u32::from(low) | u32::from(self.one((a >> 16) as u16, (b >> 16) as u16, (c >> 16) as u16)) << 16
        });
        let poison = regs.r.halves(a) | regs.r.halves(b) | regs.r.halves(c);
        let poison = if self.packed { poison } else { Halves::both(poison.low) };
        regs.r.put_halves(self.d, &out, poison, mask);
    }

    fn one(&self, a: u16, b: u16, c: u16) -> u16 {
        match self.f {
            Function::Neg => return a ^ 0x8000,
            Function::Abs => return a & 0x7fff,
            _ => {}
        }
        let wide = |bits: u16| if self.brain { bf16::from_bits(bits).to_f32() } else { f16::from_bits(bits).to_f32() };
        let (x, y, z) = (wide(a), wide(b), wide(c));
        // Products of halves are exact in f64; so are nearly all sums, and the rounding below is the only one.
        let value = match self.f {
            Function::Add => f64::from(x) + f64::from(y),
            Function::Sub => f64::from(x) - f64::from(y),
            Function::Mul => f64::from(x) * f64::from(y),
            Function::Fma => f64::from(x) * f64::from(y) + f64::from(z),
            _ if self.nan && (x.is_nan() || y.is_nan()) => f64::NAN,
            Function::Min => f64::from(minimum(x, y)),
            _ => f64::from(maximum(x, y)),
        };
        let value = if self.relu && value <= 0.0 { 0.0 } else { value };
        if value.is_nan() {
            return 0x7fff;
        }
        if self.brain { brain64(value) } else { f16::from_f64(value).to_bits() }
    }
}
