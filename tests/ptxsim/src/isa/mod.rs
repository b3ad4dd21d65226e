//! Instructions by family: how they are decoded, and what they do.
//!
//! An instruction that works on each lane alone is a row of a table: a name, its types, the function of a lane (see `table`).
//! `compare`, `moves` and `collective` decode to effects on the registers too. The other families act on the warp and the
//! block, and have an operation type of their own.

pub(crate) mod access;
pub(crate) mod approx;
pub(crate) mod atomic;
pub(crate) mod collective;
pub(crate) mod compare;
pub(crate) mod control;
pub(crate) mod convert;
pub(crate) mod copy;
pub(crate) mod float;
pub(crate) mod integer;
pub(crate) mod mbarrier;
pub(crate) mod mma;
pub(crate) mod moves;
pub(crate) mod number;
pub(crate) mod sync;
pub(crate) mod table;
pub(crate) mod value;
pub(crate) mod wgmma;

use crate::decode::{Call, Decoder};
use crate::fault::ParseError;
use crate::program::Class;
use table::{Effect, Row};

/// A decoded operation.
pub(crate) enum Op {
    Lanes(Effect),
    Special(approx::Effect),
    Control(control::Control),
    Access(access::Access),
    Atomic(atomic::Atomic),
    Collective(collective::Collective),
    Sync(sync::Sync),
    Mbarrier(mbarrier::Mbarrier),
    Copy(copy::Copy),
    Mma(mma::Mma),
    Matrix(mma::Matrix),
    Wgmma(wgmma::Wgmma),
}

impl Op {
    /// Whether blocks may communicate through it.
    pub fn shares_global(&self) -> bool {
        match self {
            Op::Atomic(atomic) => atomic.is_global(),
            Op::Access(access) => access.strong,
            _ => false,
        }
    }
}

/// The least parts of an opcode, and the least operands. The families check the rest.
fn least(mnemonic: &str) -> (usize, usize) {
    match mnemonic {
        "ret" | "exit" | "trap" | "nop" => (1, 0),
        "bra" | "brx" => (1, 1),
        "fence" | "membar" | "griddepcontrol" | "wgmma" | "bar" | "barrier" | "cp" => (2, 0),
        "activemask" | "elect" | "prefetch" | "prefetchu" | "setmaxnreg" | "createpolicy" | "mbarrier" => (2, 1),
        _ => (2, 2),
    }
}

/// Decodes one statement.
pub(crate) fn decode(d: &mut Decoder, call: &Call) -> Result<(Class, Op), ParseError> {
    let (n_parts, n_operands) = least(call.parts[0]);
    if call.parts.len() < n_parts {
        return d.unknown();
    }
    if call.operands.len() < n_operands {
        return d.fail(format!("{} operands, expected {n_operands} or more", call.operands.len()));
    }
    let logic = matches!(call.parts[0], "and" | "or" | "xor" | "not") && call.last() == "pred";
    Ok(match call.parts[0] {
        "bra" | "brx" | "ret" | "exit" | "trap" | "nop" => (Class::Branch, Op::Control(control::decode(d, call)?)),
        "mov" | "cvta" | "mapa" | "createpolicy" => (Class::Move, Op::Lanes(moves::decode(d, call)?)),
        "setp" => (Class::Compare, Op::Lanes(row(d, call, compare::SETP)?)),
        "selp" | "slct" => (Class::Compare, Op::Lanes(row(d, call, compare::SELECTIONS)?)),
        _ if logic => (Class::Compare, Op::Lanes(compare::logic(d, call)?)),
        "cvt" => (Class::Convert, Op::Lanes(row(d, call, convert::ROWS)?)),
        "ex2" | "lg2" | "rcp" | "rsqrt" | "sqrt" | "tanh" | "sin" | "cos" => {
            (Class::Special, Op::Special(row(d, call, approx::ROWS)?))
        }
        "ld" | "st" => access::decode(d, call).map(|access| (access.class(), Op::Access(access)))?,
        "atom" | "red" => (Class::Atomic, Op::Atomic(atomic::decode(d, call)?)),
        "shfl" | "vote" | "redux" | "match" | "elect" | "activemask" => {
            (Class::Warp, Op::Collective(collective::decode(d, call)?))
        }
        "bar" | "barrier" | "membar" | "fence" | "griddepcontrol" | "setmaxnreg" | "prefetch" | "prefetchu" => {
            (Class::Barrier, Op::Sync(sync::decode(d, call)?))
        }
        "mbarrier" => (Class::Barrier, Op::Mbarrier(mbarrier::decode(d, call)?)),
        "cp" => (Class::Copy, Op::Copy(copy::decode(d, call)?)),
        "ldmatrix" | "stmatrix" => (Class::Shared, Op::Matrix(mma::decode_matrix(d, call)?)),
        "mma" => (Class::Tensor, Op::Mma(mma::decode(d, call)?)),
        "wgmma" => (Class::Tensor, Op::Wgmma(wgmma::decode(d, call)?)),
        _ if Row::find(float::ROWS, call).is_some() => (Class::Float, Op::Lanes(row(d, call, float::ROWS)?)),
        _ => (Class::Integer, Op::Lanes(row(d, call, integer::ROWS)?)),
    })
}

fn row<E>(d: &mut Decoder, call: &Call, rows: &[Row<E>]) -> Result<E, ParseError> {
    match Row::find(rows, call) {
        Some(row) => (row.decode)(d, call),
        None => d.unknown(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn check<E>(rows: &[Row<E>]) {
        let mut seen = BTreeSet::new();
        for row in rows {
            for ty in row.types {
                assert!(seen.insert((row.name, ty, row.optional)), "two rows for {}.{ty}", row.name);
                let call = Call { parts: row.name.split('.').chain([*ty]).collect(), operands: &[] };
                let found = Row::find(rows, &call).expect("the opcode names a row");
                assert_eq!((found.name, found.types), (row.name, row.types), "{}.{ty} names another row", row.name);
            }
        }
    }

    #[test]
    fn an_opcode_names_one_row() {
        for table in [integer::ROWS, float::ROWS, convert::ROWS, compare::SETP, compare::SELECTIONS] {
            check(table);
        }
        check(approx::ROWS);
        check(atomic::ROWS);
    }
}
