//! What a schedule depends on, by kind of target.

use jamba_plan::format::{Count, Pick, TargetKind, WeightFormat};
use jambac_graph::DType;

use crate::catalog::AnySpec;
use crate::elem::Elem;
use crate::hopper::matmul;
use crate::kernel::{Config, Kernel, Launch};
use crate::sample::hopper::{argmax, draw};
use crate::synthetic_weight;

/// Sequences of each decode entry, the smaller first: a target may decode few sequences with other configs than many.
pub fn decode_sizes(kind: TargetKind, max_sequences: u64) -> Vec<u64> {
    let few = match kind {
        TargetKind::Cpu => None,
        TargetKind::Sm90a => Some(matmul::FEW_SEQUENCES).filter(|&few| few < max_sequences),
    };
    few.into_iter().chain([max_sequences]).collect()
}

/// True when threads walk the steps on their own, so that steps that depend on each other need a barrier. False when a launch
/// begins after the one before it has ended.
pub fn steps_overlap(kind: TargetKind) -> bool {
    kind == TargetKind::Cpu
}

/// The launches that pick a token of each row of logits; none where the host picks.
pub fn picks(kind: TargetKind, vocab: usize) -> Vec<(Pick, Launch)> {
    let picks =
        [(Pick::Likeliest, AnySpec::from(argmax::Spec { vocab })), (Pick::Drawn, AnySpec::from(draw::Spec { vocab }))];
    let supported = picks.into_iter().filter(|(_, spec)| spec.supports(kind).is_ok());
    supported
        .flat_map(|(pick, spec)| spec.lower(kind, Config::Only).into_iter().map(move |launch| (pick, launch)))
        .collect()
}

/// The launches that draw synthetic weights of these formats; none where the runtime draws them.
pub fn draws(kind: TargetKind, formats: impl IntoIterator<Item = WeightFormat>) -> Vec<(WeightFormat, Launch)> {
    let spec = |format: WeightFormat| synthetic_weight::Spec { format: Elem::from(format) };
    let supported = formats.into_iter().filter(|&format| spec(format).supports(kind).is_ok());
    supported
        .flat_map(|format| spec(format).lower(kind, Config::Only).into_iter().map(move |launch| (format, launch)))
        .collect()
}

/// The format in which a parameter of the checkpoint is stored unless another is chosen.
pub fn stored_format(kind: TargetKind, dtype: DType) -> WeightFormat {
    match (kind, dtype) {
        // The tensor cores multiply bf16, whatever the checkpoint stores.
        (TargetKind::Sm90a, _) => WeightFormat::Bf16,
        (TargetKind::Cpu, DType::F32 | DType::I32) => WeightFormat::F32,
        (TargetKind::Cpu, DType::Bf16) => WeightFormat::Bf16,
        (TargetKind::Cpu, DType::F16) => WeightFormat::F16,
        (TargetKind::Cpu, DType::I8) => WeightFormat::Int8,
    }
}

/// The formats expected instead, where the target cannot multiply weights of this one.
pub fn refuses(kind: TargetKind, format: WeightFormat) -> Option<&'static str> {
    match (kind, format) {
        (TargetKind::Cpu, _) | (TargetKind::Sm90a, WeightFormat::Bf16 | WeightFormat::Int8) => None,
        (TargetKind::Sm90a, _) => Some("bf16 or int8, which sm_90a multiplies"),
    }
}

/// The size of a count, where `sizes` are tokens, sequences and outputs.
pub fn count(count: Count, sizes: [u64; 3]) -> u64 {
    match count {
        Count::Tokens => sizes[0],
        Count::Sequences => sizes[1],
        Count::Outputs => sizes[2],
    }
}
