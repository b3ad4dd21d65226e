//! The text form: round trips, positions of errors, differences.

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::arbitrary;
use crate::build::{Builder, Scan};
use crate::op::Op;
use crate::tensor::{DType, Symbol, Type};

/// One Mamba mixer with its residual, as models write it.
fn mixer() -> Graph {
    let mut b = Builder::new("prefill");
    b.scope("embed");
    let ids = b.input("ids", Type::new(DType::I32, [Symbol::Tokens]));
    let table = b.parameter("model.embed_tokens.weight", DType::Bf16, &[512, 8]);
    let x = b.embed(ids, table);
    b.scope("layers.0.mamba");
    let weight = b.parameter("in_proj", DType::Bf16, &[12, 8]);
    let uz = b.linear(x, weight, None);
    let (u, z) = (b.slice(uz, 0, 6), b.slice(uz, 6, 6));
    let (weight, bias) = (b.parameter("conv1d.weight", DType::F32, &[6, 1, 4]), b.parameter("bias", DType::F32, &[6]));
    let state = b.state("layers.0.conv", DType::F32, &[6.into(), 3.into()]);
    let (y, next) = b.causal_conv1d(u, weight, Some(bias), state);
    b.output("layers.0.conv", next);
    let y = b.silu(y);
    let (dt, a_log) = (b.softplus(z), b.parameter("A_log", DType::F32, &[6, 2]));
    let (input, output) = (b.slice(y, 0, 2), b.slice(y, 2, 2));
    let state = b.state("layers.0.ssm", DType::F32, &[6.into(), 2.into()]);
    let (y, next) = b.selective_scan(Scan { dt, u: y, a_log, b: input, c: output, state });
    b.output("layers.0.ssm", next);
    b.output("y", y);
    b.finish()
}

/// A graph that the verifier refuses is printed with its faults, and read again.
#[test]
fn what_is_no_graph_is_printed_as_it_is_read() {
    let text = "graph @g {\n  %0 = input \"ids\" : i32[tokens]\n  %1 = parameter \"e\" %0, %1 : f32[tokens, 16]\n}\n";
    assert_eq!(print(&parse(text).unwrap()), text);
}

