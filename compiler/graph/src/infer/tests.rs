//! Inference: result types of every op, and the refused operands and attributes.

use expect_test::{Expect, expect};

use super::*;
use crate::text::parse;

/// Infers each line, `op {attributes} | operand types`, and checks the table of results and errors.
fn check(lines: &str, expected: Expect) {
    let mut table = String::new();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (op, types) = line.split_once('|').unwrap_or((line, ""));
        let types: Vec<&str> = types.split(';').map(str::trim).filter(|ty| !ty.is_empty()).collect();
        let (name, attributes) = op.trim().split_once(' ').unwrap_or((op.trim(), ""));
        let mut text = format!("graph @g {{ %op = {name} {attributes} : f32[] ");
        for (slot, ty) in types.iter().enumerate() {
            text += &format!("%{slot} = input \"{slot}\" : {ty} ");
        }
        let graph = parse(&(text + "}")).unwrap();
        let nodes = graph.by_position();
        let operands: Vec<&Type> = nodes[1..].iter().map(|&node| &graph.node(node).results[0]).collect();
        table += &match infer(graph.op(nodes[0]), &operands) {
            Ok(results) => format!("{name} → {}\n", results.iter().map(Type::to_string).collect::<Vec<_>>().join("; ")),
            Err(error) => format!("{error}\n"),
        };
    }
    expected.assert_eq(&table);
}

