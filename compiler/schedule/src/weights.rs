//! Packed weights: format, parts and placement of the parameters that kernels read.
//!
//! A kernel declares the layout and the parts of each weight. One weight is stored per (parts, order, layout, format,
//! transform), shared by all steps that read it. On CPUs:
//!
//! | use | layout (groups, n, k, lanes) | format |
//! |---|---|---|
//! | weight of a linear \[N, I\], also inside a scan | 1, N, I, 16 | linear |
//! | router or Δ weight if linears are integers | 1, N, I, 16 | as stored, or f32 |
//! | weights of experts \[E, N, I\] | E, N, I, 16 | experts |
//! | embedding table \[V, D\] | 1, V, D, 1 | embedding |
//! | embedding table that is also a linear's weight (tied), unless that has 4 bits or fewer | as that linear's | linear |
//! | norm weight, bias, D \[C\] | 1, C, 1, 16 | f32 |
//! | convolution weight \[C, 1, K\] | 1, C, K, 16 | f32 |
//! | A_log \[C, N\], as decay rates | 1, C, N, 16 | f32 |
//!
//! For GPU layouts see [`jambac_kernels::hopper::weight`].
//!
//! An embedding table of its own is floating-point. A tied table whose linear multiplies int4 or int3 is stored twice, because its rows
//! lose too much for a lookup; on GPUs, which look up bf16 only, that of int8 as well.
//!
//! An integer weight is stored directly after its scales, which have the same parts.

use std::collections::BTreeSet;

use jamba_plan::format::{Part, TargetKind, Transform, Weight, WeightFormat};
use jamba_plan::synthetic;
use jambac_graph::{Activation, DType, Graph, NodeId, Op, Type, ValueId, op};
use jambac_kernels::catalog;
use jambac_kernels::kernel::{self, Elem};
use jambac_kernels::node::{Decisions, Node, Reads, SelectError, Use, computed};
use jambac_kernels::target;

use crate::{Formats, ScheduleError};

/// The rules that determine the storage formats of parameters and values.
pub(crate) struct FormatRules {
    pub(crate) kind: TargetKind,
    formats: Formats,
    /// Parameters that a linear reads.
    of_linears: BTreeSet<String>,
    /// Linear weights that are never stored as integers: those of routers and of Δ.
    never_integers: BTreeSet<String>,
    /// Weights of the linears that compute logits.
    heads: BTreeSet<String>,
}

impl FormatRules {
    /// The rules for the graphs of all entries.
    pub(crate) fn new(graphs: &[&Graph], formats: Formats, kind: TargetKind) -> FormatRules {
        let (mut of_linears, mut never_integers, mut heads) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for graph in graphs {
            let logits = graph.outputs().get("logits").map(|logits| logits.node);
            for node in graph.order() {
                let weight =
                    |operand: usize| graph.op(graph.operands(node)[operand].node).source_name().map(str::to_owned);
                if let Op::Linear { .. } = graph.op(node) {
                    of_linears.extend(weight(1));
                    if logits == Some(node) {
                        heads.extend(weight(1));
                    }
                    if is_sensitive(graph, node) {
                        never_integers.extend(weight(1));
                    }
                }
            }
        }
        FormatRules { kind, formats, of_linears, never_integers, heads }
    }

    /// The element type that all readers of a value accept; f32 for outputs of the graph.
    fn agreed(&self, graph: &Graph, value: ValueId) -> Result<Elem, SelectError> {
        let mut agreed: Option<(NodeId, Elem)> = None;
        let users = graph.users(value);
        for &(reader, operand) in &users {
            let taken = match catalog::reads(graph.op(reader), operand, graph.operands(reader).len(), self.kind) {
                Reads::As(elem) => elem,
                Reads::LikeResult => self.agreed(graph, graph.result(reader, 0))?,
                Reads::Any => continue,
            };
            match agreed {
                Some((first, elem)) if elem != taken => {
                    let (a, b) = (graph.op(first).name(), graph.op(reader).name());
                    let (first, second) = (elem.name(), taken.name());
                    let reason = format!("{a} reads a result as {first}, and {b} as {second}");
                    return Err(SelectError::Unsupported(reason));
                }
                _ => agreed = Some((reader, taken)),
            }
        }
        if let Some((_, elem)) = agreed {
            return Ok(elem);
        }
        // The readers accept any type: the types of their results decide.
        for &(reader, _) in &users {
            if self.agreed(graph, graph.result(reader, 0))? == Elem::F32 {
                return Ok(Elem::F32);
            }
        }
        Ok(if users.is_empty() { Elem::F32 } else { Elem::Bf16 })
    }
}

