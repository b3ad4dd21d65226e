//! Conversions between numbers.

use half::{bf16, f16};

use super::float::flush;
use super::number::{brain, brain64, e4m3};
use crate::decode::{Call, Decoder};
use crate::fault::ParseError;
use crate::parse::Operand;
use crate::parse::RegisterKind::{Double, Word};
use crate::registers::{Halves, Registers, Slot, map1, map2};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    U(u32),
    S(u32),
    F16,
    Bf16,
    F32,
    F64,
    E4m3,
    E5m2,
}

impl Kind {
    fn named(name: &str) -> Option<Kind> {
        Some(match name {
            "f16" => Kind::F16,
            "bf16" => Kind::Bf16,
            "f32" => Kind::F32,
            "f64" => Kind::F64,
            "e4m3" => Kind::E4m3,
            "e5m2" => Kind::E5m2,
            _ => {
                let bits = name.get(1..)?.parse().ok()?;
                match name.as_bytes()[0] {
                    b's' => Kind::S(bits),
                    b'u' | b'b' => Kind::U(bits),
                    _ => return None,
                }
            }
        })
    }

    fn is_float(self) -> bool {
        !matches!(self, Kind::U(_) | Kind::S(_))
    }

    fn bits(self) -> u32 {
        match self {
            Kind::U(bits) | Kind::S(bits) => bits,
            Kind::F16 | Kind::Bf16 => 16,
            Kind::F32 => 32,
            Kind::F64 => 64,
            Kind::E4m3 | Kind::E5m2 => 8,
        }
    }
}

/// How a fraction becomes a whole number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whole {
    Nearest,
    Zero,
    Down,
    Up,
}

#[derive(Debug, Clone, Copy)]
struct Mode {
    ftz: bool,
    sat: bool,
    relu: bool,
    whole: Option<Whole>,
}

#[derive(Debug)]
pub(crate) enum Convert {
    /// 64 bits → 32: the low half.
    Low {
        d: Slot,
        a: Slot,
    },
    ZeroExtend {
        d: Slot,
        a: Slot,
    },
    SignExtend {
        d: Slot,
        a: Slot,
    },
    Plain {
        from: Kinds,
        d: Slot,
        a: Slot,
    },
    /// Two f32, the first into the upper half.
    Pack {
        to: Kinds,
        d: Slot,
        high: Slot,
        low: Slot,
    },
    /// Two fp8 → f16x2.
    Unpack {
        from: Kinds,
        d: Slot,
        a: Slot,
    },
}

/// From, to, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kinds {
    from: Kind,
    to: Kind,
    mode: Mode,
}

pub(super) fn decode(d: &mut Decoder, call: &Call) -> Result<Convert, ParseError> {
    let [.., to, from] = call.parts[..] else { return d.unknown() };
    let mut mode = Mode { ftz: false, sat: false, relu: false, whole: None };
    for part in &call.parts[1..call.parts.len() - 2] {
        match *part {
            "rn" | "satfinite" => {}
            "ftz" => mode.ftz = true,
            "sat" => mode.sat = true,
            "relu" => mode.relu = true,
            "rni" => mode.whole = Some(Whole::Nearest),
            "rzi" => mode.whole = Some(Whole::Zero),
            "rmi" => mode.whole = Some(Whole::Down),
            "rpi" => mode.whole = Some(Whole::Up),
            _ => return d.unknown(),
        }
    }
    if let Some(to) = to.strip_suffix("x2") {
        let Some(to) = Kind::named(to) else { return d.unknown() };
        if let Some(from) = from.strip_suffix("x2") {
            let (Some(from), Kind::F16) = (Kind::named(from), to) else { return d.unknown() };
            d.count(call, 2..=2)?;
            let (target, a) = (d.target(&call.operands[0], Word)?, d.r(&call.operands[1])?);
            return Ok(Convert::Unpack { from: Kinds { from, to, mode }, d: target, a });
        }
        d.count(call, 3..=3)?;
        if from != "f32" {
            return d.unknown();
        }
        let (high, low) = (d.r(&call.operands[1])?, d.r(&call.operands[2])?);
        let to = Kinds { from: Kind::F32, to, mode };
        return Ok(Convert::Pack { to, d: d.target(&call.operands[0], Word)?, high, low });
    }
    d.count(call, 2..=2)?;
    let (Some(to), Some(from)) = (Kind::named(to), Kind::named(from)) else { return d.unknown() };
    if to.is_float() && !from.is_float() && mode.whole.is_some()
        || !to.is_float() && from.is_float() && mode.whole.is_none()
    {
        return d.unknown();
    }
    decode_plain(d, &call.operands[0], &call.operands[1], Kinds { from, to, mode })
}

