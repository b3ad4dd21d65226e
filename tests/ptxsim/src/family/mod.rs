//! Instructions by family: in each file the operations, how they are read, and what they do.

pub(crate) mod access;
pub(crate) mod approx;
pub(crate) mod atomic;
pub(crate) mod collective;
pub(crate) mod compare;
pub(crate) mod control;
pub(crate) mod convert;
pub(crate) mod copy;
pub(crate) mod float;
pub(crate) mod half;
pub(crate) mod integer;
pub(crate) mod mbarrier;
pub(crate) mod mma;
pub(crate) mod moves;
pub(crate) mod number;
pub(crate) mod sync;
pub(crate) mod wgmma;

use crate::decode::{Call, Decoder};
use crate::fault::ParseError;
use crate::program::Class;

/// A decoded operation.
#[derive(Debug)]
pub(crate) enum Op {
    Integer(integer::Integer),
    Float(float::Float),
    Half(half::Half),
    Approx(approx::Approx),
    Convert(convert::Convert),
    Move(moves::Move),
    Compare(compare::Compare),
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
    pub fn class(&self) -> Class {
        match self {
            Op::Integer(_) => Class::Integer,
            Op::Float(_) | Op::Half(_) => Class::Float,
            Op::Approx(_) => Class::Special,
            Op::Convert(_) => Class::Convert,
            Op::Move(_) => Class::Move,
            Op::Compare(_) => Class::Compare,
            Op::Control(_) => Class::Branch,
            Op::Access(access) => access.class(),
            Op::Atomic(_) => Class::Atomic,
            Op::Collective(_) => Class::Warp,
            Op::Sync(_) | Op::Mbarrier(_) => Class::Barrier,
            Op::Copy(_) => Class::Copy,
            Op::Mma(_) | Op::Wgmma(_) => Class::Tensor,
            Op::Matrix(_) => Class::Shared,
        }
    }

    /// Whether blocks may speak to each other through it.
    pub fn shares_global(&self) -> bool {
        match self {
            Op::Atomic(atomic) => atomic.is_global(),
            Op::Access(access) => access.strong,
            _ => false,
        }
    }
}

/// The parts of an opcode and the operands that an instruction has at least; the families count the rest.
fn least(mnemonic: &str) -> (usize, usize) {
    match mnemonic {
        "ret" | "exit" | "trap" | "nop" => (1, 0),
        "bra" | "brx" => (1, 1),
        "fence" | "membar" | "griddepcontrol" | "wgmma" | "bar" | "barrier" | "cp" => (2, 0),
        "activemask" | "prefetch" | "prefetchu" | "setmaxnreg" | "createpolicy" => (2, 1),
        "mbarrier" => (2, 1),
        "setp" | "slct" | "cvt" | "vote" | "redux" | "shfl" | "match" => (3, 2),
        "dp4a" => (3, 4),
        _ => (2, 2),
    }
}

/// Reads one statement.
pub(crate) fn decode(d: &mut Decoder, call: &Call) -> Result<Op, ParseError> {
    let ty = call.last();
    let (n_parts, n_operands) = least(call.parts[0]);
    if call.parts.len() < n_parts {
        return d.unknown();
    }
    if call.operands.len() < n_operands {
        return d.fail(format!("{} operands, expected {n_operands} or more", call.operands.len()));
    }
    match call.parts[0] {
        "bra" | "brx" | "ret" | "exit" | "trap" | "nop" => control::decode(d, call).map(Op::Control),
        "mov" | "cvta" | "mapa" | "createpolicy" => moves::decode(d, call).map(Op::Move),
        "setp" | "selp" | "slct" => compare::decode(d, call).map(Op::Compare),
        "and" | "or" | "xor" | "not" if ty == "pred" => compare::decode_logic(d, call).map(Op::Compare),
        "cvt" => convert::decode(d, call).map(Op::Convert),
        "ex2" | "lg2" | "rcp" | "rsqrt" | "sqrt" | "tanh" | "sin" | "cos" => approx::decode(d, call),
        "add" | "sub" | "mul" | "mad" | "fma" | "min" | "max" | "div" | "rem" | "neg" | "abs" | "copysign" => {
            match ty {
                "f32" | "f64" => float::decode(d, call).map(Op::Float),
                "f16" | "bf16" | "f16x2" | "bf16x2" => half::decode(d, call).map(Op::Half),
                _ => integer::decode(d, call).map(Op::Integer),
            }
        }
        "and" | "or" | "xor" | "not" | "cnot" | "shl" | "shr" | "shf" | "bfe" | "bfi" | "prmt" | "lop3" | "clz"
        | "popc" | "brev" | "dp4a" => integer::decode(d, call).map(Op::Integer),
        "ld" | "st" => access::decode(d, call),
        "atom" | "red" => atomic::decode(d, call).map(Op::Atomic),
        "shfl" | "vote" | "redux" | "match" | "elect" | "activemask" => collective::decode(d, call).map(Op::Collective),
        "bar" | "barrier" | "membar" | "fence" | "griddepcontrol" | "setmaxnreg" | "prefetch" | "prefetchu" => {
            sync::decode(d, call).map(Op::Sync)
        }
        "mbarrier" => mbarrier::decode(d, call).map(Op::Mbarrier),
        "cp" => copy::decode(d, call).map(Op::Copy),
        "ldmatrix" | "stmatrix" => mma::decode_matrix(d, call),
        "mma" => mma::decode(d, call).map(Op::Mma),
        "wgmma" => wgmma::decode(d, call).map(Op::Wgmma),
        _ => d.unknown(),
    }
}
