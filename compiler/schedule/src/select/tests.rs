//! Errors for nodes that no kernel supports name the node, the value found and the value expected.

use expect_test::{Expect, expect};
use jamba_plan::format::TargetKind;
use jambac_graph::text::read;

use crate::tests::limits;
use crate::{Formats, Options, schedule, text};

/// Schedules a graph that ends in logits and whose tested node has the location "here", and compares the error message.
fn check(body: &str, complaint: Expect) {
    let source = |name: &str| {
        format!(
            r#"graph @{name} {{
                 %ids = input "ids" : i32[tokens]
                 %rows = input "rows" : i32[outputs]
                 %table = parameter "table" : f32[7, 16]
                 %x = embed %ids, %table : f32[tokens, 16]
                 {body}
                 %last = select_rows %y, %rows : f32[outputs, 16]
                 %logits = linear %last, %table : f32[outputs, 7]
                 output "logits" = %logits
               }}"#
        )
    };
    let [prefill, decode] = ["prefill", "decode"].map(|name| read(&source(name)).expect("the graph is sound"));
    let options = Options { kind: TargetKind::Cpu, limits: limits(4, 2, 2), formats: Formats::default() };
    complaint.assert_eq(&schedule(&prefill, &decode, &options).unwrap_err().to_string());
}

#[test]
fn an_activation_that_is_a_parameter() {
    let body = r#"%w = parameter "w" : f32[3, 16]
                  %v = slice %w {start = 0, len = 8} : f32[3, 8] loc "here"
                  %y = silu %x : f32[tokens, 16]"#;
    check(body, expect!["here: slice: operand x is parameter w, expected the result of a step"]);
}

#[test]
fn a_norm_by_an_input() {
    let body = r#"%w = input "gain" : f32[16]
                  %y = rms_norm %x, %w {eps = 1e-6} : f32[tokens, 16] loc "here""#;
    check(body, expect!["here: rms_norm: operand weight is input gain, expected a parameter"]);
}

#[test]
fn an_input_that_is_no_step_table() {
    let body = r#"%positions = input "positions" : i32[tokens]
                  %y = embed %positions, %table : f32[tokens, 16] loc "here""#;
    check(body, expect!["here: embed: operand ids is input positions, expected input ids"]);
}

#[test]
fn weights_side_by_side_of_two_types() {
    let body = r#"%gate = parameter "gate" : bf16[16, 16]
                  %up = parameter "up" : f32[16, 16]
                  %y = linear_swiglu %x, %gate, %up : f32[tokens, 16] loc "here""#;
    check(body, expect!["here: linear_swiglu: parameter up is f32, expected bf16 as gate beside it"]);
}

#[test]
fn fused_ops_have_kernels() {
    let source = |name: &str| {
        format!(
            r#"graph @{name} {{
                 %ids = input "ids" : i32[tokens]
                 %rows = input "rows" : i32[outputs]
                 %table = parameter "table" : bf16[7, 16]
                 %x = embed %ids, %table : f32[tokens, 16]
                 %taps = parameter "taps" : bf16[16, 1, 4]
                 %bias = parameter "bias" : bf16[16]
                 %conv = state "conv" : f32[sequences, 16, 3]
                 %u, %next_conv = causal_conv1d %x, %taps, %bias, %conv {{bias = true, activation = silu}}
                   : f32[tokens, 16], f32[sequences, 16, 3]
                 %dt_proj = parameter "dt_proj" : bf16[16, 16]
                 %dt = linear %u, %dt_proj, %bias {{activation = softplus}} : f32[tokens, 16]
                 %a_log = parameter "a_log" : bf16[16, 5]
                 %b_proj = parameter "b_proj" : bf16[5, 16]
                 %b = linear %u, %b_proj : f32[tokens, 5]
                 %d = parameter "d" : bf16[16]
                 %ssm = state "ssm" : f32[sequences, 16, 5]
                 %y, %next_ssm = selective_scan %u, %a_log, %ssm, %dt, %b, %b, %d, %x {{selection = given, gated = true}}
                   : f32[tokens, 16], f32[sequences, 16, 5]
                 %norm = parameter "norm" : bf16[16]
                 %sum, %normed = add_rms_norm %x, %y, %norm {{eps = 1e-5}} : f32[tokens, 16], f32[tokens, 16]
                 %gated = swiglu %sum, %normed : f32[tokens, 16]
                 %q_proj = parameter "q_proj" : bf16[20, 16]
                 %k_proj = parameter "k_proj" : bf16[16, 16]
                 %q0, %q1, %k = split_linear %gated, %q_proj, %k_proj {{sizes = [4, 16, 16]}}
                   : f32[tokens, 4], f32[tokens, 16], f32[tokens, 16]
                 %qk = swiglu %q1, %k : f32[tokens, 16]
                 %gate_proj = parameter "gate_proj" : bf16[16, 16]
                 %up_proj = parameter "up_proj" : bf16[16, 16]
                 %mlp = linear_swiglu %qk, %gate_proj, %up_proj : f32[tokens, 16]
                 %last = select_rows %mlp, %rows : f32[outputs, 16]
                 %logits = linear %last, %table : f32[outputs, 7]
                 output "conv" = %next_conv
                 output "ssm" = %next_ssm
                 output "logits" = %logits
               }}"#
        )
    };
    let [prefill, decode] = ["prefill", "decode"].map(|name| read(&source(name)).expect("the graph is sound"));
    let options = Options { kind: TargetKind::Cpu, limits: limits(4, 2, 2), formats: Formats::default() };
    let schedule = schedule(&prefill, &decode, &options).expect("a schedule");
    expect![[r#"
        prefill: 12 steps, 10 barriers; at most 4 tokens, 2 sequences, 2 outputs
          step    kernel                             source  arguments
          0       embed_bf16_d16_l16                         ids=ids weight=w0 out=b0 tokens=tokens
          1     | causal_conv1d_c16_k4_bias_silu             u=b0 weight=w1 bias=w2 state=conv starts=starts slots=slots y=b1 sequences=sequences slot_stride=128
          2     | linear_bf16_n16_k16_bias_softplus          x=b1 weight=w3 bias=w2 out=b2 rows=tokens
          3       linear_bf16_n5_k16                         x=b1 weight=w4 out=b3 rows=tokens
          4     | gated_selective_scan_c16_n5                u=b1 a=w5 dt=b2 b=b3 c=b3 state=ssm d=w6 z=b0 sequence_of=sequence_of slots=slots y=b4 tokens=tokens slot_stride=128
          5     | add_rms_norm_d16_e3727c5ac                 a=b0 b=b4 weight=w7 sum=b5 out=b6 rows=tokens
          6     | swiglu_d16                                 a=b5 b=b6 out=b7 rows=tokens
          7     | split_linear_bf16_n4_16_16_k16             x=b7 weight=w8 out0=b8 out1=b9 out2=b10 rows=tokens
          8     | swiglu_d16                                 a=b9 b=b10 out=b11 rows=tokens
          9     | linear_swiglu_bf16_n16_k16                 x=b11 weight=w9 out=b12 rows=tokens
          10    | select_rows_d16                            x=b12 rows=rows out=b13 outputs=outputs
          11    | linear_bf16_n7_k16                         x=b13 weight=w0 out=b14 rows=outputs
    "#]].assert_eq(&text::steps(&schedule, &schedule.program.entries[0]));
}