fn decode_plain(d: &mut Decoder, to: &Operand, from: &Operand, kinds: Kinds) -> Result<Convert, ParseError> {
    // Integer registers may be wider than the type read from or written to them.
    let double_from = d.kind(from) == Some(Double) || kinds.from.bits() == 64;
    let double_to = d.kind(to) == Some(Double);
    let target = if double_to { d.target(to, Double)? } else { d.target(to, Word)? };
    let a = if double_from { d.d(from)? } else { d.r(from)? };
    match (kinds.from, kinds.to, double_from, double_to) {
        (_, Kind::U(32) | Kind::S(32), true, false) if !kinds.from.is_float() && !kinds.mode.sat => {
            Ok(Convert::Low { d: target, a })
        }
        (Kind::U(32), Kind::U(64) | Kind::S(64), false, true) if !kinds.mode.sat => {
            Ok(Convert::ZeroExtend { d: target, a })
        }
        (Kind::S(32), Kind::U(64) | Kind::S(64), false, true) if !kinds.mode.sat => {
            Ok(Convert::SignExtend { d: target, a })
        }
        _ => Ok(Convert::Plain { from: Kinds { ..kinds }, d: target, a }).and_then(|plain| {
            if double_from != (kinds.from.bits() == 64) || double_to != (kinds.to.bits() == 64) {
                return d.unknown();
            }
            Ok(plain)
        }),
    }
}

impl Whole {
    fn round(self, x: f64) -> f64 {
        match self {
            Whole::Nearest => x.round_ties_even(),
            Whole::Zero => x.trunc(),
            Whole::Down => x.floor(),
            Whole::Up => x.ceil(),
        }
    }
}

impl Kinds {
    fn float_in(self, bits: u64) -> f64 {
        match self.from {
            Kind::F16 => f16::from_bits(bits as u16).to_f64(),
            Kind::Bf16 => bf16::from_bits(bits as u16).to_f64(),
            Kind::F32 if self.mode.ftz => f64::from(flush(f32::from_bits(bits as u32))),
            Kind::F32 => f64::from(f32::from_bits(bits as u32)),
            Kind::E4m3 => f64::from(e4m3(bits as u8)),
            Kind::E5m2 => f16::from_bits((bits as u16) << 8).to_f64(),
            _ => f64::from_bits(bits),
        }
    }

    fn float_out(self, x: f64) -> u64 {
        let x = if self.mode.relu && x <= 0.0 { 0.0 } else { x };
        let x = if self.mode.sat { if x > 0.0 { x.min(1.0) } else { 0.0 } } else { x };
        match self.to {
            Kind::F16 if x.is_nan() => 0x7fff,
            Kind::F16 => u64::from(f16::from_f64(x).to_bits()),
            Kind::Bf16 => u64::from(brain64(x)),
            Kind::F32 if self.mode.ftz => u64::from(flush(x as f32).to_bits()),
            Kind::F32 => u64::from((x as f32).to_bits()),
            Kind::E4m3 => u64::from(to_fp8(x, 3, 7, 448.0, 0x7f)),
            Kind::E5m2 => u64::from(to_fp8(x, 2, 15, 57344.0, 0x7f)),
            _ => x.to_bits(),
        }
    }

