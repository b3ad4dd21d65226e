//! Which parameters become packed weights, in which layout and format, and where they lie.
//!
//! One weight per (parts, order, layout, format, transform), however many steps of however many entries read it:
//!
//! | use | layout (groups, n, k, lanes) | format |
//! |---|---|---|
//! | weight of a linear \[N, I\], inside a scan too | 1, N, I, 16 | linear |
//! | the same of a router, of Δ, where linears are integers | 1, N, I, 16 | as stored, or f32 |
//! | weights of experts \[E, N, I\] | E, N, I, 16 | experts |
//! | embedding table \[V, D\] | 1, V, D, 1 | embedding |
//! | the same, where it is a linear's weight too (tied), unless linears are integers | as that linear's | linear |
//! | weight of a norm, bias, D \[C\] | 1, C, 1, 16 | f32 |
//! | weight of a convolution \[C, 1, K\] | 1, C, K, 16 | f32 |
//! | A_log \[C, N\], as decay rates | 1, C, N, 16 | f32 |
//!
//! A GPU's matrices, embedding tables too, lie row after row as [`jambac_kernels::hopper::weight`] says, in bf16 or int8; its
//! vectors, convolutions and decay rates row after row without padding, in f32.
//!
//! Tokens are looked up in floating-point numbers. A tied table whose linear multiplies integers is therefore stored twice: a
//! step looks up a row a token, but multiplies by the whole, which is the larger part of what a small model reads.
//!
//! A weight of integers comes right behind another one of the same parts: its scales.

use std::collections::BTreeSet;

use jamba_plan::format::{Layout, PartOrder, TargetKind, Transform, WeightFormat};
use jamba_plan::text::parts;
use jambac_graph::{Activation, DType, Graph, NodeId, Op, Type};
use jambac_kernels::hopper::weight::{BLOCK_ROWS, GATE_ROWS, INTERLEAVED, row_elements};
use jambac_kernels::kernel::LANES;

use crate::{Formats, ScheduleError};

/// Rows of one parameter, or of several, as they are packed, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedWeight {
    /// What it is made of, at least one part.
    pub parts: Vec<PlannedPart>,
    /// Order of the parts' panels.
    pub order: PartOrder,
    /// Order of the elements.
    pub layout: Layout,
    /// Stored element type.
    pub format: WeightFormat,
    /// What is done to the values before they are rounded.
    pub transform: Transform,
    /// Bytes from the start of the weights; a multiple of [`TargetKind::align_bytes`].
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

impl PlannedWeight {
    /// What it is made of, as text.
    pub fn name(&self) -> String {
        parts(self.parts.iter().map(|part| (&*part.parameter, part.first_row, part.rows)), self.order)
    }
}

/// Rows of one parameter inside a packed weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedPart {
    /// Canonical name of the parameter; `*` stacks experts.
    pub parameter: String,
    /// The first row taken; 0 where experts are stacked.
    pub first_row: u64,
    /// How many rows are taken, of each expert where they are stacked.
    pub rows: u64,
}

/// Rows of a parameter that a step reads: a part of a weight to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PartRef<'a> {
    /// Canonical name.
    pub(crate) name: &'a str,
    /// The whole parameter's type.
    pub(crate) ty: &'a Type,
    /// The first row read.
    pub(crate) first_row: u64,
    /// How many are read; None is all from the first on.
    pub(crate) rows: Option<u64>,
}

/// What a step reads a parameter as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Linear,
    /// Weight of the projection of Δ, inside a scan: a linear's, always of a floating-point format.
    StepSize,
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
    kind: TargetKind,
    formats: Formats,
    /// Parameters that some linear reads.
    of_linears: BTreeSet<String>,
    /// Parameters of linears that are never integers: of routers and of Δ.
    never_integers: BTreeSet<String>,
    /// In order of first use; offsets are final.
    pub(crate) planned: Vec<PlannedWeight>,
}

impl Weights {
    /// No weights yet, of the graphs of all entries.
    pub(crate) fn new(graphs: &[&Graph], formats: Formats, kind: TargetKind) -> Weights {
        let (mut of_linears, mut never_integers) = (BTreeSet::new(), BTreeSet::new());
        for graph in graphs {
            for node in graph.order() {
                let weight =
                    |operand: usize| graph.op(graph.operands(node)[operand].node).source_name().map(str::to_owned);
                if let Op::Linear { .. } = graph.op(node) {
                    of_linears.extend(weight(1));
                    if is_sensitive(graph, node) {
                        never_integers.extend(weight(1));
                    }
                }
            }
        }
        Weights { kind, formats, of_linears, never_integers, planned: Vec::new() }
    }

