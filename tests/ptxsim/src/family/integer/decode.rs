//! Integer instructions as they are read.

use super::{Integer, One, Shift, Two};
use crate::decode::{Call, Decoder};
use crate::fault::ParseError;
use crate::parse::RegisterKind::{Double, Word};

pub(crate) fn decode(d: &mut Decoder, call: &Call) -> Result<Integer, ParseError> {
    let ty = call.last();
    let signed = ty.starts_with('s');
    let bits = ty.trim_start_matches(|c: char| !c.is_ascii_digit());
    if !matches!(ty.as_bytes()[0], b's' | b'u' | b'b') || call.has("sat") || call.has("cc") {
        return d.unknown();
    }
    let two = match (call.parts[0], signed) {
        ("add", _) => Some(Two::Add),
        ("sub", _) => Some(Two::Sub),
        ("mul", false) if call.has("hi") => Some(Two::MulHighU),
        ("mul", true) if call.has("hi") => Some(Two::MulHighS),
        ("mul", _) if call.has("lo") => Some(Two::Mul),
        ("div", false) => Some(Two::DivU),
        ("div", true) => Some(Two::DivS),
        ("rem", false) => Some(Two::RemU),
        ("rem", true) => Some(Two::RemS),
        ("min", false) => Some(Two::MinU),
        ("min", true) => Some(Two::MinS),
        ("max", false) => Some(Two::MaxU),
        ("max", true) => Some(Two::MaxS),
        ("and", _) => Some(Two::And),
        ("or", _) => Some(Two::Or),
        ("xor", _) => Some(Two::Xor),
        _ => None,
    };
    let at = |index: usize| call.operands.get(index);
    let r = |d: &mut Decoder, index: usize| match at(index) {
        Some(operand) => d.r(operand),
        None => d.fail("an operand is missing"),
    };
    if let Some(f) = two {
        d.count(call, 3..=3)?;
        if bits == "64" {
            let (target, a, b) =
                (d.target(&call.operands[0], Double)?, d.d(&call.operands[1])?, d.d(&call.operands[2])?);
            return Ok(Integer::Two64 { f, d: target, a, b });
        }
        let (target, a, b) = (d.target(&call.operands[0], Word)?, r(d, 1)?, r(d, 2)?);
        return match bits {
            "32" => Ok(Integer::Two32 { f, d: target, a, b }),
            "16" => Ok(Integer::Two16 { f, signed, d: target, a, b }),
            _ => d.unknown(),
        };
    }
    let one = match call.parts[0] {
        "neg" => Some(One::Neg),
        "abs" => Some(One::Abs),
        "not" => Some(One::Not),
        "clz" => Some(One::Clz),
        "popc" => Some(One::Popc),
        "brev" => Some(One::Brev),
        _ => None,
    };
    if let Some(f) = one {
        d.count(call, 2..=2)?;
        if bits == "64" {
            let a = d.d(&call.operands[1])?;
            if matches!(f, One::Clz | One::Popc) {
                return Ok(Integer::Count64 { f, d: d.target(&call.operands[0], Word)?, a });
            }
            return Ok(Integer::One64 { f, d: d.target(&call.operands[0], Double)?, a });
        }
        let (target, a) = (d.target(&call.operands[0], Word)?, r(d, 1)?);
        return match bits {
            "32" => Ok(Integer::One32 { f, d: target, a }),
            "16" => Ok(Integer::One16 { f, d: target, a }),
            _ => d.unknown(),
        };
    }
    let shift = match call.parts[0] {
        "shl" => Some(Shift::Left),
        "shr" if signed => Some(Shift::RightS),
        "shr" => Some(Shift::RightU),
        _ => None,
    };
    if let Some(f) = shift {
        d.count(call, 3..=3)?;
        let n = r(d, 2)?;
        return match bits {
            "64" => Ok(Integer::Shift64 { f, d: d.target(&call.operands[0], Double)?, a: d.d(&call.operands[1])?, n }),
            "32" => Ok(Integer::Shift32 { f, d: d.target(&call.operands[0], Word)?, a: r(d, 1)?, n }),
            "16" => Ok(Integer::Shift16 { f, d: d.target(&call.operands[0], Word)?, a: r(d, 1)?, n }),
            _ => d.unknown(),
        };
    }
    decode_rest(d, call, signed, bits)
}

