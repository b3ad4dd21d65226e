//! `wgmma`: decoding, and the checks of each warp. [`crate::exec::product`] computes the products.

use super::number::Number;
use crate::decode::{Call, Decoder};
use crate::exec::Warp;
use crate::exec::warp::{Flow, Wait};
use crate::fault::{FaultKind, ParseError, Run, Trouble};
use crate::parse::Operand;
use crate::program::Guard;
use crate::registers::Slot;

#[derive(Debug)]
pub(crate) enum Source {
    /// A shared memory descriptor.
    Shared(Slot),
    Registers(Box<[Slot]>),
}

/// `wgmma.mma_async` m64nNk(16 | 32)
#[derive(Debug)]
pub(crate) struct Product {
    pub n: usize,
    pub a_type: Number,
    pub b_type: Number,
    pub d: Box<[Slot]>,
    pub a: Source,
    pub b: Slot,
    /// If false, D is overwritten.
    pub accumulate: Guard,
    pub negate_a: bool,
    pub negate_b: bool,
    /// The outer dimension is contiguous, not K.
    pub outer_a: bool,
    pub outer_b: bool,
}

#[derive(Debug)]
pub(crate) enum Wgmma {
    Fence,
    Commit,
    Wait { n: usize },
    Product(Box<Product>),
}

/// State of a register: accessed since the last fence.
const TOUCHED: u8 = 1;
/// State of a register: accumulator of a product in flight.
const SUM: u8 = 2;
/// State of a register: read by a product in flight.
const FACTOR: u8 = 4;

/// The state of a warp for the products of its warpgroup.
#[derive(Debug, Default)]
pub(crate) struct Tensor {
    /// For each 32-bit register.
    state: Vec<u8>,
    /// Products in flight: number and instruction.
    pub in_flight: Vec<(u32, u32)>,
    /// Last product of each committed group.
    committed: Vec<u32>,
    /// Last product of the open group.
    open: Option<u32>,
    fenced: bool,
}

pub(super) fn decode(d: &mut Decoder, call: &Call) -> Result<Wgmma, ParseError> {
    match call.parts[..] {
        ["wgmma", "fence", "sync", "aligned"] => Ok(Wgmma::Fence),
        ["wgmma", "commit_group", "sync", "aligned"] => Ok(Wgmma::Commit),
        ["wgmma", "wait_group", "sync", "aligned"] => Ok(Wgmma::Wait { n: d.immediate(d.at(call, 0)?)? as usize }),
        ["wgmma", "mma_async", "sync", "aligned", shape, sum, a, b] => decode_product(d, call, [shape, sum, a, b]),
        _ => d.unknown(),
    }
}

fn decode_product(d: &mut Decoder, call: &Call, [shape, sum, a, b]: [&str; 4]) -> Result<Wgmma, ParseError> {
    let (Some(a_type), Some(b_type)) = (Number::named(a), Number::named(b)) else { return d.unknown() };
    let size = shape.strip_prefix("m64n").and_then(|rest| rest.split_once('k'));
    let Some((n, k)) = size.and_then(|(n, k)| Some((n.parse::<usize>().ok()?, k.parse::<usize>().ok()?))) else {
        return d.unknown();
    };
    let integer = a_type.is_integer();
    if k * a_type.bytes() != 32 || a_type.bytes() != b_type.bytes() || integer != b_type.is_integer() {
        return d.unknown();
    }
    if sum != if integer { "s32" } else { "f32" } || n % 8 != 0 || !(8..=256).contains(&n) {
        return d.unknown();
    }
    let registers = matches!(d.at(call, 1)?, Operand::Vector(_));
    let halves = a_type.bytes() == 2;
    // scale-d, then the signs of a and b, then whether they are transposed (a only from shared memory).
    let n_more = if integer { 0 } else { 2 + if halves { 2 - usize::from(registers) } else { 0 } };
    d.count(call, 4 + n_more..=4 + n_more)?;
    let more = call.operands[4..].iter().map(|operand| d.immediate(operand)).collect::<Result<Vec<_>, _>>()?;
    let sign = |i: usize| more.get(i).is_some_and(|v| *v == -1);
    let flag = |i: usize| more.get(i).is_some_and(|v| *v == 1);
    let product = Product {
        n,
        a_type,
        b_type,
        d: d.word_targets(&call.operands[0])?,
        a: if registers {
            Source::Registers(d.words(&call.operands[1])?)
        } else {
            Source::Shared(d.d(&call.operands[1])?)
        },
        b: d.d(&call.operands[2])?,
        accumulate: d.condition(&call.operands[3])?,
        negate_a: sign(0),
        negate_b: sign(1),
        outer_a: !registers && flag(2),
        outer_b: if registers { flag(2) } else { flag(3) },
    };
    if product.d.len() != n / 2 || matches!(&product.a, Source::Registers(a) if a.len() != 4) {
        return d.fail("the wrong number of registers");
    }
    Ok(Wgmma::Product(Box::new(product)))
}

