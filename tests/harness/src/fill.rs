//! Values for the operands of a CPU launch, from what the operands state: for benchmarks, where the values do not matter.

use jambac_kernels::cases::Case;
use jambac_kernels::kernel::{Elem, LANES, Operand, Source};

use crate::kernel::size;

/// The value of a slot.
pub enum Filled {
    /// The bytes of a buffer.
    Array(Vec<u8>),
    /// An integer.
    Integer(u64),
}

fn words(numbers: impl IntoIterator<Item = usize>) -> Filled {
    Filled::Array(numbers.into_iter().flat_map(|n| (n as i32).to_le_bytes()).collect())
}

/// Slots by expert, or where each expert's begin: slot s goes to expert s modulo their number.
fn routing(operand: &Operand, n_experts: usize, n_slots: usize) -> Filled {
    let of_expert = |expert| (expert..n_slots).step_by(n_experts);
    match operand.name() {
        "slots" => words((0..n_experts).flat_map(of_expert)),
        _ => words((0..=n_experts).map(|end| (0..end).map(|expert| of_expert(expert).len()).sum())),
    }
}

/// The value of one of a launch's operands for the step of a case; `None` for kernels that read tables of pages.
pub fn fill(case: &Case, operands: &[Operand], operand: &Operand) -> Option<Filled> {
    let n_experts = operands.iter().find(|operand| operand.name() == "offsets").map(|found| found.extent.fixed - 1);
    if let (Some(n_experts), "slots" | "offsets", Source::Operand(_)) = (n_experts, operand.name(), &operand.source) {
        let slots = operands.iter().find(|operand| operand.name() == "slots")?;
        return Some(routing(
            operand,
            n_experts,
            slots.extent.rows(|per| size(&case.counts, case.rows, per))? as usize,
        ));
    }
    let bytes = match &operand.source {
        Source::Count(per, factor) => {
            return Some(Filled::Integer(size(&case.counts, case.rows, *per) * u64::from(*factor)));
        }
        Source::SlotStride => return Some(Filled::Integer(0)),
        Source::Weight(weight) => weight.layout.bytes(operand.param.elem()?.weight_format()?)?,
        Source::Scales => operands.iter().find_map(|operand| match &operand.source {
            Source::Weight(weight) => {
                let (layout, format) = weight.layout.scales(operand.param.elem()?.weight_format()?)?;
                layout.bytes(format)
            }
            _ => None,
        })?,
        Source::Table(_) | Source::Input(..) => {
            return match operand.name() {
                "starts" => Some(words([0, case.counts.tokens])),
                "slots" => Some(words([0])),
                "sequence_of" => Some(words(vec![0; case.counts.tokens])),
                "ids" | "rows" => Some(words((0..case.counts.tokens).map(|at| at % 50))),
                _ => None,
            };
        }
        Source::Operand(_) | Source::Result(_) | Source::Scratch(_) | Source::State => {
            operand.bytes(|per| size(&case.counts, case.rows, per))?
        }
        Source::SlotsOf(_) | Source::Pages(_) | Source::PageStride(_) | Source::PagesPerSequence | Source::Caller => {
            return None;
        }
    };
    // Vectors are loaded whole: there is slack behind every pool.
    let n = bytes as usize + 4 * LANES;
    let elem = operand.param.elem()?;
    // Small values of both signs; step sizes and decay rates may be anything.
    let value = |i: usize| ((i * 7919) % 255) as f32 / 128.0 - 1.0;
    let values = (0..).flat_map(|i| {
        let bytes = value(i).to_le_bytes();
        match elem {
            Elem::F32 | Elem::I32 => bytes.to_vec(),
            Elem::Bf16 | Elem::F16 => bytes[2..].to_vec(),
            Elem::I8 | Elem::I4 | Elem::I3 | Elem::F8 => bytes[3..].to_vec(),
        }
    });
    Some(Filled::Array(values.take(n).collect()))
}
