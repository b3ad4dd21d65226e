//! Decoding of copies.

use super::{BoxAt, Copy, Far, What};
use crate::decode::{Call, Decoder};
use crate::fault::ParseError;
use crate::isa::access::Address;
use crate::parse::Operand;

pub(crate) fn decode(d: &mut Decoder, call: &Call) -> Result<Copy, ParseError> {
    let reduce = call.parts[..2] == ["cp", "reduce"];
    let rest = call.parts.get(if reduce { 3 } else { 2 }..).unwrap_or(&[]);
    if call.parts[1] != "async" && !(reduce && call.parts.get(2) == Some(&"async")) {
        return d.unknown();
    }
    let what = match rest {
        ["commit_group"] => What::CommitPieces,
        ["wait_group"] => What::WaitPieces { n: d.immediate(d.at(call, 0)?)? as usize },
        ["wait_all"] => What::WaitAllPieces,
        ["mbarrier", "arrive", ..] => {
            let barrier = Address::decode(d, d.at(call, 0)?)?;
            What::ArriveAfterPieces { barrier, counted: call.has("noinc") }
        }
        ["ca" | "cg", ..] => piece(d, call)?,
        ["bulk", "commit_group"] => What::CommitStores,
        ["bulk", "wait_group", ..] => What::WaitStores { n: d.immediate(d.at(call, 0)?)? as usize },
        ["bulk", "prefetch", ..] => What::Prefetch,
        ["bulk", tensor @ ..] => bulk(d, call, tensor, reduce)?,
        _ => return d.unknown(),
    };
    Ok(Copy(what))
}

fn piece(d: &mut Decoder, call: &Call) -> Result<What, ParseError> {
    d.count(call, 3..=5)?;
    let bytes = d.immediate(&call.operands[2])? as usize;
    if !matches!(bytes, 4 | 8 | 16) || call.has("cg") && bytes != 16 {
        return d.fail(format!("a copy of {bytes} bytes"));
    }
    let read = match call.operands.get(3) {
        Some(operand) if !call.has("L2::cache_hint") || call.operands.len() == 5 => Some(d.r(operand)?),
        _ => None,
    };
    let to = Address::decode(d, &call.operands[0])?;
    Ok(What::Piece { to, from: Address::decode(d, &call.operands[1])?, bytes, read })
}

fn bulk(d: &mut Decoder, call: &Call, parts: &[&str], reduce: bool) -> Result<What, ParseError> {
    let tensor = parts.first() == Some(&"tensor");
    let known = |part: &str| {
        let dims = tensor && matches!(part, "1d" | "2d" | "3d" | "4d" | "5d" | "tile");
        dims || matches!(
            part,
            "tensor"
                | "shared::cluster"
                | "shared::cta"
                | "global"
                | "mbarrier::complete_tx::bytes"
                | "bulk_group"
                | "multicast::cluster"
                | "L2::cache_hint"
        )
    };
    let unknown = parts.iter().filter(|part| !known(part)).count();
    if unknown != if reduce { 2 } else { 0 } || reduce && (tensor || !call.parts.ends_with(&["add", "f32"])) {
        return d.unknown();
    }
    let load = call.has("mbarrier::complete_tx::bytes");
    let (first, second) = (d.at(call, 0)?.clone(), d.at(call, 1)?.clone());
    let (near, far) = if load { (first, second) } else { (second, first) };
    let far = if tensor {
        Far::Tensor(box_at(d, &far)?)
    } else {
        Far::Plain { address: Address::decode(d, &far)?, bytes: d.r(d.at(call, 2)?)? }
    };
    let near = Address::decode(d, &near)?;
    if !load {
        return Ok(What::Store { to: far, from: near, add_floats: reduce });
    }
    let barrier = Address::decode(d, d.at(call, if tensor { 2 } else { 3 })?)?;
    Ok(What::Load { to: near, from: far, barrier })
}

fn box_at(d: &mut Decoder, operand: &Operand) -> Result<BoxAt, ParseError> {
    let Operand::Address { base, offset, coordinates } = operand else {
        return d.fail(format!("{operand:?} is no tensor's address"));
    };
    if coordinates.is_empty() {
        return d.fail("a tensor's address without coordinates");
    }
    let at = coordinates.iter().map(|item| d.r(item)).collect::<Result<_, _>>()?;
    Ok(BoxAt { map: Address::of(d, base, *offset)?, at })
}
