//! Properties of a target kind that a schedule depends on.

use jamba_plan::format::{Count, Elem, Pick, TargetKind, WeightFormat};
use jambac_graph::DType;

use crate::catalog::{AnySpec, Recipe};
use crate::hopper::matmul;
use crate::kernel::{Config, Kernel, Launch};
use crate::sample::hopper::{argmax, draw};
use crate::synthetic_weight;

/// Sequences per decode entry, smallest first: a target may use different configs for few and for many sequences.
pub fn decode_sizes(kind: TargetKind, max_sequences: u64) -> Vec<u64> {
    let few: &[u64] = match kind {
        TargetKind::Cpu => &[],
        TargetKind::Sm90a => &[matmul::NORMED_SEQUENCES, matmul::FEW_SEQUENCES],
    };
    few.iter().copied().filter(|&few| few < max_sequences).chain([max_sequences]).collect()
}

/// Whether steps can overlap, so that dependent steps need a barrier. True if each thread walks the steps independently;
/// false if a launch starts after the previous one has ended.
pub fn steps_overlap(kind: TargetKind) -> bool {
    kind == TargetKind::Cpu
}

/// The launches that pick a token for each row of logits, with their recipes; empty if the host picks.
pub fn picks(kind: TargetKind, vocab: usize) -> Vec<(Pick, Launch, Recipe)> {
    let picks =
        [(Pick::Likeliest, AnySpec::from(argmax::Spec { vocab })), (Pick::Drawn, AnySpec::from(draw::Spec { vocab }))];
    let launches = picks.into_iter().flat_map(|(pick, spec)| {
        let recipe = Recipe { spec, config: Config::Only };
        let launches = recipe.lower(kind).unwrap_or_default();
        launches.into_iter().map(move |launch| (pick, launch, recipe.clone()))
    });
    launches.collect()
}

/// The launches that draw synthetic weights of these formats; empty if the runtime draws them.
pub fn draws(kind: TargetKind, formats: impl IntoIterator<Item = WeightFormat>) -> Vec<(WeightFormat, Launch)> {
    let spec = |format: WeightFormat| synthetic_weight::Spec { format: Elem::from(format) };
    let supported = formats.into_iter().filter(|&format| spec(format).supports(kind).is_ok());
    supported
        .flat_map(|format| spec(format).lower(kind, Config::Only).into_iter().map(move |launch| (format, launch)))
        .collect()
}

/// The default format of a checkpoint's parameter.
pub fn stored_format(kind: TargetKind, dtype: DType) -> WeightFormat {
    match (kind, dtype) {
        // The tensor cores multiply bf16, whatever the checkpoint's type; fp8 widens to it.
        (TargetKind::Sm90a, DType::F8) => WeightFormat::Fp8,
        (TargetKind::Sm90a, _) => WeightFormat::Bf16,
        (TargetKind::Cpu, DType::F32 | DType::I32) => WeightFormat::F32,
        (TargetKind::Cpu, DType::Bf16) => WeightFormat::Bf16,
        (TargetKind::Cpu, DType::F16) => WeightFormat::F16,
        (TargetKind::Cpu, DType::I8) => WeightFormat::Int8,
        (TargetKind::Cpu, DType::I4) => WeightFormat::Int4,
        (TargetKind::Cpu, DType::F8) => WeightFormat::Fp8,
    }
}

/// The format that holds the most of what a parameter's scales and numbers stand for. In f32, an integer times a bf16 scale is exact.
pub fn widest(kind: TargetKind) -> WeightFormat {
    match kind {
        TargetKind::Cpu => WeightFormat::F32,
        TargetKind::Sm90a => WeightFormat::Bf16,
    }
}

/// The supported formats, as text, if the target cannot multiply weights of `format`.
pub fn refuses(kind: TargetKind, format: WeightFormat) -> Option<&'static str> {
    match (kind, format) {
        (TargetKind::Cpu, _) | (TargetKind::Sm90a, WeightFormat::Bf16 | WeightFormat::Int8 | WeightFormat::Fp8) => None,
        (TargetKind::Sm90a, _) => Some("bf16, int8 or fp8, which sm_90a multiplies"),
    }
}

/// True if tokens can be looked up in a linear's weight of this format.
pub fn looks_up(kind: TargetKind, format: WeightFormat) -> bool {
    match format {
        WeightFormat::Int4 | WeightFormat::Int3 | WeightFormat::Fp8 => false,
        WeightFormat::Int8 => kind == TargetKind::Cpu,
        WeightFormat::F32 | WeightFormat::Bf16 | WeightFormat::F16 => true,
    }
}

/// The value of a count; `sizes` are tokens, sequences and outputs.
pub fn count(count: Count, sizes: [u64; 3]) -> u64 {
    match count {
        Count::Tokens => sizes[0],
        Count::Sequences => sizes[1],
        Count::Outputs => sizes[2],
    }
}