    /// The index of the weight of these parts for this use; new or shared.
    pub(crate) fn add(&mut self, parts: &[PartRef<'_>], order: PartOrder, use_: Use) -> Result<usize, ScheduleError> {
        let use_ = if use_ == Use::Embedding && self.is_shared(&parts[0])? { Use::Linear } else { use_ };
        let transform = if use_ == Use::DecayRates { Transform::DecayRate } else { Transform::None };
        // Parts have the same experts, inputs and type: the graph is verified.
        let (groups, _, k) = matrix(&parts[0], use_);
        let planned: Vec<PlannedPart> = parts.iter().map(|part| planned(part, use_)).collect();
        let format = self.format(&parts[0], use_)?;
        let too_large = || ScheduleError::TooLarge { what: format!("weights, up to {}", parts[0].name) };
        let rows: Vec<u64> = planned.iter().map(|part| part.rows).collect();
        let layout = match self.kind {
            TargetKind::Cpu => in_panels(use_, (groups, k), &rows),
            TargetKind::Sm90a => in_rows(use_, (groups, k), &rows, order, format),
        };
        let layout = layout.ok_or_else(too_large)?;

        let same = |weight: &PlannedWeight| {
            (&weight.parts, weight.order) == (&planned, order)
                && (weight.layout, weight.format, weight.transform) == (layout, format, transform)
        };
        if let Some(index) = self.planned.iter().position(same) {
            return Ok(index);
        }
        if let Some((layout, stored)) = layout.scales(format) {
            self.place(&planned, order, layout, stored, Transform::Scale(format)).ok_or_else(too_large)?;
        }
        self.place(&planned, order, layout, format, transform).ok_or_else(too_large)
    }

    /// Whether tokens are looked up in what a linear multiplies by.
    fn is_shared(&self, table: &PartRef<'_>) -> Result<bool, ScheduleError> {
        Ok(self.of_linears.contains(table.name) && self.format(table, Use::Linear)?.scales().is_none())
    }

    /// Puts a weight behind the others and returns its index; None where no address space holds it.
    fn place(
        &mut self,
        parts: &[PlannedPart],
        order: PartOrder,
        layout: Layout,
        format: WeightFormat,
        transform: Transform,
    ) -> Option<usize> {
        let bytes = layout.bytes(format)?;
        let offset = self.bytes();
        offset.checked_add(bytes).filter(|&end| end <= isize::MAX as u64 - self.kind.align_bytes())?;
        self.planned.push(PlannedWeight { parts: parts.to_vec(), order, layout, format, transform, offset, bytes });
        Some(self.planned.len() - 1)
    }

    /// Bytes of all weights, up to where the next one would begin.
    pub(crate) fn bytes(&self) -> u64 {
        let align = self.kind.align_bytes();
        self.planned.last().map_or(0, |last| (last.offset + last.bytes).next_multiple_of(align))
    }

    /// What a parameter is stored as: as the checkpoint has it unless chosen otherwise, f16 only where targets read it; on a
    /// GPU, bf16 unless integers are chosen.
    fn format(&self, part: &PartRef<'_>, use_: Use) -> Result<WeightFormat, ScheduleError> {
        let chosen = match use_ {
            Use::Linear | Use::StepSize => self.formats.linear,
            Use::Experts => self.formats.experts,
            Use::Embedding => self.formats.embedding,
            Use::Vector | Use::Taps | Use::DecayRates => return Ok(WeightFormat::F32),
        };
        let stored = part.ty.dtype;
        let as_stored = match stored {
            DType::F32 | DType::I32 => WeightFormat::F32,
            DType::Bf16 => WeightFormat::Bf16,
            DType::F16 => WeightFormat::F16,
            DType::I8 => WeightFormat::Int8,
        };
        // A GPU multiplies bf16, whatever the checkpoint stores.
        let as_stored = if self.kind == TargetKind::Sm90a { WeightFormat::Bf16 } else { as_stored };
        match chosen.unwrap_or(as_stored) {
            format if self.kind == TargetKind::Sm90a && !matches!(format, WeightFormat::Bf16 | WeightFormat::Int8) => {
                Err(ScheduleError::Format {
                    parameter: part.name.to_owned(),
                    found: format.name(),
                    expected: "bf16 or int8, which sm_90a multiplies".into(),
                })
            }
            WeightFormat::F16 if as_stored != WeightFormat::F16 => Err(ScheduleError::Format {
                parameter: part.name.to_owned(),
                found: WeightFormat::F16.name(),
                expected: format!("f32 or bf16, because the checkpoint stores {stored}"),
            }),
            WeightFormat::F16 if !self.formats.f16_native => Ok(WeightFormat::F32),
            format if format.scales().is_some() && use_ == Use::Embedding => Err(ScheduleError::Format {
                parameter: part.name.to_owned(),
                found: format.name(),
                expected: "f32 or bf16, because tokens are looked up in it".into(),
            }),
            format
                if format.scales().is_some() && (use_ == Use::StepSize || self.never_integers.contains(part.name)) =>
            {
                Ok(match as_stored {
                    WeightFormat::F16 if !self.formats.f16_native => WeightFormat::F32,
                    // Integers of 8 bits times scales of bf16 are f32 exactly; the parameters are small.
                    WeightFormat::Int8 => WeightFormat::F32,
                    as_stored => as_stored,
                })
            }
            format => Ok(format),
        }
    }
}

/// The layout of parts of so many rows on a CPU; None where their sum overflows.
fn in_panels(use_: Use, (groups, k): (u64, u64), rows: &[u64]) -> Option<Layout> {
    let lanes = if use_ == Use::Embedding { 1 } else { LANES as u64 };
    let n = Layout::rows_of(rows.iter().copied(), lanes)?;
    Some(Layout::in_panels(groups, n, k, lanes))
}

/// The same on a GPU, where a block of rows belongs to one part, and rows of gate and up alternate.
fn in_rows(use_: Use, (groups, k): (u64, u64), rows: &[u64], order: PartOrder, format: WeightFormat) -> Option<Layout> {
    if let Use::Vector | Use::Taps | Use::DecayRates = use_ {
        return Some(Layout::in_panels(groups, Layout::rows_of(rows.iter().copied(), 1)?, k, 1));
    }
    let (lanes, multiple) = match (order, rows) {
        (PartOrder::Interleaved, _) => (INTERLEAVED as u64, GATE_ROWS as u64),
        (PartOrder::Stacked, [_]) if use_ != Use::Experts => (1, 1),
        (PartOrder::Stacked, _) => (BLOCK_ROWS as u64, BLOCK_ROWS as u64),
    };
    let n = Layout::rows_of(rows.iter().copied(), multiple)?;
    let stride = row_elements(format.into(), usize::try_from(k).ok()?) as u64;
    Some(Layout::in_rows(groups, n, k, stride, (lanes, multiple)))
}

/// Whether a linear's results are routing probabilities or step sizes to be: integers would send tokens to other experts, and
/// Δ is an exponent. Both are small.
fn is_sensitive(graph: &Graph, linear: NodeId) -> bool {
    if matches!(graph.op(linear), Op::Linear { activation: Activation::Softplus }) {
        return true;
    }
    let users = graph.users(graph.result(linear, 0));
    users.iter().any(|&(user, _)| matches!(graph.op(user), Op::Softmax | Op::MoeRoute { .. } | Op::Softplus))
}

/// A parameter as stacked matrices of rows: (groups, rows of each, columns).
fn matrix(part: &PartRef<'_>, use_: Use) -> (u64, u64, u64) {
    let dims: Vec<u64> = part.ty.shape.iter().filter_map(|dim| dim.fixed()).map(|dim| dim as u64).collect();
    match (use_, &dims[..]) {
        (Use::Linear | Use::StepSize | Use::Embedding | Use::DecayRates, &[n, k]) | (Use::Taps, &[n, 1, k]) => {
            (1, n, k)
        }
        (Use::Experts, &[groups, n, k]) => (groups, n, k),
        (Use::Vector, &[n]) => (1, n, 1),
        // The graph is verified: no op takes a parameter of another rank.
        _ => unreachable!("parameter {}: {} as {use_:?}", part.name, part.ty),
    }
}

fn planned(part: &PartRef<'_>, use_: Use) -> PlannedPart {
    let (_, n, _) = matrix(part, use_);
    let rows = part.rows.unwrap_or(n - part.first_row);
    PlannedPart { parameter: part.name.to_owned(), first_row: part.first_row, rows }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use jambac_models::tiny::Tiny;

    use super::*;
    use crate::tests::{limits, of_model};
    use crate::{Schedule, text};

    fn of(tiny: Tiny, dtype: DType, formats: Formats) -> Result<Schedule, ScheduleError> {
        of_model(&tiny.config().expect("a config"), dtype, limits(8, 2, 2), formats)
    }

    fn format_of(schedule: &Schedule, parameter: &str) -> WeightFormat {
        let found: Vec<_> = schedule.weights.iter().filter(|weight| weight.name() == parameter).collect();
        assert_eq!(found.len(), 1, "{parameter} is packed once");
        found[0].format
    }

    #[test]
    fn a_tied_table_is_stored_once_in_panels() {
        let schedule = of(Tiny::dense_tied(), DType::Bf16, Formats::default()).expect("a schedule");
        let table: Vec<_> = schedule.weights.iter().filter(|weight| weight.name().contains("embed")).collect();
        assert_eq!(table.len(), 1);
        assert_eq!(table[0].layout, Layout::in_panels(1, 512, 48, 16));
        assert_eq!(schedule.kernels[0].symbol(), "embed_bf16_d48_l16");
    }

    #[test]
    fn layouts_of_a_layer_of_each_kind() {
        let tiny = Tiny { layers: 2, attention: (2, 1), moe: (2, 1), ..Tiny::odd() };
        let schedule = of(tiny, DType::Bf16, Formats::default()).expect("a schedule");
        expect![[r#"
            weights: 403264 bytes
              weight  offset  bytes  format  groups x n x k / lanes  parameter
              w0      0       24912  bf16    1x173x72/1              model.embed_tokens.weight
              w1      24960   320    f32     1x72x1/16               model.layers.0.input_layernorm.weight
              w2      25280   62208  bf16    1x432x72/16             model.layers.0.mamba.in_proj.weight
              w3      87488   2688   f32     1x216x3/16              model.layers.0.mamba.conv1d.weight
              w4      90176   896    f32     1x216x1/16              model.layers.0.mamba.conv1d.bias
              w5      91072   13824  bf16    1x17x216/16             model.layers.0.mamba.x_proj.weight
              w6      104896  64     f32     1x7x1/16                model.layers.0.mamba.dt_layernorm.weight
              w7      104960  64     f32     1x5x1/16                model.layers.0.mamba.b_layernorm.weight
              w8      105024  64     f32     1x5x1/16                model.layers.0.mamba.c_layernorm.weight
              w9      105088  3136   bf16    1x216x7/16              model.layers.0.mamba.dt_proj.weight
              w10     108224  896    f32     1x216x1/16              model.layers.0.mamba.dt_proj.bias
              w11     109120  4480   f32     1x216x5/16              decay rates of model.layers.0.mamba.A_log
              w12     113600  896    f32     1x216x1/16              model.layers.0.mamba.D
              w13     114496  34560  bf16    1x72x216/16             model.layers.0.mamba.out_proj.weight
              w14     149056  320    f32     1x72x1/16               model.layers.0.pre_ff_layernorm.weight
              w15     149376  16128  bf16    1x100x72/16             model.layers.0.feed_forward.gate_proj.weight
              w16     165504  16128  bf16    1x100x72/16             model.layers.0.feed_forward.up_proj.weight
              w17     181632  16000  bf16    1x72x100/16             model.layers.0.feed_forward.down_proj.weight
              w18     197632  320    f32     1x72x1/16               model.layers.1.input_layernorm.weight
              w19     197952  11520  bf16    1x72x72/16              model.layers.1.self_attn.q_proj.weight
              w20     209472  4608   bf16    1x24x72/16              model.layers.1.self_attn.k_proj.weight
              w21     214080  4608   bf16    1x24x72/16              model.layers.1.self_attn.v_proj.weight
              w22     218688  11520  bf16    1x72x72/16              model.layers.1.self_attn.o_proj.weight
              w23     230208  320    f32     1x72x1/16               model.layers.1.pre_ff_layernorm.weight
              w24     230528  2304   bf16    1x3x72/16               model.layers.1.feed_forward.router.weight
              w25     232832  48384  bf16    3x100x72/16             model.layers.1.feed_forward.experts.*.gate_proj.weight
              w26     281216  48384  bf16    3x100x72/16             model.layers.1.feed_forward.experts.*.up_proj.weight
              w27     329600  48000  bf16    3x72x100/16             model.layers.1.feed_forward.experts.*.down_proj.weight
              w28     377600  320    f32     1x72x1/16               model.final_layernorm.weight
              w29     377920  25344  bf16    1x173x72/16             lm_head.weight
        "#]].assert_eq(&text::weights(&schedule));
    }

    #[test]
    fn parts_are_padded_to_panels_and_shared_whole() {
        let graph = Graph::new("g");
        let mut weights = Weights::new(&[&graph], Formats::default(), TargetKind::Cpu);
        let ty = |rows: usize| Type::new(DType::Bf16, [rows, 40]);
        let (wide, narrow) = (ty(72), ty(24));
        let part = |name, ty, first_row, rows| PartRef { name, ty, first_row, rows };
        let qkv = [part("q", &wide, 0, None), part("k", &narrow, 0, None), part("v", &narrow, 8, Some(9))];
        let mut add = |parts: &[PartRef<'_>], order| weights.add(parts, order, Use::Linear).expect("a weight");
        assert_eq!(add(&qkv, PartOrder::Stacked), 0);
        assert_eq!(add(&qkv[1..2], PartOrder::Stacked), 1);
        assert_eq!(add(&[qkv[0], part("up", &wide, 0, None)], PartOrder::Interleaved), 2);
        assert_eq!(add(&qkv, PartOrder::Stacked), 0, "the same parts are the same weight");
        let lines: Vec<String> = weights.planned.iter().map(|w| format!("{}: {:?}", w.name(), w.layout)).collect();
        expect![[r#"
            q[0..72] + k[0..24] + v[8..17]: Layout { groups: 1, n: 128, k: 40, lanes: 16, order: Panels }
            k: Layout { groups: 1, n: 24, k: 40, lanes: 16, order: Panels }
            q[0..72] | up[0..72]: Layout { groups: 1, n: 160, k: 40, lanes: 16, order: Panels }"#]]
        .assert_eq(&lines.join("\n"));
        // 72 rows take 80, 24 take 32, 9 take 16: 128 rows of 40 bf16.
        assert_eq!((weights.planned[0].bytes, weights.planned[2].bytes), (128 * 40 * 2, 2 * 80 * 40 * 2));
    }

    #[test]
    fn groups_have_formats_of_their_own() {
        let formats = Formats { experts: Some(WeightFormat::F32), ..Formats::default() };
        let schedule = of(Tiny::base(), DType::Bf16, formats).expect("a schedule");
        let of = |parameter: &str| format_of(&schedule, parameter);
        assert_eq!(of("model.embed_tokens.weight"), WeightFormat::Bf16);
        assert_eq!(of("model.layers.1.feed_forward.router.weight"), WeightFormat::Bf16);
        assert_eq!(of("model.layers.1.feed_forward.experts.*.up_proj.weight"), WeightFormat::F32);
        assert_eq!(of("model.final_layernorm.weight"), WeightFormat::F32);
    }

    #[test]
    fn integers_come_behind_their_scales_and_routers_stay() {
        let formats =
            Formats { linear: Some(WeightFormat::Int8), experts: Some(WeightFormat::Int4), ..Formats::default() };
        let tiny = Tiny { layers: 1, attention: (2, 1), moe: (1, 0), ..Tiny::odd() };
        expect![[r#"
            weights: 181376 bytes
              weight  offset  bytes  format  groups x n x k / lanes  parameter
              w0      0       24912  bf16    1x173x72/1              model.embed_tokens.weight
              w1      24960   320    f32     1x72x1/16               model.layers.0.input_layernorm.weight
              w2      25280   1728   f32     1x432x1/16              int8 scales of model.layers.0.mamba.in_proj.weight
              w3      27008   41472  int8    1x432x72/16             model.layers.0.mamba.in_proj.weight
              w4      68480   2688   f32     1x216x3/16              model.layers.0.mamba.conv1d.weight
              w5      71168   896    f32     1x216x1/16              model.layers.0.mamba.conv1d.bias
              w6      72064   128    f32     1x17x1/16               int8 scales of model.layers.0.mamba.x_proj.weight
              w7      72192   7168   int8    1x17x216/16             model.layers.0.mamba.x_proj.weight
              w8      79360   64     f32     1x7x1/16                model.layers.0.mamba.dt_layernorm.weight
              w9      79424   64     f32     1x5x1/16                model.layers.0.mamba.b_layernorm.weight
              w10     79488   64     f32     1x5x1/16                model.layers.0.mamba.c_layernorm.weight
              w11     79552   3136   bf16    1x216x7/16              model.layers.0.mamba.dt_proj.weight
              w12     82688   896    f32     1x216x1/16              model.layers.0.mamba.dt_proj.bias
              w13     83584   4480   f32     1x216x5/16              decay rates of model.layers.0.mamba.A_log
              w14     88064   896    f32     1x216x1/16              model.layers.0.mamba.D
              w15     88960   320    f32     1x72x1/16               int8 scales of model.layers.0.mamba.out_proj.weight
              w16     89280   17920  int8    1x72x216/16             model.layers.0.mamba.out_proj.weight
              w17     107200  320    f32     1x72x1/16               model.layers.0.pre_ff_layernorm.weight
              w18     107520  2304   bf16    1x3x72/16               model.layers.0.feed_forward.router.weight
              w19     109824  2016   bf16    3x100x3/16              int4 scales of model.layers.0.feed_forward.experts.*.gate_proj.weight
              w20     111872  16128  int4    3x100x72/16             model.layers.0.feed_forward.experts.*.gate_proj.weight
              w21     128000  2016   bf16    3x100x3/16              int4 scales of model.layers.0.feed_forward.experts.*.up_proj.weight
              w22     130048  16128  int4    3x100x72/16             model.layers.0.feed_forward.experts.*.up_proj.weight
              w23     146176  1920   bf16    3x72x4/16               int4 scales of model.layers.0.feed_forward.experts.*.down_proj.weight
              w24     148096  15360  int4    3x72x100/16             model.layers.0.feed_forward.experts.*.down_proj.weight
              w25     163456  320    f32     1x72x1/16               model.final_layernorm.weight
              w26     163776  704    f32     1x173x1/16              int8 scales of lm_head.weight
              w27     164480  16896  int8    1x173x72/16             lm_head.weight
        "#]].assert_eq(&text::weights(&of(tiny, DType::Bf16, formats).expect("a schedule")));
    }

    #[test]
    fn a_tied_table_is_looked_up_as_it_is_stored_and_multiplied_in_integers() {
        let formats = Formats { linear: Some(WeightFormat::Int8), ..Formats::default() };
        let schedule = of(Tiny::dense_tied(), DType::Bf16, formats).expect("a schedule");
        let table = schedule.weights.iter().filter(|weight| weight.name() == "model.embed_tokens.weight");
        let stored: Vec<_> = table.map(|weight| (weight.format, weight.transform, weight.layout.lanes)).collect();
        let scale = (WeightFormat::F32, Transform::Scale(WeightFormat::Int8), 16);
        let head = (WeightFormat::Int8, Transform::None, 16);
        assert_eq!(stored, [(WeightFormat::Bf16, Transform::None, 1), scale, head]);
        let formats = Formats { embedding: Some(WeightFormat::Int4), ..Formats::default() };
        let error = of(Tiny::base(), DType::Bf16, formats).unwrap_err().to_string();
        expect![
            "parameter model.embed_tokens.weight: format int4, expected f32 or bf16, because tokens are looked up in it"
        ]
        .assert_eq(&error);
    }

    #[test]
    fn f16_stays_where_targets_read_it() {
        let head = "lm_head.weight";
        let widened = of(Tiny::base(), DType::F16, Formats::default()).expect("a schedule");
        assert_eq!(format_of(&widened, head), WeightFormat::F32);
        let native = Formats { f16_native: true, ..Formats::default() };
        let kept = of(Tiny::base(), DType::F16, native).expect("a schedule");
        assert_eq!(format_of(&kept, head), WeightFormat::F16);
    }

    #[test]
    fn nothing_is_narrowed_to_f16() {
        let formats = Formats { linear: Some(WeightFormat::F16), f16_native: true, ..Formats::default() };
        let error = of(Tiny::base(), DType::Bf16, formats).unwrap_err().to_string();
        expect!["parameter model.layers.0.mamba.in_proj.weight: format f16, expected f32 or bf16, because the checkpoint stores bf16"].assert_eq(&error);
    }
}