fn decode_rest(d: &mut Decoder, call: &Call, signed: bool, bits: &str) -> Result<Integer, ParseError> {
    let r = |d: &mut Decoder, index: usize| d.at(call, index).and_then(|operand| d.r(operand));
    match (call.parts[0], bits) {
        ("mul" | "mad", "32") if call.has("wide") => Ok(Integer::Wide {
            signed,
            d: d.target(&call.operands[0], Double)?,
            a: r(d, 1)?,
            b: r(d, 2)?,
            c: if call.parts[0] == "mad" { Some(d.d(d.at(call, 3)?)?) } else { None },
        }),
        ("mul" | "mad", "16") if call.has("wide") => Ok(Integer::Wide16 {
            signed,
            d: d.target(&call.operands[0], Word)?,
            a: r(d, 1)?,
            b: r(d, 2)?,
            c: if call.parts[0] == "mad" { Some(r(d, 3)?) } else { None },
        }),
        ("mad", "32") if call.has("lo") => {
            Ok(Integer::MulAdd32 { d: d.target(&call.operands[0], Word)?, a: r(d, 1)?, b: r(d, 2)?, c: r(d, 3)? })
        }
        ("mad", "16") if call.has("lo") => {
            Ok(Integer::MulAdd16 { d: d.target(&call.operands[0], Word)?, a: r(d, 1)?, b: r(d, 2)?, c: r(d, 3)? })
        }
        ("mad", "32") if call.has("hi") => Ok(Integer::MulHighAdd {
            signed,
            d: d.target(&call.operands[0], Word)?,
            a: r(d, 1)?,
            b: r(d, 2)?,
            c: r(d, 3)?,
        }),
        ("mad", "64") if call.has("lo") => {
            d.count(call, 4..=4)?;
            let [a, b, c] = [1, 2, 3].map(|index| d.d(&call.operands[index]));
            Ok(Integer::MulAdd64 { d: d.target(&call.operands[0], Double)?, a: a?, b: b?, c: c? })
        }
        ("bfe", "32") => {
            Ok(Integer::Bfe32 { signed, d: d.target(&call.operands[0], Word)?, a: r(d, 1)?, at: r(d, 2)?, n: r(d, 3)? })
        }
        ("bfe", "64") => {
            d.count(call, 4..=4)?;
            Ok(Integer::Bfe64 {
                signed,
                d: d.target(&call.operands[0], Double)?,
                a: d.d(&call.operands[1])?,
                at: r(d, 2)?,
                n: r(d, 3)?,
            })
        }
        ("bfi", "32") => Ok(Integer::Bfi32 {
            d: d.target(&call.operands[0], Word)?,
            ab: [r(d, 1)?, r(d, 2)?],
            at: r(d, 3)?,
            n: r(d, 4)?,
        }),
        ("prmt", "32") if call.parts.len() == 2 => {
            Ok(Integer::Prmt { d: d.target(&call.operands[0], Word)?, a: r(d, 1)?, b: r(d, 2)?, selector: r(d, 3)? })
        }
        ("lop3", "32") => Ok(Integer::Lop3 {
            d: d.target(&call.operands[0], Word)?,
            abc: [r(d, 1)?, r(d, 2)?, r(d, 3)?],
            table: d.immediate(d.at(call, 4)?)? as u8,
        }),
        ("shf", "32") if call.has("l") || call.has("r") => Ok(Integer::Shf {
            left: call.has("l"),
            clamp: call.has("clamp"),
            d: d.target(&call.operands[0], Word)?,
            low: r(d, 1)?,
            high: r(d, 2)?,
            n: r(d, 3)?,
        }),
        ("dp4a", "32") => Ok(Integer::Dp4a {
            a_signed: call.parts[1].starts_with('s'),
            b_signed: signed,
            d: d.target(&call.operands[0], Word)?,
            abc: [r(d, 1)?, r(d, 2)?, r(d, 3)?],
        }),
        _ => d.unknown(),
    }
}