impl Decisions for FormatRules {
    fn target(&self) -> TargetKind {
        self.kind
    }

    fn stored(&self, graph: &Graph, value: ValueId) -> Result<Elem, SelectError> {
        match graph.ty(value).dtype {
            DType::F32 => self.agreed(graph, value),
            other => Ok(computed(other)),
        }
    }

    fn format(&self, parameter: &str, dtype: DType, use_: Use) -> Result<WeightFormat, SelectError> {
        let chosen = match use_ {
            Use::Linear | Use::StepSize => self.formats.linear,
            Use::Experts => self.formats.experts,
            Use::Embedding => self.formats.embedding,
        };
        // A tied table's name means the linear; its copy for lookups keeps the format of tables.
        let is_copy = use_ == Use::Embedding && self.of_linears.contains(parameter);
        let named = self.formats.named.get(parameter).copied().filter(|_| !is_copy);
        let chosen = match chosen {
            Some(WeightFormat::Int4 | WeightFormat::Int3) if use_ == Use::Linear && self.heads.contains(parameter) => {
                Some(WeightFormat::Int8)
            }
            other => other,
        };
        let stored = target::stored_format(self.kind, dtype);
        let found = named.or(chosen).unwrap_or(stored);
        let is_integer = found.scales().is_some();
        let is_sensitive = use_ == Use::StepSize || self.never_integers.contains(parameter);
        let readable = |format| match format {
            WeightFormat::F16 if !self.formats.f16_native => WeightFormat::F32,
            other => other,
        };
        let refuse = |expected: String| Err(SelectError::Format { parameter: parameter.to_owned(), found, expected });
        if let Some(expected) = target::refuses(self.kind, found) {
            return refuse(expected.to_owned());
        }
        match found {
            WeightFormat::F16 if stored != found => {
                refuse(format!("f32 or bf16, because the checkpoint stores {dtype}"))
            }
            _ if is_integer && use_ == Use::Embedding => {
                refuse("f32 or bf16, because tokens are looked up in it".into())
            }
            _ if is_integer && is_sensitive && named.is_some() => {
                refuse("f32 or bf16, because it decides on experts or step sizes".into())
            }
            // These parameters are small.
            _ if is_integer && is_sensitive && stored.scales().is_some() => Ok(target::widest(self.kind)),
            _ if is_integer && is_sensitive => Ok(readable(stored)),
            _ => Ok(readable(found)),
        }
    }

    fn is_tied(&self, parameter: &str, dtype: DType) -> Result<bool, SelectError> {
        if !self.of_linears.contains(parameter) {
            return Ok(false);
        }
        Ok(target::looks_up(self.kind, self.format(parameter, dtype, Use::Linear)?))
    }
}

/// The packed weights of all steps so far.
pub(crate) struct Weights {
    kind: TargetKind,
    /// In order of first use; offsets are final.
    pub(crate) planned: Vec<Weight>,
}

impl Weights {
    pub(crate) fn new(kind: TargetKind) -> Weights {
        Weights { kind, planned: Vec::new() }
    }