    fn apply(self, bits: u64) -> u64 {
        if self.from.is_float() {
            let x = self.float_in(bits);
            let x = self.mode.whole.map_or(x, |whole| whole.round(x));
            return match self.to {
                Kind::U(n) => x.clamp(0.0, 2f64.powi(n as i32)).min(unsigned_top(n)) as u64 & u64::MAX >> (64 - n),
                Kind::S(n) => x.max(-(2f64.powi(n as i32 - 1))) as i64 as u64 & u64::MAX >> (64 - n),
                _ => self.float_out(x),
            };
        }
        let shift = 64 - self.from.bits();
        let value = match self.from {
            Kind::S(_) => i128::from((bits << shift) as i64 >> shift),
            _ => i128::from(bits << shift >> shift),
        };
        match self.to {
            Kind::U(n) if self.mode.sat => value.clamp(0, (1 << n) - 1) as u64,
            Kind::S(n) if self.mode.sat => {
                (value.clamp(-(1 << (n - 1)), (1 << (n - 1)) - 1) as u64) & u64::MAX >> (64 - n)
            }
            // Kept sign-extended to the whole register, as the hardware does.
            Kind::U(n) | Kind::S(n) if n <= 16 => value as u64 & u64::MAX >> (64 - n),
            Kind::U(_) | Kind::S(_) => value as u64,
            Kind::F32 => u64::from((value as f32).to_bits()),
            _ => self.float_out(value as f64),
        }
    }
}

fn unsigned_top(n: u32) -> f64 {
    if n == 64 { 2f64.powi(64) } else { 2f64.powi(n as i32) - 1.0 }
}

/// Nearest even, the largest finite value beyond it.
fn to_fp8(x: f64, mantissa_bits: i32, bias: i32, top: f64, nan: u8) -> u8 {
    if x.is_nan() {
        return nan;
    }
    let sign = u8::from(x.is_sign_negative()) << 7;
    let magnitude = x.abs().min(top);
    if magnitude == 0.0 {
        return sign;
    }
    let exponent = (magnitude.log2().floor() as i32).max(1 - bias);
    let units = (magnitude / 2f64.powi(exponent - mantissa_bits)).round_ties_even() as i32;
    let one = 1 << mantissa_bits;
    let bits = if units < one { units } else { ((exponent + bias) << mantissa_bits) + units - one };
    sign | bits as u8
}

impl Convert {
    pub fn run(&self, regs: &mut Registers, mask: u32) {
        match *self {
            Convert::Low { d, a } => {
                let out = map1(regs.d.get(a), |v| v as u32);
                regs.r.put(d, &out, regs.d.poison(a), mask);
            }
            Convert::ZeroExtend { d, a } => {
                let out = map1(regs.r.get(a), u64::from);
                regs.d.put(d, &out, regs.r.poison(a), mask);
            }
            Convert::SignExtend { d, a } => {
                let out = map1(regs.r.get(a), |v| v as i32 as i64 as u64);
                regs.d.put(d, &out, regs.r.poison(a), mask);
            }
            Convert::Plain { from: kinds, d, a } => {
                let (value, poison) = if kinds.from.bits() == 64 {
                    (*regs.d.get(a), regs.d.poison(a))
                } else {
                    let halves = regs.r.halves(a);
                    let poison = if kinds.from.bits() <= 16 { halves.low } else { halves.any() };
                    (map1(regs.r.get(a), u64::from), poison)
                };
                if kinds.from == Kind::Bf16 && kinds.to == Kind::F32 && !kinds.mode.sat {
                    regs.r.put(d, &map1(&value, |v| (v as u32) << 16), poison, mask);
                    return;
                }
                let out = map1(&value, |v| kinds.apply(v));
                if kinds.to.bits() == 64 {
                    regs.d.put(d, &out, poison, mask);
                } else {
                    regs.r.put(d, &map1(&out, |v| v as u32), poison, mask);
                }
            }
            Convert::Pack { to, d, high, low } => {
                let (x, y) = (regs.r.get(high), regs.r.get(low));
                let plain = !to.mode.relu && !to.mode.sat && !to.mode.ftz;
                let out = if to.to == Kind::Bf16 && plain {
                    map2(x, y, |high, low| brain(high) << 16 | brain(low))
                } else {
                    let width = to.to.bits();
                    map2(x, y, |high, low| (to.apply(u64::from(high)) << width | to.apply(u64::from(low))) as u32)
                };
                let (low, high) = (regs.r.poison(low), regs.r.poison(high));
                let poison = if to.to.bits() == 16 { Halves { low, high } } else { Halves::both(low | high) };
                regs.r.put_halves(d, &out, poison, mask);
            }
            Convert::Unpack { from, d, a } => {
                let out = map1(regs.r.get(a), |v| {
                    (from.apply(u64::from(v >> 8 & 255)) << 16 | from.apply(u64::from(v & 255))) as u32
                });
                regs.r.put(d, &out, regs.r.poison(a), mask);
            }
        }
    }
}