#[test]
fn results() {
    check(
        "
        embed | i32[tokens]; bf16[512, 128]
        rms_norm {eps = 1e-6} | f32[tokens, 2, 128]; bf16[128]
        add_rms_norm {eps = 1e-6} | f32[tokens, 8]; f32[tokens, 8]; f32[8]
        split_rms_norm {eps = 1e-6} | f32[tokens, 7]; bf16[3]; bf16[2]; f32[2]
        split_rms_norm {eps = 1e-6} | f32[tokens, 7]; bf16[3]; bf16[4]
        linear | f32[tokens, 8]; f16[12, 8]
        linear | f32[outputs, 8]; bf16[12, 8]; f32[12]
        split_linear {sizes = [7, 5]} | f32[tokens, 8]; bf16[12, 8]
        split_linear {sizes = [4, 2, 2]} | f32[outputs, 8]; bf16[4, 8]; bf16[2, 8]; bf16[2, 8]
        split_linear {sizes = [3, 1, 2, 2]} | f32[outputs, 8]; bf16[4, 8]; bf16[4, 8]
        linear_swiglu | f32[tokens, 8]; bf16[12, 8]; f16[12, 8]
        norm_split_linear {eps = 1e-6, sizes = [7, 5]} | f32[tokens, 8]; f32[tokens, 8]; bf16[8]; bf16[12, 8]
        norm_split_linear {eps = 1e-6, sizes = [4, 2, 2]} | f32[outputs, 8]; f32[outputs, 8]; f32[8]; bf16[4, 8]; bf16[2, 8]; bf16[2, 8]
        norm_linear_swiglu {eps = 1e-6} | f32[tokens, 8]; f32[tokens, 8]; bf16[8]; bf16[12, 8]; f16[12, 8]
        norm_proj_conv {eps = 1e-6, bias = true, activation = silu} | f32[tokens, 8]; f32[tokens, 8]; bf16[8]; bf16[12, 8]; bf16[6, 1, 4]; bf16[6]; f32[sequences, 6, 3]
        norm_proj_conv {eps = 1e-6, bias = false} | f32[tokens, 8]; f32[tokens, 8]; bf16[8]; bf16[12, 8]; bf16[6, 1, 1]; f32[sequences, 6, 0]
        slice {start = 2, len = 3} | f32[tokens, 2, 8]
        silu | f32[tokens, 2, 8]
        softplus | f32[7]
        add | f32[tokens, 8]; f32[tokens, 8]
        mul | f32[tokens, 8]; f32[tokens, 8]
        mul | f32[tokens, 8]; bf16[8]
        mul | f32[8]; f32[8]
        swiglu | f32[tokens, 2, 5]; f32[tokens, 2, 5]
        causal_conv1d {bias = true} | f32[tokens, 6]; bf16[6, 1, 4]; bf16[6]; f32[sequences, 6, 3]
        causal_conv1d {bias = false} | f32[tokens, 6]; bf16[6, 1, 1]; f32[sequences, 6, 0]
        selective_scan {selection = given, gated = false} | f32[tokens, 6]; f32[6, 2]; f32[sequences, 6, 2]; f32[tokens, 6]; f32[tokens, 2]; f32[tokens, 2]
        selective_scan {selection = given, gated = true} | f32[tokens, 6]; f32[6, 2]; f32[sequences, 6, 2]; f32[tokens, 6]; f32[tokens, 2]; f32[tokens, 2]; bf16[6]; f32[tokens, 6]
        selective_scan {selection = projected, gated = false} | f32[tokens, 6]; f32[6, 2]; f32[sequences, 6, 2]; f32[tokens, 3]; f32[tokens, 2]; f32[tokens, 2]; bf16[6, 3]; f16[6]
        selective_scan {selection = normed, eps = 1e-6, gated = true} | f32[tokens, 6]; f32[6, 2]; f32[sequences, 6, 2]; f32[tokens, 7]; bf16[3]; bf16[2]; bf16[2]; bf16[6, 3]; f16[6]; bf16[6]; f32[tokens, 6]
        kv_append | bf16[sequences, context, 2, 2, 16]; f32[tokens, 32]; f32[tokens, 32]
        attention {n_heads = 6, scale = 0.25} | f32[tokens, 96]; bf16[sequences, context, 2, 2, 16]
        append_attention {n_heads = 6, scale = 0.25} | f32[tokens, 96]; f32[tokens, 32]; f32[tokens, 32]; bf16[sequences, context, 2, 2, 16]
        softmax | f32[tokens, 4]
        top_k {k = 2} | f32[tokens, 4]
        moe_permute {n_experts = 4} | i32[tokens, 2]
        moe_route {k = 2} | f32[tokens, 4]
        grouped_swiglu | f32[tokens, 8]; bf16[4, 5, 8]; bf16[4, 5, 8]; i32[tokens, 2]; i32[5]
        grouped_swiglu | f32[tokens, 2, 8]; bf16[4, 5, 8]; f32[4, 5, 8]; i32[tokens, 2]; i32[5]
        grouped_combine | f32[tokens, 2, 5]; bf16[4, 8, 5]; f32[tokens, 2]; i32[tokens, 2]; i32[5]
        grouped_linear | f32[tokens, 8]; bf16[4, 5, 8]; i32[tokens, 2]; i32[5]
        grouped_linear | f32[tokens, 2, 5]; bf16[4, 8, 5]; i32[tokens, 2]; i32[5]
        moe_combine | f32[tokens, 2, 8]; f32[tokens, 2]
        select_rows | f32[tokens, 8]; i32[outputs]
        ",
        expect![[r#"
            embed → f32[tokens, 128]
            rms_norm → f32[tokens, 2, 128]
            add_rms_norm → f32[tokens, 8]; f32[tokens, 8]
            split_rms_norm → f32[tokens, 3]; f32[tokens, 2]; f32[tokens, 2]
            split_rms_norm → f32[tokens, 3]; f32[tokens, 4]
            linear → f32[tokens, 12]
            linear → f32[outputs, 12]
            split_linear → f32[tokens, 7]; f32[tokens, 5]
            split_linear → f32[outputs, 4]; f32[outputs, 2]; f32[outputs, 2]
            split_linear → f32[outputs, 3]; f32[outputs, 1]; f32[outputs, 2]; f32[outputs, 2]
            linear_swiglu → f32[tokens, 12]
            norm_split_linear → f32[tokens, 8]; f32[tokens, 7]; f32[tokens, 5]
            norm_split_linear → f32[outputs, 8]; f32[outputs, 4]; f32[outputs, 2]; f32[outputs, 2]
            norm_linear_swiglu → f32[tokens, 8]; f32[tokens, 12]
            norm_proj_conv → f32[tokens, 8]; f32[tokens, 6]; f32[tokens, 6]; f32[sequences, 6, 3]
            norm_proj_conv → f32[tokens, 8]; f32[tokens, 6]; f32[tokens, 6]; f32[sequences, 6, 0]
            slice → f32[tokens, 2, 3]
            silu → f32[tokens, 2, 8]
            softplus → f32[7]
            add → f32[tokens, 8]
            mul → f32[tokens, 8]
            mul → f32[tokens, 8]
            mul → f32[8]
            swiglu → f32[tokens, 2, 5]
            causal_conv1d → f32[tokens, 6]; f32[sequences, 6, 3]
            causal_conv1d → f32[tokens, 6]; f32[sequences, 6, 0]
            selective_scan → f32[tokens, 6]; f32[sequences, 6, 2]
            selective_scan → f32[tokens, 6]; f32[sequences, 6, 2]
            selective_scan → f32[tokens, 6]; f32[sequences, 6, 2]
            selective_scan → f32[tokens, 6]; f32[sequences, 6, 2]
            kv_append → bf16[sequences, context, 2, 2, 16]
            attention → f32[tokens, 96]
            append_attention → f32[tokens, 96]; bf16[sequences, context, 2, 2, 16]
            softmax → f32[tokens, 4]
            top_k → f32[tokens, 2]; i32[tokens, 2]
            moe_permute → i32[tokens, 2]; i32[5]
            moe_route → f32[tokens, 2]; i32[tokens, 2]; i32[5]
            grouped_swiglu → f32[tokens, 2, 5]
            grouped_swiglu → f32[tokens, 2, 5]
            grouped_combine → f32[tokens, 8]
            grouped_linear → f32[tokens, 2, 5]
            grouped_linear → f32[tokens, 2, 8]
            moe_combine → f32[tokens, 8]
            select_rows → f32[outputs, 8]
        "#]],
    );
}

#[test]
fn wrong_operands() {
    check(
        "
        add | f32[tokens, 8]
        rms_norm {eps = 1e-6} |
        linear | f32[tokens, 8]; f32[12, 8]; f32[12]; f32[12]
        embed | f32[tokens]; bf16[512, 128]
        embed | i32[tokens]; i32[512, 128]
        silu | bf16[tokens, 8]
        add | f32[tokens, 8]; f32[outputs, 8]
        add | f32[tokens, 8]; f32[8]
        mul | f32[tokens, 8]; f32[7]
        mul | f32[8]; f32[tokens, 8]
        mul | f32[tokens, 8]; bf16[tokens, 8]
        rms_norm {eps = 1e-6} | f32[tokens, 8]; bf16[9]
        linear | f32[tokens, 8]; bf16[8, 12]
        linear | f32[tokens, 8]; bf16[12, 8]; bf16[8]
        split_linear {sizes = [7, 5]} | f32[tokens, 8]
        split_linear {sizes = [7, 5]} | f32[tokens, 8]; bf16[7, 8]; bf16[3, 8]; bf16[2, 8]
        split_linear {sizes = [7, 5]} | f32[tokens, 8]; bf16[7, 8]; bf16[5, 9]
        linear_swiglu | f32[tokens, 8]; bf16[12, 8]; bf16[11, 8]
        causal_conv1d {bias = false} | f32[tokens, 6]; bf16[6, 2, 4]; f32[sequences, 6, 3]
        causal_conv1d {bias = false} | f32[tokens, 6]; bf16[6, 1, 4]; f32[sequences, 6, 4]
        causal_conv1d {bias = true} | f32[tokens, 6]; bf16[6, 1, 4]; f32[sequences, 6, 3]
        causal_conv1d {bias = false} | f32[outputs, 6]; bf16[6, 1, 4]; f32[sequences, 6, 3]
        selective_scan {selection = given, gated = false} | f32[tokens, 6]; f32[6, 2]; f32[sequences, 6, 2]; f32[tokens, 6]; f32[tokens, 2]; f32[tokens, 3]
        selective_scan {selection = given, gated = false} | f32[tokens, 6]; f32[6, 2]; bf16[sequences, 6, 2]; f32[tokens, 6]; f32[tokens, 2]; f32[tokens, 2]
        selective_scan {selection = projected, gated = false} | f32[tokens, 6]; f32[6, 2]; f32[sequences, 6, 2]; f32[tokens, 3]; f32[tokens, 2]; f32[tokens, 2]; bf16[3, 6]; f16[6]
        selective_scan {selection = normed, eps = 1e-6, gated = false} | f32[tokens, 6]; f32[6, 2]; f32[sequences, 6, 2]; f32[tokens, 8]; bf16[3]; bf16[2]; bf16[2]; bf16[6, 3]; f16[6]
        split_rms_norm {eps = 1e-6} | f32[tokens, 7]; bf16[3]; bf16[2]
        split_rms_norm {eps = 1e-6} | f32[tokens, 7]; bf16[7]
        kv_append | bf16[sequences, context, 2, 2, 16]; f32[tokens, 32]; f32[tokens, 16]
        kv_append | f16[sequences, context, 2, 2, 16]; f32[tokens, 32]; f32[tokens, 32]
        attention {n_heads = 6, scale = 0.25} | f32[tokens, 32]; bf16[sequences, context, 2, 2, 16]
        grouped_linear | f32[tokens, 2, 8]; bf16[4, 5, 8]; i32[tokens, 3]; i32[5]
        grouped_linear | f32[tokens, 8]; bf16[4, 5, 8]; i32[tokens, 2]; i32[4]
        grouped_swiglu | f32[tokens, 8]; bf16[4, 5, 8]; bf16[4, 6, 8]; i32[tokens, 2]; i32[5]
        grouped_combine | f32[tokens, 5]; bf16[4, 8, 5]; f32[tokens, 2]; i32[tokens, 2]; i32[5]
        moe_combine | f32[tokens, 2, 8]; f32[tokens, 3]
        select_rows | f32[tokens, 8]; f32[outputs]
        ",
        expect![[r#"
            add: number of operands is 1, expected 2 (a, b)
            rms_norm: number of operands is 0, expected 2 (x, weight)
            linear: number of operands is 4, expected 3 (x, weight, bias)
            embed: operand ids is f32[tokens], expected i32[T]
            embed: operand table is i32[512, 128], expected f32|bf16|f16[V, D]
            silu: operand x is bf16[tokens, 8], expected f32[…]
            add: operand b is f32[outputs, 8], expected f32[tokens, 8]
            add: operand b is f32[8], expected f32[tokens, 8]
            mul: operand b is f32[7], expected f32|bf16|f16[8]
            mul: operand b is f32[tokens, 8], expected f32[8]
            mul: operand b is bf16[tokens, 8], expected f32[tokens, 8]
            rms_norm: operand weight is bf16[9], expected f32|bf16|f16[8]
            linear: operand weight is bf16[8, 12], expected f32|bf16|f16|i8[8, 8]
            linear: operand bias is bf16[8], expected f32|bf16|f16[12]
            split_linear: number of operands is 1, expected 2 (x, weight)
            split_linear: number of operands is 4, expected 3 (x, weight, weight)
            split_linear: operand weight is bf16[5, 9], expected f32|bf16|f16|i8[5, 8]
            linear_swiglu: operand up is bf16[11, 8], expected f32|bf16|f16|i8[12, 8]
            causal_conv1d: operand weight is bf16[6, 2, 4], expected f32|bf16|f16[6, 1, K]
            causal_conv1d: operand state is f32[sequences, 6, 4], expected f32[sequences, 6, 3]
            causal_conv1d: number of operands is 3, expected 4 (u, weight, bias, state)
            causal_conv1d: operand u is f32[outputs, 6], expected f32[tokens, C]
            selective_scan: operand c is f32[tokens, 3], expected f32[tokens, 2]
            selective_scan: operand state is bf16[sequences, 6, 2], expected f32[sequences, 6, 2]
            selective_scan: operand dt_weight is bf16[3, 6], expected f32|bf16|f16|i8[6, 3]
            selective_scan: operand x is f32[tokens, 8], expected f32[tokens, 7]
            split_rms_norm: operand x is f32[tokens, 7], expected f32[tokens, 5]
            split_rms_norm: number of operands is 2, expected 3 (x, weight, weight)
            kv_append: operand v is f32[tokens, 16], expected f32[tokens, 32]
            kv_append: operand cache is f16[sequences, context, 2, 2, 16], expected f32|bf16[sequences, context, 2, G, E]
            attention: operand q is f32[tokens, 32], expected f32[tokens, 96]
            grouped_linear: operand slots is i32[tokens, 3], expected i32[tokens, 2]
            grouped_linear: operand offsets is i32[4], expected i32[5]
            grouped_swiglu: operand up is bf16[4, 6, 8], expected f32|bf16|f16|i8[4, 5, 8]
            grouped_combine: operand h is f32[tokens, 5], expected f32[T, K, I]
            moe_combine: operand weights is f32[tokens, 3], expected f32[tokens, 2]
            select_rows: operand rows is f32[outputs], expected i32[O]
        "#]],
    );
}

#[test]
fn wrong_attributes() {
    check(
        "
        slice {start = 6, len = 3} | f32[tokens, 8]
        slice {start = 2, len = 0} | f32[tokens, 8]
        slice {start = 18446744073709551615, len = 2} | f32[tokens, 8]
        slice {start = 0, len = 1} | f32[tokens]
        split_linear {sizes = [1, 1, 1, 1, 8]} | f32[tokens, 8]; bf16[12, 8]
        split_linear {sizes = [7, 4]} | f32[tokens, 8]; bf16[12, 8]
        split_linear {sizes = [12, 0]} | f32[tokens, 8]; bf16[12, 8]
        split_linear {sizes = [7, 5]} | f32[tokens, 8]; bf16[5, 8]; bf16[7, 8]
        top_k {k = 5} | f32[tokens, 4]
        top_k {k = 0} | f32[tokens, 4]
        moe_route {k = 5} | f32[tokens, 4]
        attention {n_heads = 3, scale = 0.25} | f32[tokens, 48]; bf16[sequences, context, 2, 2, 16]
        attention {n_heads = 0, scale = 0.25} | f32[tokens, 0]; bf16[sequences, context, 2, 2, 16]
        append_attention {n_heads = 3, scale = 0.25} | f32[tokens, 48]; f32[tokens, 32]; f32[tokens, 32]; bf16[sequences, context, 2, 2, 16]
        ",
        expect![[r#"
            slice: start, len is 6, 3, expected at least 1 column of the 8 of x
            slice: start, len is 2, 0, expected at least 1 column of the 8 of x
            slice: start, len is 18446744073709551615, 2, expected at least 1 column of the 8 of x
            slice: operand x is symbolic in its last dim, expected a fixed number of columns
            split_linear: sizes is [1, 1, 1, 1, 8], expected 1 … 4 numbers
            split_linear: sizes is [7, 4], expected parts of weights of [12] rows
            split_linear: sizes is [12, 0], expected parts of weights of [12] rows
            split_linear: sizes is [7, 5], expected parts of weights of [5, 7] rows
            top_k: k is 5, expected 1 … 4
            top_k: k is 0, expected 1 … 4
            moe_route: k is 5, expected 1 … 4
            attention: n_heads is 3, expected a multiple of the cache's 2 KV heads
            attention: n_heads is 0, expected a multiple of the cache's 2 KV heads
            append_attention: n_heads is 3, expected a multiple of the cache's 2 KV heads
        "#]],
    );
}

#[test]
fn sources_have_the_types_they_may_have() {
    let source = |text: &str| {
        let graph = parse(&format!("graph @g {{ %0 = {text} }}")).unwrap();
        infer(graph.op(graph.order()[0]), &[]).map_err(|error| error.to_string()).map(|types| types[0].to_string())
    };
    assert_eq!(source("parameter \"w\" : bf16[4, 8]").unwrap(), "bf16[4, 8]");
    expect!["parameter: type is bf16[tokens, 8], expected fixed dims only"]
        .assert_eq(&source("parameter \"w\" : bf16[tokens, 8]").unwrap_err());
    assert_eq!(source("state \"s\" : f32[sequences, 8]").unwrap(), "f32[sequences, 8]");
    expect!["state: type is f32[8], expected f32|bf16[sequences, …]"]
        .assert_eq(&source("state \"s\" : f32[8]").unwrap_err());
    expect!["state: type is i32[sequences], expected f32|bf16[sequences, …]"]
        .assert_eq(&source("state \"s\" : i32[sequences]").unwrap_err());
}