impl Wgmma {
    /// 32-bit registers of a product.
    pub fn registers(&self) -> Vec<Slot> {
        match self {
            Wgmma::Product(product) => product.d.iter().chain(product.factors()).copied().collect(),
            _ => Vec::new(),
        }
    }

    pub fn run(&self, warp: &mut Warp, mask: u32) -> Run<Flow> {
        if mask != u32::MAX {
            let what = format!("lanes {mask:#010x} of 32 execute it");
            return Err(Trouble::warp(FaultKind::Divergence, what));
        }
        match self {
            Wgmma::Fence => {
                warp.tensor.fenced = true;
                warp.tensor.state.iter_mut().for_each(|state| *state &= !TOUCHED);
            }
            Wgmma::Commit => {
                // An empty group completes with the group before it.
                let last = warp.tensor.open.take().or(warp.tensor.committed.last().copied()).unwrap_or(0);
                warp.tensor.committed.push(last);
            }
            Wgmma::Wait { n } => {
                let committed = &mut warp.tensor.committed;
                let done = committed.len().saturating_sub(*n);
                if let Some(last) = committed.drain(..done).next_back() {
                    warp.wait = Wait::Products(last);
                    return Ok(Flow::Blocked);
                }
            }
            Wgmma::Product(product) => {
                warp.tensor.check(product)?;
                warp.wait = Wait::Warpgroup;
                return Ok(Flow::Blocked);
            }
        }
        warp.pc += 1;
        Ok(Flow::Next)
    }
}

impl Product {
    fn factors(&self) -> &[Slot] {
        match &self.a {
            Source::Registers(a) => a,
            Source::Shared(_) => &[],
        }
    }
}

impl Tensor {
    pub fn reset(&mut self, n_registers: usize) {
        *self = Tensor { state: std::mem::take(&mut self.state), ..Tensor::default() };
        self.state.clear();
        self.state.resize(n_registers, 0);
    }

    /// Another instruction accesses registers of products.
    pub fn touch(&mut self, slots: &[Slot]) -> Run {
        for slot in slots {
            let state = &mut self.state[*slot as usize];
            if *state & (SUM | FACTOR) != 0 {
                let role = if *state & SUM != 0 { "accumulates in" } else { "reads" };
                let what = format!("a register that a wgmma on its way {role} is used before wgmma.wait_group");
                return Err(Trouble::warp(FaultKind::InFlight, what));
            }
            *state |= TOUCHED;
        }
        Ok(())
    }

    /// Checks that a product may use its registers.
    fn check(&self, product: &Product) -> Run {
        if !self.fenced {
            return Err(Trouble::warp(FaultKind::MissingFence, "the first wgmma comes before any wgmma.fence"));
        }
        for (slots, conflict) in [(&product.d[..], FACTOR), (product.factors(), SUM)] {
            for slot in slots {
                let state = self.state[*slot as usize];
                if state & TOUCHED != 0 {
                    let what = "a register of this wgmma was used by other instructions since the last wgmma.fence";
                    return Err(Trouble::warp(FaultKind::MissingFence, what));
                }
                if state & conflict != 0 {
                    let what = "an accumulator of one wgmma is a factor of another, and the first is on its way";
                    return Err(Trouble::warp(FaultKind::InFlight, what));
                }
            }
        }
        Ok(())
    }

    pub fn start(&mut self, number: u32, pc: u32, product: &Product) {
        self.in_flight.push((number, pc));
        self.open = Some(number);
        product.d.iter().for_each(|slot| self.state[*slot as usize] |= SUM);
        product.factors().iter().for_each(|slot| self.state[*slot as usize] |= FACTOR);
    }

    /// Products up to a number have completed. `still` returns the product of an instruction.
    pub fn release<'p>(&mut self, number: u32, still: impl Fn(u32) -> Option<&'p Product>) {
        self.in_flight.retain(|(other, _)| *other > number);
        self.state.iter_mut().for_each(|state| *state &= TOUCHED);
        for (_, pc) in &self.in_flight {
            if let Some(product) = still(*pc) {
                product.d.iter().for_each(|slot| self.state[*slot as usize] |= SUM);
                product.factors().iter().for_each(|slot| self.state[*slot as usize] |= FACTOR);
            }
        }
    }
}