#[test]
fn prints() {
    expect![[r#"
        graph @prefill {
          %0 = input "ids" : i32[tokens] loc "embed"
          %1 = parameter "model.embed_tokens.weight" : bf16[512, 8] loc "embed"
          %2 = embed %0, %1 : f32[tokens, 8] loc "embed"
          %3 = parameter "in_proj" : bf16[12, 8] loc "layers.0.mamba"
          %4 = linear %2, %3 : f32[tokens, 12] loc "layers.0.mamba"
          %5 = slice %4 {start = 0, len = 6} : f32[tokens, 6] loc "layers.0.mamba"
          %6 = slice %4 {start = 6, len = 6} : f32[tokens, 6] loc "layers.0.mamba"
          %7 = parameter "conv1d.weight" : f32[6, 1, 4] loc "layers.0.mamba"
          %8 = parameter "bias" : f32[6] loc "layers.0.mamba"
          %9 = state "layers.0.conv" : f32[sequences, 6, 3] loc "layers.0.mamba"
          %10, %11 = causal_conv1d %5, %7, %8, %9 {bias = true} : f32[tokens, 6], f32[sequences, 6, 3] loc "layers.0.mamba"
          %12 = silu %10 : f32[tokens, 6] loc "layers.0.mamba"
          %13 = softplus %6 : f32[tokens, 6] loc "layers.0.mamba"
          %14 = parameter "A_log" : f32[6, 2] loc "layers.0.mamba"
          %15 = slice %12 {start = 0, len = 2} : f32[tokens, 2] loc "layers.0.mamba"
          %16 = slice %12 {start = 2, len = 2} : f32[tokens, 2] loc "layers.0.mamba"
          %17 = state "layers.0.ssm" : f32[sequences, 6, 2] loc "layers.0.mamba"
          %18, %19 = selective_scan %12, %14, %17, %13, %15, %16 {selection = given, gated = false} : f32[tokens, 6], f32[sequences, 6, 2] loc "layers.0.mamba"
          output "layers.0.conv" = %11
          output "layers.0.ssm" = %19
          output "y" = %18
        }
    "#]]
    .assert_eq(&print(&mixer()));
}

#[test]
fn parses_what_it_prints() {
    let text = print(&mixer());
    assert_eq!(print(&read(&text).unwrap()), text);
}

#[test]
fn parses_what_people_write() {
    let graph = read(
        r#"
        // Names may be words, lines may be out of order, strings may hold anything.
        graph @"a graph" one_token {
            output "y\t\"" = %y   // read before it is made
            %y = rms_norm %x, %w {eps = 0.000001} : f32[tokens, 4]
                loc "π"
            %x = input "x" : f32[tokens, 4] %w = parameter "w" : f16[4]
        }
        "#,
    );
    expect![[r#"
        graph @"a graph" one_token {
          %0 = input "x" : f32[tokens, 4]
          %1 = parameter "w" : f16[4]
          %2 = rms_norm %0, %1 {eps = 1e-6} : f32[tokens, 4] loc "π"
          output "y\t\"" = %2
        }
    "#]]
    .assert_eq(&print(&graph.unwrap()));
}

#[test]
fn errors_say_where() {
    let check = |text: &str, expected: Expect| expected.assert_eq(&parse(text).unwrap_err().to_string());
    check("", expect!["line 1, column 1: found the end, expected `graph`"]);
    check("graph @g {\n  %0 = ", expect!["line 2, column 8: found the end, expected an op"]);
    check("graph @g { %0 = relu : f32[4] }", expect!["line 1, column 17: found `relu`, expected an op"]);
    check(
        "graph @g { %0 = silu %1 : f32[4] }",
        expect!["line 1, column 22: found `%1`, expected a value that a node makes"],
    );
    check(
        "graph @g {\n%0 = silu %0 : f32[4]\n%0 = silu %0 : f32[4]\n}",
        expect!["line 3, column 1: found `%0` again, expected a name of its own"],
    );
    check(
        "graph @g { output \"y\" = %0 output \"y\" = %0 }",
        expect![[r#"line 1, column 35: found output "y" again, expected a name of its own"#]],
    );
    check(
        "graph @g { %0 = input \"x\" : f64[4] }",
        expect!["line 1, column 29: found `f64`, expected f32, bf16, f16 or i32"],
    );
    check(
        "graph @g { %0 = input \"x\" : f32[rows] }",
        expect!["line 1, column 33: found `rows`, expected a number, tokens, sequences, outputs or context"],
    );
    check(
        "graph @g { %0 = input \"x : f32[4] }",
        expect![[
            r#"line 1, column 23: found a string without its end, expected `"` and only the escapes \" \\ \n \r \t"#
        ]],
    );
    check(
        "graph @g { %0 = split_linear %0 {sizes = 4} : f32[4] }",
        expect!["line 1, column 42: found `4`, expected numbers in brackets"],
    );
    check(
        "graph @g { %0 = split_linear %0 {sizes = [4, x]} : f32[4] }",
        expect!["line 1, column 42: found `[4, x]`, expected numbers in brackets"],
    );
    check(
        "graph @g { %0 = split_linear %0 {sizes = []} : f32[4] }",
        expect!["line 1, column 43: found `]`, expected a value of the list"],
    );
    check(
        "graph @g { %0 = slice %0 {start = [0], len = 1} : f32[4] }",
        expect!["line 1, column 35: found `[0]`, expected a number"],
    );
    check(
        "graph @g { %0 = rms_norm %0 : f32[4] }",
        expect!["line 1, column 17: found `rms_norm` without `eps`, expected a real number"],
    );
    check(
        "graph @g { %0 = slice %0 {start = -1, len = 2} : f32[4] }",
        expect!["line 1, column 35: found `-1`, expected a number"],
    );
    check(
        "graph @g { %0 = silu %0 {eps = 1} : f32[4] }",
        expect!["line 1, column 26: found `eps`, expected no such attribute at `silu`"],
    );
    check(
        "graph @g { %0 = linear %0 {activation = relu} : f32[4] }",
        expect!["line 1, column 41: found `relu`, expected none, silu or softplus"],
    );
    check(
        "graph @g { %0, %1 = silu %0 : f32[4] }",
        expect!["line 1, column 29: found 1 types, expected 2, one per result"],
    );
    check("graph @g { } }", expect!["line 1, column 14: found `}`, expected the end"]);
    check(
        "graph @g { ; }",
        expect!["line 1, column 12: found `;`, expected a name, a number, a string or one of @ { } = , : [ ] %"],
    );
}

#[test]
fn diff_shows_what_changed_and_nothing_else() {
    let before = read(
        r#"graph @g {
            %0 = input "x" : f32[tokens, 4]
            %1 = silu %0 : f32[tokens, 4]
            %2 = mul %1, %0 : f32[tokens, 4]
            %3 = silu %2 : f32[tokens, 4]
            %4 = mul %3, %2 : f32[tokens, 4]
            %5 = add %4, %3 : f32[tokens, 4]
            output "y" = %5
        }"#,
    );
    // The first silu and mul are one op; every number below has moved.
    let after = read(
        r#"graph @g {
            %0 = input "x" : f32[tokens, 4]
            %1 = swiglu %0, %0 : f32[tokens, 4]
            %2 = silu %1 : f32[tokens, 4]
            %3 = mul %2, %1 : f32[tokens, 4]
            %4 = add %3, %2 : f32[tokens, 4]
            output "y" = %4
        }"#,
    );
    expect![[r#"
        - %1 = silu %0 : f32[tokens, 4]
        - %2 = mul %1, %0 : f32[tokens, 4]
        + %2 = swiglu %0, %0 : f32[tokens, 4]
    "#]]
    .assert_eq(&diff(&before.unwrap(), &after.unwrap()));
}

#[test]
fn diff_names_new_values_anew() {
    let before = read("graph @g { %0 = input \"x\" : f32[tokens, 4] output \"y\" = %0 }").unwrap();
    let after =
        read("graph @g { %0 = input \"x\" : f32[tokens, 4] %1 = silu %0 : f32[tokens, 4] output \"y\" = %1 }").unwrap();
    expect![[r#"
        - output "y" = %0
        + %1 = silu %0 : f32[tokens, 4]
        + output "y" = %1
    "#]]
    .assert_eq(&diff(&before, &after));
    assert_eq!(diff(&before, &before.clone()), "");
}

proptest! {
    #[test]
    fn parse_after_print_is_identity(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let graph = arbitrary::graph(&bytes);
        prop_assert_eq!(verify(&graph), Ok(()));
        let text = print(&graph);
        let parsed = parse(&text).unwrap();
        prop_assert_eq!(&print(&parsed), &text);
        prop_assert_eq!(verify(&parsed), Ok(()));
        prop_assert_eq!(diff(&graph, &parsed), "");
    }

    #[test]
    fn any_string_and_real_number_survive(name in ".*", source in "\\PC*", eps in any::<f64>()) {
        let ty = Type::rows(Symbol::Tokens, 4);
        let mut graph = Graph::new(name.clone());
        let x = graph.add_unchecked(Op::Input { name, ty: ty.clone() }, vec![ty.clone()], source);
        let norm = graph.add_unchecked(Op::RmsNorm { eps }, vec![ty], String::new());
        graph.connect(graph.result(x, 0), norm, 0);
        let text = print(&graph);
        prop_assert_eq!(print(&parse(&text).unwrap()), text);
    }

    #[test]
    fn any_text_is_a_graph_or_an_error(text in "\\PC*", garbled in "(graph|@|\\{|\\}|%0|=|silu|:|f32|\\[|4|\\]|\"|\\\\|output|,| |\n)*") {
        let _ = (parse(&text), parse(&garbled));
    }
}