    /// The index of a node's weight, stored as `elem`; adds the weight if it is new.
    pub(crate) fn add(&mut self, node: &Node, weight: &kernel::Weight, elem: Elem) -> Result<usize, ScheduleError> {
        let refuse = |error: SelectError| ScheduleError::of_node(node.graph, node.id, error);
        let parameters: Vec<(&str, &Type)> =
            weight.operands.clone().map(|operand| node.parameter(operand)).collect::<Result<_, _>>().map_err(refuse)?;
        let (first, first_ty) = parameters[0];
        if let Some((name, ty)) = parameters.iter().find(|(_, ty)| ty.dtype != first_ty.dtype) {
            let (found, expected) = (ty.dtype, first_ty.dtype);
            let reason = format!("parameter {name} is {found}, expected {expected} as {first} beside it");
            return Err(refuse(node.fail(reason)));
        }
        let too_large = || ScheduleError::TooLarge { what: format!("weights, up to {first}") };
        let format = elem.weight_format().ok_or_else(|| refuse(node.fail(format!("a weight is {}", elem.name()))))?;
        let layout = weight.layout;
        let rows: Vec<usize> = parameters.iter().map(|(_, ty)| rows(ty, layout.groups * layout.k)).collect();
        let sizes = &weight.sizes;
        let cut = op::parts(sizes, &rows);
        let cut = cut.ok_or_else(|| refuse(node.fail(format!("weights are not cut into {sizes:?}"))))?;
        let parts: Vec<Part> = cut.iter().map(|part| planned(parameters[part.weight].0, part, layout.k)).collect();

        let same = |known: &Weight| {
            (&known.parts, known.order) == (&parts, weight.order)
                && (known.layout, known.format, known.transform) == (layout, format, weight.transform)
        };
        if let Some(index) = self.planned.iter().position(same) {
            return Ok(index);
        }
        let record =
            Weight { parts, order: weight.order, offset: 0, bytes: 0, layout, format, transform: weight.transform };
        if let Some((layout, stored)) = layout.scales(format) {
            let scales = Weight { layout, format: stored, transform: Transform::Scale(format), ..record.clone() };
            self.place(scales).ok_or_else(too_large)?;
        }
        self.place(record).ok_or_else(too_large)
    }

    /// Appends a weight and returns its index; `None` if the size exceeds the address space.
    fn place(&mut self, weight: Weight) -> Option<usize> {
        let bytes = weight.layout.bytes(weight.format)?;
        let offset = self.bytes();
        offset.checked_add(bytes).filter(|&end| end <= isize::MAX as u64 - self.kind.align_bytes())?;
        self.planned.push(Weight { offset, bytes, ..weight });
        Some(self.planned.len() - 1)
    }

    /// Size of all weights in bytes, rounded up to the next weight's offset.
    pub(crate) fn bytes(&self) -> u64 {
        let align = self.kind.align_bytes();
        self.planned.last().map_or(0, |last| (last.offset + last.bytes).next_multiple_of(align))
    }
}

/// Rows of a parameter per group, where `per_row` is the number of elements of a row over all groups.
fn rows(ty: &Type, per_row: u64) -> usize {
    let elements: u64 = ty.shape.iter().filter_map(|dim| dim.fixed()).map(|dim| dim as u64).product();
    (elements / per_row.max(1)) as usize
}

fn planned(parameter: &str, part: &op::Part, inputs: u64) -> Part {
    let (first_row, rows) = (part.first_row as u64, part.rows as u64);
    let (_, init) = synthetic::init_for(parameter, &[rows, inputs]);
    Part { parameter: parameter.to_owned(), first_row, rows, init }
}

