//! Every invariant, broken once.

use expect_test::expect;

use super::*;
use crate::text::{parse, print_error};

/// Checks that the graph breaks the invariant on the line and with the message of its `// error:` comment.
fn check(invariant: Invariant, text: &str) {
    let indent = text.lines().last().map_or("", |line| &line[..line.len() - line.trim_start().len()]);
    let text: String = text.lines().map(|line| format!("{}\n", line.strip_prefix(indent).unwrap_or(line))).collect();
    let graph = parse(&text).unwrap();
    let error = verify(&graph).unwrap_err();
    assert_eq!(print_error(&graph, &error), text);
    assert_eq!(error.invariant, invariant);
}

#[test]
fn operands() {
    // Not expressible in text: a missing result, and a gap in the slots.
    let text = "graph @g { %0 = input \"x\" : f32[4] %1 = add %0, %0 : f32[4] output \"y\" = %1 }";
    let mut graph = parse(text).unwrap();
    let x = graph.order()[0];
    graph.replace_uses(ValueId { node: x, result: 0 }, ValueId { node: x, result: 3 });
    expect!["graph g, add: operand 0 is result 3 of input, which has 1 (invariant 1, Operands)"]
        .assert_eq(&verify(&graph).unwrap_err().to_string());

    let mut graph = parse(text).unwrap();
    let (x, add) = (graph.order()[0], graph.order()[1]);
    graph.connect(ValueId { node: x, result: 0 }, add, 5);
    expect!["graph g, add: operands fill slots [0, 1, 5], expected 0, 1, … (invariant 1, Operands)"]
        .assert_eq(&verify(&graph).unwrap_err().to_string());
}

#[test]
fn acyclic() {
    check(
        Invariant::Acyclic,
        r#"graph @g {
          %0 = input "x" : f32[tokens, 4]
          %1 = add %0, %2 : f32[tokens, 4] loc "layers.0"  // error: it depends on itself
          %2 = silu %1 : f32[tokens, 4]
          %3 = silu %2 : f32[tokens, 4]
          output "y" = %3
        }"#,
    );
}

#[test]
fn operand_types() {
    check(
        Invariant::Types,
        r#"graph @g {
          %0 = input "x" : f32[tokens, 4]
          %1 = input "z" : f32[outputs, 4]
          %2 = add %0, %1 : f32[tokens, 4]  // error: add: operand b is f32[outputs, 4], expected f32[tokens, 4]
          output "y" = %2
        }"#,
    );
}

#[test]
fn result_types() {
    check(
        Invariant::Types,
        r#"graph @g {
          %0 = input "x" : f32[tokens, 4]
          %1 = silu %0 : f32[tokens, 5]  // error: results are f32[tokens, 5], inferred f32[tokens, 4]
          output "y" = %1
        }"#,
    );
}

#[test]
fn result_count() {
    check(
        Invariant::Types,
        r#"graph @g {
          %0 = input "x" : f32[tokens, 4]
          %1 = top_k %0 {k = 2} : f32[tokens, 2]  // error: results are f32[tokens, 2], inferred f32[tokens, 2], i32[tokens, 2]
          output "y" = %1
        }"#,
    );
}

#[test]
fn attributes() {
    check(
        Invariant::Attributes,
        r#"graph @g {
          %0 = input "x" : f32[tokens, 4]
          %1 = parameter "w" : f32[4]
          %2 = rms_norm %0, %1 {eps = 0.0} : f32[tokens, 4]  // error: eps is 0.0, expected a positive finite number
          output "y" = %2
        }"#,
    );
}

#[test]
fn names() {
    check(
        Invariant::Names,
        r#"graph @g {
          %0 = input "x" : f32[tokens, 4]
          %1 = parameter "x" : f32[4]  // error: "x" is the name of another input
          output "y" = %0
        }"#,
    );
    check(
        Invariant::Names,
        r#"graph @g {
          %0 = input "" : f32[tokens, 4]  // error: it has no name
          output "y" = %0
        }"#,
    );
}

