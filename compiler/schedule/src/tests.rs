//! Complete schedules: models of the family, random graphs, and a graph small enough to schedule by hand.

use std::collections::BTreeSet;
use std::path::Path;

use expect_test::expect;
use jambac_graph::build::Builder;
use jambac_graph::{DType, Graph, Symbol, Type, text::read};
use jambac_models::jamba::{self, JambaConfig};
use jambac_models::tiny::Tiny;
use jambac_passes::{Fusion, PassManager};
use proptest::prelude::*;

use jamba_plan::format::WeightFormat;

use crate::*;

pub(crate) fn limits(prefill_chunk: u64, max_sequences: u64, max_outputs: u64) -> Limits {
    Limits { max_context: 100, max_sequences, kv_tokens: 320, prefill_chunk, max_outputs }
}

/// The schedule of a model without passes, with every parameter stored as `dtype`.
pub(crate) fn of_model(
    config: &JambaConfig,
    dtype: DType,
    limits: Limits,
    formats: Formats,
) -> Result<Schedule, ScheduleError> {
    let (prefill, decode) = entries(config, dtype);
    schedule(&prefill, &decode, &Options { kind: TargetKind::Cpu, limits, formats })
}

pub(crate) fn entries(config: &JambaConfig, dtype: DType) -> (Graph, Graph) {
    let kv = jamba::Options { kv_dtype: DType::Bf16 };
    (jamba::prefill(config, &|_| dtype, &kv), jamba::decode(config, &|_| dtype, &kv))
}

/// A gated MLP with norm and residual: d_model 20, d_ff 40, a vocabulary of 10.
fn mlp(name: &str) -> Graph {
    let text = r#"
graph @NAME {
  %ids = input "ids" : i32[tokens]
  %rows = input "rows" : i32[outputs]
  %table = parameter "embed" : bf16[10, 20]
  %x = embed %ids, %table : f32[tokens, 20] loc "embed"
  %weight = parameter "norm" : bf16[20]
  %normed = rms_norm %x, %weight {eps = 1e-6} : f32[tokens, 20] loc "norm"
  %gate_proj = parameter "gate" : bf16[40, 20]
  %gate = linear %normed, %gate_proj : f32[tokens, 40] loc "gate"
  %up_proj = parameter "up" : bf16[40, 20]
  %up = linear %normed, %up_proj : f32[tokens, 40] loc "up"
  %silu = silu %gate : f32[tokens, 40] loc "silu"
  %gated = mul %silu, %up : f32[tokens, 40] loc "mul"
  %down_proj = parameter "down" : bf16[20, 40]
  %down = linear %gated, %down_proj : f32[tokens, 20] loc "down"
  %sum = add %x, %down : f32[tokens, 20] loc "residual"
  %last = select_rows %sum, %rows : f32[outputs, 20] loc "last"
  %logits = linear %last, %table : f32[outputs, 10] loc "head"
  output "logits" = %logits
}
"#;
    read(&text.replace("NAME", name)).expect("the graph is sound")
}

fn of_mlp(limits: Limits) -> Schedule {
    let options = Options { kind: TargetKind::Cpu, limits, formats: Formats::default() };
    schedule(&mlp("prefill"), &mlp("decode"), &options).expect("the graph has a schedule")
}