/// True if a linear computes routing probabilities or step sizes. Integer rounding would route tokens to other experts, and Δ
/// is an exponent. Both weights are small.
fn is_sensitive(graph: &Graph, linear: NodeId) -> bool {
    if matches!(graph.op(linear), Op::Linear { activation: Activation::Softplus }) {
        return true;
    }
    let users = graph.users(graph.result(linear, 0));
    users.iter().any(|&(user, _)| matches!(graph.op(user), Op::Softmax | Op::MoeRoute { .. } | Op::Softplus))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use jamba_plan::format::{EntryKind, Layout};
    use jambac_graph::text::read;
    use jambac_models::tiny::Tiny;

    use super::*;
    use crate::tests::{limits, of_model};
    use crate::{Schedule, text};

    fn of(tiny: Tiny, dtype: DType, formats: Formats) -> Result<Schedule, ScheduleError> {
        of_model(&tiny.config().expect("a config"), dtype, limits(8, 2, 2), formats)
    }

    fn format_of(schedule: &Schedule, parameter: &str) -> WeightFormat {
        let found: Vec<_> = schedule.program.weights.iter().filter(|weight| weight.name() == parameter).collect();
        assert_eq!(found.len(), 1, "{parameter} is packed once");
        found[0].format
    }

    #[test]
    fn a_tied_table_is_stored_once_in_panels() {
        let schedule = of(Tiny::dense_tied(), DType::Bf16, Formats::default()).expect("a schedule");
        let table: Vec<_> = schedule.program.weights.iter().filter(|weight| weight.name().contains("embed")).collect();
        assert_eq!(table.len(), 1);
        assert_eq!(table[0].layout, Layout::in_panels(1, 512, 48, 16));
        assert_eq!(schedule.kernels[0].symbol, "embed_bf16_d48_l16");
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
        let graph = read(
            r#"graph @g {
                 %ids = input "ids" : i32[tokens]
                 %table = parameter "table" : bf16[7, 40]
                 %x = embed %ids, %table : f32[tokens, 40]
                 %q = parameter "q" : bf16[72, 40]
                 %k = parameter "k" : bf16[24, 40]
                 %up = parameter "up" : bf16[72, 40]
                 %a, %b, %c = split_linear %x, %q, %k {sizes = [72, 8, 16]} : f32[tokens, 72], f32[tokens, 8], f32[tokens, 16]
                 %d = linear %x, %k : f32[tokens, 24]
                 %e = linear_swiglu %x, %q, %up : f32[tokens, 72]
                 %f, %g, %h = split_linear %x, %q, %k {sizes = [72, 8, 16]} : f32[tokens, 72], f32[tokens, 8], f32[tokens, 16]
                 output "d" = %d
               }"#,
        )
        .expect("the graph is sound");
        let rules = FormatRules::new(&[&graph], Formats::default(), TargetKind::Cpu);
        let mut weights = Weights::new(TargetKind::Cpu);
        let one = crate::select::Extents { tokens: 1, sequences: 1, outputs: 1 };
        let mut of_linears = Vec::new();
        for id in graph.order() {
            let node = Node::new(&graph, id, &rules);
            if graph.op(id).is_source() || *graph.op(id) == Op::Embed {
                continue;
            }
            let launches = crate::select::launches(&node, EntryKind::Prefill, one).expect("launches").launches;
            for operand in &launches[0].operands {
                if let kernel::Source::Weight(weight) = &operand.source {
                    of_linears.push(weights.add(&node, weight, Elem::Bf16).expect("a weight"));
                }
            }
        }
        assert_eq!(of_linears, [0, 1, 2, 0], "the same parts are the same weight");
        let lines: Vec<String> = weights.planned.iter().map(|w| format!("{}: {:?}", w.name(), w.layout)).collect();
        expect![[r#"
            q[0..72] + k[0..8] + k[8..24]: Layout { groups: 1, n: 112, k: 40, lanes: 16, order: Panels }
            k: Layout { groups: 1, n: 24, k: 40, lanes: 16, order: Panels }
            q[0..72] | up[0..72]: Layout { groups: 1, n: 160, k: 40, lanes: 16, order: Panels }"#]]
        .assert_eq(&lines.join("\n"));
        // 72 rows take 80, 8 and 16 take 16: 112 rows of 40 bf16.
        assert_eq!((weights.planned[0].bytes, weights.planned[2].bytes), (112 * 40 * 2, 2 * 80 * 40 * 2));
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
    fn a_tied_table_of_int8_is_stored_once_and_one_of_int4_twice() {
        let table = "model.embed_tokens.weight";
        let stored = |head: Option<WeightFormat>, linear: WeightFormat| -> Vec<_> {
            let named = head.into_iter().map(|head| (table.to_owned(), head)).collect();
            let formats = Formats { linear: Some(linear), named, ..Formats::default() };
            let schedule = of(Tiny::dense_tied(), DType::Bf16, formats).expect("a schedule");
            let table = schedule.program.weights.iter().filter(|weight| weight.name() == table);
            table.map(|weight| (weight.format, weight.transform, weight.layout.lanes)).collect()
        };
        let (int8, int4) = (WeightFormat::Int8, WeightFormat::Int4);
        let once = [(WeightFormat::F32, Transform::Scale(int8), 16), (int8, Transform::None, 16)];
        assert_eq!(stored(None, int8), once);
        assert_eq!(stored(None, int4), once, "the head of int4 is int8");
        let lookup = (WeightFormat::Bf16, Transform::None, 1);
        let head = [(WeightFormat::Bf16, Transform::Scale(int4), 16), (int4, Transform::None, 16)];
        assert_eq!(stored(Some(int4), int4), [&[lookup], &head[..]].concat());
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