#[test]
fn a_state_is_updated_once() {
    check(
        Invariant::States,
        r#"graph @g {
          %0 = input "k" : f32[tokens, 4]
          %1 = state "kv" : f32[sequences, context, 2, 1, 4]  // error: 2 readers, expected one op that updates it
          %2 = kv_append %1, %0, %0 : f32[sequences, context, 2, 1, 4]
          %3 = kv_append %1, %0, %0 : f32[sequences, context, 2, 1, 4]
          output "kv" = %2
        }"#,
    );
    check(
        Invariant::States,
        r#"graph @g {
          %0 = state "kv" : f32[sequences, 4]  // error: 0 readers, expected one op that updates it
          output "kv" = %0
        }"#,
    );
    check(
        Invariant::States,
        r#"graph @g {
          %0 = state "h" : f32[sequences, 4]  // error: read by operand 0 of silu, expected an op that updates it
          %1 = silu %0 : f32[sequences, 4]
          output "h" = %1
        }"#,
    );
}

#[test]
fn what_is_updated_is_a_state() {
    check(
        Invariant::States,
        r#"graph @g {
          %0 = input "k" : f32[tokens, 4]
          %1 = input "kv" : f32[sequences, context, 2, 1, 4]
          %2 = kv_append %1, %0, %0 : f32[sequences, context, 2, 1, 4]  // error: its state is a result of input, expected a state
          output "kv" = %2
        }"#,
    );
}

#[test]
fn the_next_state_is_an_output() {
    check(
        Invariant::NextStates,
        r#"graph @g {
          %0 = input "k" : f32[tokens, 4]
          %1 = state "kv" : f32[sequences, context, 2, 1, 4]
          %2 = kv_append %1, %0, %0 : f32[sequences, context, 2, 1, 4]  // error: result 0 is the next state, expected it as output "kv"
          output "other" = %2
        }"#,
    );
}

#[test]
fn the_next_state_is_not_read() {
    check(
        Invariant::NextStates,
        r#"graph @g {
          %0 = input "u" : f32[tokens, 4]
          %1 = parameter "w" : bf16[4, 1, 3]
          %2 = state "conv" : f32[sequences, 4, 2]
          %3, %4 = causal_conv1d %0, %1, %2 {bias = false} : f32[tokens, 4], f32[sequences, 4, 2]
          %5 = silu %4 : f32[sequences, 4, 2]  // error: operand 0 is the next state "conv", which only attention may read
          output "conv" = %4
          output "y" = %5
        }"#,
    );
}

#[test]
fn attention_reads_a_cache() {
    check(
        Invariant::Caches,
        r#"graph @g {
          %0 = input "q" : f32[tokens, 4]
          %1 = input "kv" : f32[sequences, context, 2, 1, 4]
          %2 = attention %0, %1 {n_heads = 1, scale = 0.5} : f32[tokens, 4]  // error: its cache is a result of input, expected kv_append
          output "y" = %2
        }"#,
    );
}

#[test]
fn one_token() {
    check(
        Invariant::OneToken,
        r#"graph @g {
          %0 = input "q" : f32[tokens, 4]
          %1 = state "kv" : f32[sequences, context, 2, 1, 2]
          %2 = input "k" : f32[tokens, 2]
          %3, %4 = append_attention %0, %2, %2, %1 {n_heads = 2, scale = 0.5} : f32[tokens, 4], f32[sequences, context, 2, 1, 2]  // error: steps may take several tokens of a sequence, expected a graph of one_token
          output "kv" = %4
          output "y" = %3
        }"#,
    );
}

#[test]
fn outputs() {
    check(
        Invariant::Outputs,
        r#"graph @g {  // error: there are none
          %0 = input "x" : f32[tokens, 4]
        }"#,
    );
    check(
        Invariant::Outputs,
        r#"graph @g {
          %0 = input "x" : f32[tokens, 4]  // error: output "logits" is f32[tokens, 4], expected f32[outputs, vocab]
          output "logits" = %0
        }"#,
    );
}

#[test]
fn errors_name_graph_node_source_and_invariant() {
    let graph =
        parse("graph @g { %0 = input \"x\" : f32[4] %1 = silu %0 : f32[5] loc \"layers.3\" output \"y\" = %1 }")
            .unwrap();
    expect!["graph g, silu at layers.3: results are f32[5], inferred f32[4] (invariant 3, Types)"]
        .assert_eq(&verify(&graph).unwrap_err().to_string());
}
