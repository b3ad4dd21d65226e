//! Which parameters become packed weights, in which layout and format, and where they lie.
//!
//! One weight per (parameter, layout, format, transform), however many steps of however many entries read it:
//!
//! | use | layout (groups, n, k, lanes) | format |
//! |---|---|---|
//! | weight of a linear \[N, I\] | 1, N, I, 16 | linear |
//! | weights of experts \[E, N, I\] | E, N, I, 16 | experts |
//! | embedding table \[V, D\] | 1, V, D, 1 | embedding |
//! | the same, where it is a linear's weight too (tied) | as that linear's | linear |
//! | weight of a norm, bias, D \[C\] | 1, C, 1, 16 | f32 |
//! | weight of a convolution \[C, 1, K\] | 1, C, K, 16 | f32 |
//! | A_log \[C, N\], as decay rates | 1, C, N, 16 | f32 |

use std::collections::BTreeSet;

use jamba_plan::format::{ALIGN_BYTES, Layout, Transform, WeightFormat};
use jambac_graph::{DType, Graph, Op, Type};
use jambac_kernels::kernel::{Elem, LANES};

use crate::{Formats, ScheduleError};

/// A parameter as it is packed, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedWeight {
    /// Canonical name of the parameter; `*` stacks experts.
    pub parameter: String,
    /// Order of the elements.
    pub layout: Layout,
    /// Stored element type.
    pub format: WeightFormat,
    /// What is done to the values before they are rounded.
    pub transform: Transform,
    /// Bytes from the start of the weights; a multiple of [`ALIGN_BYTES`].
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// What a step reads a parameter as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Linear,
    Experts,
    Embedding,
    /// Norm weight, bias, D: one value per column.
    Vector,
    /// Convolution weight.
    Taps,
    /// A_log.
    DecayRates,
}

/// The weights of all steps so far.
pub(crate) struct Weights {
    formats: Formats,
    /// Parameters that some linear reads.
    of_linears: BTreeSet<String>,
    /// In order of first use; offsets are final.
    pub(crate) planned: Vec<PlannedWeight>,
}

impl Weights {
    /// No weights yet, of the graphs of all entries.
    pub(crate) fn new(graphs: &[&Graph], formats: Formats) -> Weights {
        let mut of_linears = BTreeSet::new();
        for graph in graphs {
            for node in graph.order().into_iter().filter(|&node| matches!(graph.op(node), Op::Linear { .. })) {
                of_linears.extend(graph.op(graph.operands(node)[1].node).source_name().map(str::to_owned));
            }
        }
        Weights { formats, of_linears, planned: Vec::new() }
    }

    /// The index of a parameter's weight for this use; new or shared.
    pub(crate) fn add(&mut self, parameter: &str, ty: &Type, use_: Use) -> Result<usize, ScheduleError> {
        let tied = use_ == Use::Embedding && self.of_linears.contains(parameter);
        let use_ = if tied { Use::Linear } else { use_ };
        let lanes = LANES as u64;
        let dims: Vec<u64> = ty.shape.iter().filter_map(|dim| dim.fixed()).map(|dim| dim as u64).collect();
        let layout = match (use_, &dims[..]) {
            (Use::Linear, &[n, k]) | (Use::Taps, &[n, 1, k]) | (Use::DecayRates, &[n, k]) => {
                Layout { groups: 1, n, k, lanes }
            }
            (Use::Experts, &[groups, n, k]) => Layout { groups, n, k, lanes },
            (Use::Embedding, &[n, k]) => Layout { groups: 1, n, k, lanes: 1 },
            (Use::Vector, &[n]) => Layout { groups: 1, n, k: 1, lanes },
            // The graph is verified: no op takes a parameter of another rank.
            _ => unreachable!("parameter {parameter}: {ty} as {use_:?}"),
        };
        let format = match use_ {
            Use::Linear => self.format(parameter, ty.dtype, self.formats.linear)?,
            Use::Experts => self.format(parameter, ty.dtype, self.formats.experts)?,
            Use::Embedding => self.format(parameter, ty.dtype, self.formats.embedding)?,
            Use::Vector | Use::Taps | Use::DecayRates => WeightFormat::F32,
        };
        let transform = if use_ == Use::DecayRates { Transform::DecayRate } else { Transform::None };

        let same = |weight: &PlannedWeight| {
            weight.parameter == parameter
                && (weight.layout, weight.format, weight.transform) == (layout, format, transform)
        };
        if let Some(index) = self.planned.iter().position(same) {
            return Ok(index);
        }
        let too_large = || ScheduleError::TooLarge { what: format!("weights, up to {parameter}") };
        let bytes = bytes(layout, format).ok_or_else(too_large)?;
        let offset = self.bytes();
        offset.checked_add(bytes).filter(|&end| end <= isize::MAX as u64 - ALIGN_BYTES).ok_or_else(too_large)?;
        self.planned.push(PlannedWeight { parameter: parameter.to_owned(), layout, format, transform, offset, bytes });
        Ok(self.planned.len() - 1)
    }

    /// Bytes of all weights, up to where the next one would begin.
    pub(crate) fn bytes(&self) -> u64 {
        self.planned.last().map_or(0, |last| (last.offset + last.bytes).next_multiple_of(ALIGN_BYTES))
    }

    /// What a parameter is stored as: as the checkpoint has it unless chosen otherwise, f16 only where targets read it.
    fn format(
        &self,
        parameter: &str,
        stored: DType,
        chosen: Option<WeightFormat>,
    ) -> Result<WeightFormat, ScheduleError> {
        let as_stored = match stored {
            DType::F32 | DType::I32 => WeightFormat::F32,
            DType::Bf16 => WeightFormat::Bf16,
            DType::F16 => WeightFormat::F16,
        };
        match chosen.unwrap_or(as_stored) {
            WeightFormat::F16 if as_stored != WeightFormat::F16 => Err(ScheduleError::Format {
                parameter: parameter.to_owned(),
                found: WeightFormat::F16.name(),
                expected: format!("f32 or bf16, because the checkpoint stores {stored}"),
            }),
            WeightFormat::F16 if !self.formats.f16_native => Ok(WeightFormat::F32),
            format => Ok(format),
        }
    }
}

/// The element type that kernels read.
pub(crate) fn elem(format: WeightFormat) -> Elem {
    match format {
        WeightFormat::F32 => Elem::F32,
        WeightFormat::Bf16 => Elem::Bf16,
        WeightFormat::F16 => Elem::F16,
    }
}

/// Bytes of a packed weight; nothing where they overflow.
fn bytes(layout: Layout, format: WeightFormat) -> Option<u64> {
    let Layout { groups, n, k, lanes } = layout;
    n.checked_next_multiple_of(lanes)?.checked_mul(k)?.checked_mul(groups)?.checked_mul(format.bytes())
}