#[test]
fn steps_read_from_top_to_bottom() {
    let schedule = of_mlp(limits(3, 1, 2));
    expect![[r#"
        prefill: 10 steps, 8 barriers; at most 3 tokens, 1 sequences, 2 outputs
          step    kernel                  source    arguments
          0       embed_bf16_d20_l16      embed     ids=ids weight=w0 out=b0 tokens=tokens
          1     | rms_norm_d20_e358637bd  norm      a=b0 weight=w1 out=b1 rows=tokens
          2     | linear_bf16_n40_k20     gate      x=b1 weight=w2 out=b2 rows=tokens
          3       linear_bf16_n40_k20     up        x=b1 weight=w3 out=b3 rows=tokens
          4     | silu_d40                silu      a=b2 out=b4 rows=tokens
          5     | mul_d40                 mul       a=b4 b=b3 out=b5 rows=tokens
          6     | linear_bf16_n20_k40     down      x=b5 weight=w4 out=b6 rows=tokens
          7     | add_d20                 residual  a=b0 b=b6 out=b7 rows=tokens
          8     | select_rows_d20         last      x=b7 rows=rows out=b8 outputs=outputs
          9     | linear_bf16_n10_k20     head      x=b8 weight=w0 out=b9 rows=outputs
    "#]]
    .assert_eq(&text::steps(&schedule, &schedule.program.entries[0]));
}

#[test]
fn memory_plan_worked_out() {
    let schedule = of_mlp(limits(3, 1, 2));
    let buffers = &schedule.program.entries[0].buffers;
    let plan: Vec<_> = buffers.iter().map(|buffer| (buffer.offset, buffer.bytes, buffer.in_place_of)).collect();
    // 3 tokens, 2 outputs. Rows of 20 take 32 · 4 = 128 bytes, rows of 40 take 48 · 4 = 192, rows of 10 take 16 · 4 = 64.
    // The peak is the run of gate and up: 384 + 384 + 576 + 576 = 1920. The largest buffers are placed first.
    let worked_out = [
        (1152, 384, None),    // b0 x: 3 · 128, above gate and up: 576 + 576
        (1536, 384, None),    // b1 normed: above x: 1152 + 384
        (0, 576, None),       // b2 gate: 3 · 192
        (576, 576, None),     // b3 up: above gate
        (0, 576, Some(2)),    // b4 silu: over gate
        (0, 576, Some(4)),    // b5 gated: over silu
        (576, 384, None),     // b6 down: above gated; up is dead there
        (1152, 384, Some(0)), // b7 the sum: over x
        (0, 256, None),       // b8 selected: 2 · 128; only the sum is live
        (256, 128, None),     // b9 logits: 2 · 64, above selected
    ];
    assert_eq!(plan, worked_out);
    assert_eq!(schedule.memory.arena, 1920);
    assert_eq!(Schedule::peak_live_bytes(&schedule.program.entries[0]), 1920);
}

#[test]
fn weights_worked_out() {
    expect![[r#"
        weights: 7168 bytes
          weight  offset  bytes  format  groups x n x k / lanes  parameter
          w0      0       640    bf16    1x10x20/16              embed
          w1      640     128    f32     1x20x1/16               norm
          w2      768     1920   bf16    1x40x20/16              gate
          w3      2688    1920   bf16    1x40x20/16              up
          w4      4608    2560   bf16    1x20x40/16              down
    "#]]
    .assert_eq(&text::weights(&of_mlp(limits(3, 1, 2))));
}

fn family() -> Vec<(String, JambaConfig)> {
    let tiny = Tiny::presets().into_iter().map(|(name, tiny)| (name.to_owned(), tiny.config().expect("a config")));
    let models = ["tiny", "jamba-3b", "jamba-mini", "jamba-large"].map(|name| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models").join(name).join("config.json");
        (name.to_owned(), JambaConfig::read(&path).expect("a config"))
    });
    tiny.chain(models).collect()
}

#[test]
fn arenas_of_the_family_are_close_to_the_peak_of_live_bytes() {
    for (name, config) in family() {
        let unfused = entries(&config, DType::Bf16);
        let mut fused = unfused.clone();
        for graph in [&mut fused.0, &mut fused.1] {
            PassManager::new(&Fusion::All).run(graph).expect("the passes run");
        }
        for (prefill, decode) in [unfused, fused] {
            for (chunk, outputs) in [(1, 1), (256, 4)] {
                let options =
                    Options { kind: TargetKind::Cpu, limits: limits(chunk, 4, outputs), formats: Formats::default() };
                let schedule = schedule(&prefill, &decode, &options).unwrap_or_else(|error| panic!("{name}: {error}"));
                let peak = schedule.program.entries.iter().map(Schedule::peak_live_bytes).max().unwrap_or(0);
                let arena = schedule.memory.arena;
                assert!(arena >= peak && arena * 100 <= peak * 105, "{name}, {chunk} tokens: {arena} bytes for {peak}");
            }
        }
    }
}

#[test]
fn the_same_graphs_give_the_same_schedule() {
    let config = Tiny::base().config().expect("a config");
    let make = || of_model(&config, DType::Bf16, limits(40, 3, 5), Formats::default()).expect("a schedule");
    assert_eq!(make(), make());
}

#[test]
fn entries_share_kernels_and_weights() {
    let config = Tiny::community().config().expect("a config");
    let schedule = of_model(&config, DType::Bf16, limits(40, 3, 5), Formats::default()).expect("a schedule");
    let [prefill, decode] = &schedule.program.entries[..] else { panic!("two entries") };
    let code = |entry: &Entry| entry.steps.iter().map(|step| step.kernel).collect::<Vec<_>>();
    assert_eq!(code(prefill), code(decode));
    let weights = |entry: &Entry| {
        let args = entry.steps.iter().flat_map(|step| step.args.clone());
        args.filter(|arg| matches!(arg, Arg::Weight(_))).collect::<Vec<_>>()
    };
    assert_eq!(weights(prefill), weights(decode));
}

#[test]
fn decode_takes_a_token_of_each_sequence() {
    let schedule = of_mlp(limits(40, 3, 5));
    let sizes: Vec<_> = schedule
        .program
        .entries
        .iter()
        .map(|entry| (entry.kind, entry.max_tokens, entry.max_sequences, entry.max_outputs))
        .collect();
    assert_eq!(sizes, [(EntryKind::Prefill, 40, 3, 5), (EntryKind::Decode, 3, 3, 3)]);
}

#[test]
fn limits_are_counts() {
    let of = |limits: Limits| {
        let options = Options { kind: TargetKind::Cpu, limits, formats: Formats::default() };
        schedule(&mlp("prefill"), &mlp("decode"), &options).unwrap_err().to_string()
    };
    expect!["limit prefill_chunk is 0, expected 1 … 2147483647"].assert_eq(&of(limits(0, 1, 1)));
    expect!["limit max_outputs is 2147483648, expected 1 … 2147483647"].assert_eq(&of(limits(1, 1, 1 << 31)));
    expect!["limit kv_tokens is 17, expected a multiple of 16 up to 2147483647"]
        .assert_eq(&of(Limits { kv_tokens: 17, ..limits(1, 1, 1) }));
}

/// The passes for Hopper kernels.
const SM_90A: &str = "all,-fuse-kv-append";

pub(crate) fn on_hopper(config: &JambaConfig, limits: Limits, formats: Formats) -> Result<Schedule, ScheduleError> {
    let (mut prefill, mut decode) = entries(config, DType::Bf16);
    let mut passes = PassManager::new(&SM_90A.parse::<Fusion>().expect("names of passes"));
    for graph in [&mut prefill, &mut decode] {
        passes.run(graph).expect("sound graphs");
    }
    schedule(&prefill, &decode, &Options { kind: TargetKind::Sm90a, limits, formats })
}

#[test]
fn a_gpu_decodes_few_sequences_and_many_by_steps_of_their_own() {
    let tiny = Tiny { layers: 2, attention: (2, 1), moe: (2, 1), ..Tiny::base() };
    let schedule = on_hopper(&tiny.config().expect("a config"), limits(8, 9, 2), Formats::default());
    let schedule = schedule.expect("a schedule");
    let of = |entry: &Entry| (entry.kind, entry.max_tokens, entry.steps.len());
    let found: Vec<_> = schedule.program.entries.iter().map(of).collect();
    expect![[r#"
        [
            (
                Prefill,
                8,
                30,
            ),
            (
                Decode,
                2,
                27,
            ),
            (
                Decode,
                8,
                29,
            ),
            (
                Decode,
                9,
                31,
            ),
        ]
    "#]]
    .assert_debug_eq(&found);
    expect![[r#"
        decode: 27 steps, 26 barriers; at most 2 tokens, 2 sequences, 2 outputs
          step    kernel                                                        source                     arguments
          0       embed_bf16_d64_sm90                                           embed_tokens               ids=ids table=w0 out=b0 tokens=tokens
          1     | rms_norm_d64_e358637bd_sm90                                   layers.0.input_layernorm   a=b0 weight=w1 out=b1 rows=tokens
          2     | split_linear_bf16_n128_128_k64_bf16_few_sm90                  layers.0.mamba             weight=w2 x=b1 out0=b2 out1=b3 rows=tokens
          3     | causal_conv1d_c128_k4_bias_silu_run1_sm90                     layers.0.mamba             u=b2 weight=w3 bias=w4 state=layers.0.conv sequence_of=sequence_of starts=starts slots=slots y=b4 tokens=tokens slot_stride=2432
          4     | linear_bf16_n36_k128_f32_few_sm90                             layers.0.mamba             weight=w5 x=b4 out=b5 rows=tokens
          5     | gated_selective_scan_c128_n16_r4_bf16_e358637bd_decode_sm90   layers.0.mamba             x=b5 dt_norm=w6 b_norm=w7 c_norm=w8 dt_weight=w9 dt_bias=w10 u=b4 a=w11 state=layers.0.ssm d=w12 z=b3 slots=slots y=b6 sequences=sequences slot_stride=2432
          6     | linear_bf16_n64_k128_f32_few_sm90                             layers.0.mamba             weight=w13 x=b6 out=b7 rows=tokens
          7     | linear_swiglu_bf16_n128_k64_norm_e358637bd_bf16_few_sm90      layers.0.feed_forward      a=b0 b=b7 norm=w14 sum=b8 weight=w15 out=b9 rows=tokens
          8     | linear_bf16_n64_k128_f32_few_sm90                             layers.0.feed_forward      weight=w16 x=b9 out=b10 rows=tokens
          9     | split_linear_bf16_n64_32_32_k64_norm_e358637bd_bf16_few_sm90  layers.1.self_attn         a=b8 b=b10 norm=w17 sum=b11 weight=w18 out0=b12 out1=b13 out2=b14 rows=tokens
          10    | kv_append_g2_e16_sm90                                         layers.1.self_attn         k=b13 v=b14 cache=layers.1.kv sequence_of=sequence_of starts=starts past=past pages=pages tokens=tokens page_stride=4096 pages_per_sequence=7
          11    | attention_decode_h4_g2_e16_s3e800000_sm90                     layers.1.self_attn         q=b12 cache=layers.1.kv past=past pages=pages partials=b15 sequences=sequences page_stride=4096 pages_per_sequence=7
          12    | attention_combine_h4_g2_e16_sm90                              layers.1.self_attn         partials=b15 past=past out=b16 sequences=sequences
          13    | select_rows_bf16_d64_sm90                                     layers.1.self_attn         x=b16 rows=rows out=b17 outputs=outputs
          14    | linear_bf16_n64_k64_f32_few_sm90                              layers.1.self_attn         weight=w19 x=b17 out=b18 rows=outputs
          15    | select_rows_f32_d64_sm90                                      layers.1                   x=b11 rows=rows out=b19 outputs=outputs
          16    | add_rms_norm_d64_e358637bd_sm90                               layers.1.pre_ff_layernorm  a=b19 b=b18 weight=w20 sum=b20 out=b21 rows=outputs
          17    | linear_bf16_n4_k64_f32_few_sm90                               layers.1.feed_forward      weight=w21 x=b21 out=b22 rows=outputs
          18    | moe_route_e4_k2_sm90                                          layers.1.feed_forward      logits=b22 weights=b23 slots=b24 offsets=b25 experts=b26 rows=outputs
          19    | moe_gather_d64_k2_sm90                                        layers.1.feed_forward      x=b21 slots=b24 out=b27 slot_rows=outputs*2
          20    | grouped_swiglu_bf16_e4_n128_k64_bf16_few_sm90                 layers.1.feed_forward      weight=w22 x=b27 offsets=b25 out=b28
          21    | grouped_linear_bf16_e4_n64_k128_f32_few_sm90                  layers.1.feed_forward      weight=w23 x=b28 offsets=b25 out=b29
          22    | moe_combine_d64_k2_sm90                                       layers.1.feed_forward      y=b29 weights=b23 slots=b24 out=b30 rows=outputs
          23    | add_rms_norm_d64_e358637bd_sm90                               final_layernorm            a=b20 b=b30 weight=w24 sum=b31 out=b32 rows=outputs
          24    | linear_bf16_n512_k64_f32_few_sm90                             lm_head                    weight=w25 x=b32 out=b33 rows=outputs
          25    | sample_argmax_v512_sm90                                       sampler                    logits=b33 tokens=b34 outputs=outputs
          26    | sample_draw_v512_sm90                                         sampler                    logits=b33 settings=settings tokens=b35 outputs=outputs
    "#]].assert_eq(&text::steps(&schedule, &schedule.program.entries[1]));
}

#[test]
fn the_family_has_schedules_for_hopper() {
    for formats in [None, Some(WeightFormat::Int8)] {
        let formats = Formats { linear: formats, experts: formats, ..Formats::default() };
        for tiny in [Tiny::base(), Tiny::odd(), Tiny::dense_tied()] {
            on_hopper(&tiny.config().expect("a config"), limits(40, 9, 5), formats.clone()).expect("a schedule");
        }
    }
}

#[test]
fn hopper_refuses_formats_that_it_does_not_multiply() {
    let formats = Formats { linear: Some(WeightFormat::Int4), ..Formats::default() };
    let error = on_hopper(&Tiny::base().config().expect("a config"), limits(8, 2, 2), formats).unwrap_err();
    expect![
        "parameter model.layers.0.mamba.dt_proj.weight: format int4, expected bf16, int8 or fp8, which sm_90a multiplies"
    ]
    .assert_eq(&error.to_string());
}

#[test]
fn hopper_has_kernels_for_what_nothing_fused() {
    let (prefill, decode) = entries(&Tiny::base().config().expect("a config"), DType::Bf16);
    let options = Options { kind: TargetKind::Sm90a, limits: limits(8, 2, 2), formats: Formats::default() };
    let schedule = schedule(&prefill, &decode, &options).expect("a schedule");
    let ops: BTreeSet<&str> = schedule.kernels.iter().map(|kernel| kernel.op).collect();
    for op in ["slice", "elementwise", "softmax", "top_k", "moe_permute", "moe_gather", "grouped_linear", "moe_combine"]
    {
        assert!(ops.contains(op), "{op} is not in {ops:?}");
    }
}

#[test]
fn hopper_names_the_fused_op_that_it_does_not_take() {
    let (mut prefill, mut decode) = entries(&Tiny::base().config().expect("a config"), DType::Bf16);
    let mut manager = PassManager::new(&Fusion::All);
    for graph in [&mut prefill, &mut decode] {
        manager.run(graph).expect("passes");
    }
    let options = Options { kind: TargetKind::Sm90a, limits: limits(8, 2, 2), formats: Formats::default() };
    let error = schedule(&prefill, &decode, &options).unwrap_err();
    expect![
        "layers.4.self_attn: append_attention: sm_90a has no kernel for it: build without the fusion that makes it of others"
    ]
    .assert_eq(&error.to_string());
}

#[test]
fn attention_needs_tokens_of_keys_and_values() {
    let config = Tiny::base().config().expect("a config");
    let limits = Limits { kv_tokens: 0, ..limits(1, 1, 1) };
    let error = of_model(&config, DType::Bf16, limits, Formats::default()).unwrap_err();
    expect!["limit kv_tokens is 0, expected at least 16: the model has attention layers"].assert_eq(&error.to_string());
}

#[test]
fn sizes_beyond_all_machines_are_refused() {
    let huge = |name: &str| {
        let text = jambac_graph::text::print(&mlp(name)).replace("[10, 20]", "[100000000000000, 20]");
        read(&text.replace("[outputs, 10]", "[outputs, 100000000000000]")).expect("the graph is sound")
    };
    let options = Options { kind: TargetKind::Cpu, limits: limits(1, 1, 1), formats: Formats::default() };
    let error = schedule(&huge("prefill"), &huge("decode"), &options).unwrap_err();
    expect!["embed, bf16[100000000000000, 20]: more bytes than an address space holds"].assert_eq(&error.to_string());
}

#[test]
fn prefill_takes_more_than_one_token() {
    let [prefill, mut decode] = ["prefill", "decode"].map(mlp);
    let options = Options { kind: TargetKind::Cpu, limits: limits(2, 2, 2), formats: Formats::default() };
    decode.one_token = true;
    assert!(schedule(&prefill, &decode, &options).is_ok());
    let error = schedule(&decode, &decode, &options).unwrap_err();
    expect!["entry decode: a step is one token of each sequence, expected any number"].assert_eq(&error.to_string());
}

/// A graph of `ops` on rows of equal size. Each op reads the two earlier values that its numbers select.
fn random_graph(name: &str, ops: &[(u8, usize, usize)]) -> Graph {
    const COLS: usize = 24;
    let mut b = Builder::new(name);
    let ids = b.input("ids", Type::new(DType::I32, [Symbol::Tokens]));
    let rows = b.input("rows", Type::new(DType::I32, [Symbol::Outputs]));
    let table = b.parameter("table", DType::F32, &[7, COLS]);
    let weight = b.parameter("weight", DType::F32, &[COLS]);
    let mut values = vec![b.embed(ids, table)];
    for &(op, first, second) in ops {
        let (x, y) = (values[first % values.len()], values[second % values.len()]);
        values.push(match op {
            0 => b.silu(x),
            1 => b.add_values(x, y),
            2 => b.mul(x, y),
            3 => b.mul(x, weight),
            4 => b.rms_norm(x, weight, 1e-6),
            _ => {
                let half = b.slice(x, 0, COLS / 2);
                let half_weight = b.parameter(&format!("half{}", values.len()), DType::F32, &[COLS, COLS / 2]);
                b.linear(half, half_weight, None)
            }
        });
    }
    let last = values[values.len() - 1];
    let selected = b.select_rows(last, rows);
    let logits = b.linear(selected, table, None);
    b.output("logits", logits);
    b.finish()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The checker, which schedule() runs last, finds no error; the arena is never smaller than the peak.
    #[test]
    fn random_graphs_have_sound_schedules(
        ops in proptest::collection::vec((0_u8..6, any::<usize>(), any::<usize>()), 1..40),
        tokens in 1_u64..9,
    ) {
        let (prefill, decode) = (random_graph("prefill", &ops), random_graph("decode", &ops));
        let options = Options { kind: TargetKind::Cpu, limits: limits(tokens, 2, 2), formats: Formats::default() };
        let schedule = schedule(&prefill, &decode, &options);
        prop_assert!(schedule.is_ok(), "{}", schedule.unwrap_err());
        let schedule = schedule.unwrap();
        for entry in &schedule.program.entries {
            prop_assert!(schedule.memory.arena >= Schedule::peak_live_bytes(entry));
        }
    }
}
