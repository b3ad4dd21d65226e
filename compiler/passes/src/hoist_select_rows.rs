//! hoist-select-rows: push row selection up through row-wise ops, so that they compute the selected rows only.
//!
//! ```text
//! %y = linear %x, %w
//! %last = select_rows %y, %rows     ⇒   %s = select_rows %x, %rows
//!                                       %last = linear %s, %w
//! ```
//!
//! For every op whose result rows depend only on the same rows of its operands, from the final norm up through the last layer, and for a
//! mixture of experts as a whole, router included. Two selections of the same rows of a value become one. Not if the value has another
//! reader, or a value inside the mixture has a reader outside.

use std::collections::{BTreeMap, BTreeSet};

use jambac_graph::{DType, Dim, Graph, NodeId, Op, ValueId};

use crate::pass::Pass;
use crate::rewrite::{Changed, Rewriter, add_in_place_of, has_one_reader, replace, rewrite_each};

pub struct HoistSelectRows;

impl Pass for HoistSelectRows {
    fn name(&self) -> &'static str {
        "hoist-select-rows"
    }

    fn run(&self, rewriter: &mut Rewriter) -> Changed {
        rewrite_each(rewriter, find, apply)
    }
}

enum Match {
    /// A second selection of the same rows.
    Twin { first: ValueId, second: ValueId },
    /// A selection of rows that these nodes compute, operands before readers.
    Hoist { selection: NodeId, nodes: Vec<NodeId> },
}

fn find(graph: &Graph, selection: NodeId) -> Option<Match> {
    if *graph.op(selection) != Op::SelectRows {
        return None;
    }
    let operands = graph.operands(selection);
    let (x, rows) = (operands[0], operands[1]);
    let first = selection_of(graph, x, rows)?;
    if first.node != selection {
        return Some(Match::Twin { first, second: graph.result(selection, 0) });
    }
    let is_of_rows = has_rows(graph, x) && graph.ty(x).cols().is_some();
    if !is_of_rows || !has_one_reader(graph, x) {
        return None;
    }
    let nodes = match graph.op(x.node) {
        Op::MoeCombine => mixture(graph, x.node)?,
        op if is_row_wise(op) => vec![x.node],
        _ => return None,
    };
    Some(Match::Hoist { selection, nodes })
}

/// The first selection of these rows of a value.
fn selection_of(graph: &Graph, x: ValueId, rows: ValueId) -> Option<ValueId> {
    let selects =
        |&(reader, _): &(NodeId, usize)| *graph.op(reader) == Op::SelectRows && graph.operands(reader) == [x, rows];
    graph.users(x).into_iter().find(selects).map(|(reader, _)| graph.result(reader, 0))
}

/// False if the first dimension is fixed, as in parameters.
fn has_rows(graph: &Graph, value: ValueId) -> bool {
    matches!(graph.ty(value).shape.first(), Some(Dim::Symbol(_)))
}

/// True if a row of the result depends only on the same row of the operands, apart from operands without rows.
fn is_row_wise(op: &Op) -> bool {
    matches!(
        op,
        Op::RmsNorm { .. }
            | Op::Linear { .. }
            | Op::Slice { .. }
            | Op::Silu
            | Op::Softplus
            | Op::Add
            | Op::Mul
            | Op::Swiglu
    )
}

/// The nodes of a mixture of experts, from its router on. Its tables are over all rows, so it moves as a whole. `None` if a node outside
/// reads or computes a table or a row per slot.
fn mixture(graph: &Graph, combine: NodeId) -> Option<Vec<NodeId>> {
    let mut inside = BTreeSet::from([combine]);
    let mut waiting = vec![combine];
    while let Some(node) = waiting.pop() {
        for operand in graph.operands(node) {
            let is_router = *graph.op(node) == Op::Softmax && matches!(graph.op(operand.node), Op::Linear { .. });
            let is_part = is_router
                || matches!(
                    graph.op(operand.node),
                    Op::GroupedLinear | Op::MoePermute { .. } | Op::TopK { .. } | Op::Softmax
                )
                || graph.ty(operand).shape.len() == 3 && is_row_wise(graph.op(operand.node));
            if is_part && inside.insert(operand.node) {
                waiting.push(operand.node);
            }
        }
    }
    let is_read_inside = |node: NodeId| {
        (0..graph.node(node).results.len()).map(|result| graph.result(node, result)).all(|value| {
            !graph.is_output(value) && graph.users(value).iter().all(|(reader, _)| inside.contains(reader))
        })
    };
    let is_selectable = |value: ValueId| {
        inside.contains(&value.node) || !has_rows(graph, value) || {
            let ty = graph.ty(value);
            ty.dtype == DType::F32 && ty.shape.len() == 2 && ty.cols().is_some()
        }
    };
    let moves = inside
        .iter()
        .all(|&node| (node == combine || is_read_inside(node)) && graph.operands(node).into_iter().all(is_selectable));
    moves.then(|| graph.order().into_iter().filter(|node| inside.contains(node)).collect())
}

fn apply(graph: &mut Graph, found: Match) {
    match found {
        Match::Twin { first, second } => replace(graph, second, first),
        Match::Hoist { selection, nodes } => {
            let operands = graph.operands(selection);
            let (x, rows) = (operands[0], operands[1]);
            let mut of_wanted: BTreeMap<ValueId, ValueId> = BTreeMap::new();
            for node in nodes {
                let mut operands = graph.operands(node);
                for operand in &mut operands {
                    if let Some(&made) = of_wanted.get(operand) {
                        *operand = made;
                    } else if has_rows(graph, *operand) {
                        *operand = select(graph, node, *operand, rows);
                    }
                }
                let op = graph.op(node).clone();
                let hoisted = add_in_place_of(graph, node, op, &operands);
                for result in 0..graph.node(node).results.len() {
                    of_wanted.insert(graph.result(node, result), graph.result(hoisted, result));
                }
            }
            replace(graph, graph.result(selection, 0), of_wanted[&x]);
        }
    }
}

/// The selection of a value; a new one before `reader` if there is none.
fn select(graph: &mut Graph, reader: NodeId, x: ValueId, rows: ValueId) -> ValueId {
    selection_of(graph, x, rows).unwrap_or_else(|| {
        let selection = add_in_place_of(graph, reader, Op::SelectRows, &[x, rows]);
        graph.result(selection, 0)
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::testing::{check, check_unchanged};

    #[test]
    fn hoists_through_a_layer() {
        check(
            HoistSelectRows,
            r#"
            %0 = input "residual" : f32[tokens, 4]
            %1 = input "mixed" : f32[tokens, 6]
            %2 = input "rows" : i32[outputs]
            %3 = parameter "out_proj" : bf16[4, 6]
            %4 = linear %1, %3 : f32[tokens, 4]
            %5 = add %0, %4 : f32[tokens, 4]
            %6 = parameter "norm" : bf16[4]
            %7 = rms_norm %5, %6 {eps = 1e-6} : f32[tokens, 4]
            %8 = silu %7 : f32[tokens, 4]
            %9 = mul %8, %7 : f32[tokens, 4]
            %10 = add %5, %9 : f32[tokens, 4]
            %11 = select_rows %10, %2 : f32[outputs, 4]
            output "y" = %11
            "#,
            expect![[r#"
                - %4 = linear %1, %3 : f32[tokens, 4]
                - %5 = add %0, %4 : f32[tokens, 4]
                + %12 = select_rows %1, %2 : f32[outputs, 6]
                + %13 = linear %12, %3 : f32[outputs, 4]
                + %11 = select_rows %0, %2 : f32[outputs, 4]
                + %14 = add %11, %13 : f32[outputs, 4]
                - %7 = rms_norm %5, %6 {eps = 1e-6} : f32[tokens, 4]
                - %8 = silu %7 : f32[tokens, 4]
                - %9 = mul %8, %7 : f32[tokens, 4]
                - %10 = add %5, %9 : f32[tokens, 4]
                - %11 = select_rows %10, %2 : f32[outputs, 4]
                - output "y" = %11
                + %15 = rms_norm %14, %6 {eps = 1e-6} : f32[outputs, 4]
                + %16 = silu %15 : f32[outputs, 4]
                + %17 = mul %16, %15 : f32[outputs, 4]
                + %18 = add %14, %17 : f32[outputs, 4]
                + output "y" = %18
            "#]],
        );
    }

    #[test]
    fn keeps_ops_that_look_beyond_a_row() {
        check_unchanged(
            HoistSelectRows,
            r#"
            %0 = input "u" : f32[tokens, 4]
            %1 = input "rows" : i32[outputs]
            %2 = parameter "taps" : f32[4, 1, 3]
            %3 = state "conv" : f32[sequences, 4, 2]
            %4, %5 = causal_conv1d %0, %2, %3 {bias = false} : f32[tokens, 4], f32[sequences, 4, 2]
            %6 = select_rows %4, %1 : f32[outputs, 4]
            output "conv" = %5
            output "y" = %6
            "#,
        );
    }

    #[test]
    fn keeps_values_with_other_readers() {
        check_unchanged(
            HoistSelectRows,
            r#"
            %0 = input "x" : f32[tokens, 4]
            %1 = input "rows" : i32[outputs]
            %2 = input "other rows" : i32[outputs]
            %3 = silu %0 : f32[tokens, 4]
            %4 = select_rows %3, %1 : f32[outputs, 4]
            %5 = select_rows %3, %2 : f32[outputs, 4]
            %6 = softplus %0 : f32[tokens, 4]
            %7 = select_rows %6, %1 : f32[outputs, 4]
            output "a" = %4
            output "b" = %5
            output "c" = %7
            output "softplus" = %6
            "#,
        );
    }

    #[test]
    fn selects_once() {
        check(
            HoistSelectRows,
            r#"
            %0 = input "x" : f32[tokens, 4]
            %1 = input "rows" : i32[outputs]
            %2 = select_rows %0, %1 : f32[outputs, 4]
            %3 = select_rows %0, %1 : f32[outputs, 4]
            output "a" = %2
            output "b" = %3
            "#,
            expect![[r#"
                - %3 = select_rows %0, %1 : f32[outputs, 4]
                - output "b" = %3
                + output "b" = %2
            "#]],
        );
    }

    const MIXTURE: &str = r#"
        %0 = input "x" : f32[tokens, 8]
        %1 = input "rows" : i32[outputs]
        %2 = parameter "router" : bf16[4, 8]
        %3 = linear %0, %2 : f32[tokens, 4]
        %4 = softmax %3 : f32[tokens, 4]
        %5, %6 = top_k %4 {k = 2} : f32[tokens, 2], i32[tokens, 2]
        %7, %8 = moe_permute %6 {n_experts = 4} : i32[tokens, 2], i32[5]
        %9 = parameter "up" : bf16[4, 6, 8]
        %10 = grouped_linear %0, %9, %7, %8 : f32[tokens, 2, 6]
        %11 = silu %10 : f32[tokens, 2, 6]
        %12 = parameter "down" : bf16[4, 8, 6]
        %13 = grouped_linear %11, %12, %7, %8 : f32[tokens, 2, 8]
        %14 = moe_combine %13, %5 : f32[tokens, 8]
        %15 = select_rows %14, %1 : f32[outputs, 8]
        output "y" = %15
    "#;

    #[test]
    fn hoists_a_mixture_as_a_whole() {
        check(
            HoistSelectRows,
            MIXTURE,
            expect![[r#"
            - %3 = linear %0, %2 : f32[tokens, 4]
            - %4 = softmax %3 : f32[tokens, 4]
            - %5, %6 = top_k %4 {k = 2} : f32[tokens, 2], i32[tokens, 2]
            - %7, %8 = moe_permute %6 {n_experts = 4} : i32[tokens, 2], i32[5]
            + %15 = select_rows %0, %1 : f32[outputs, 8]
            + %16 = linear %15, %2 : f32[outputs, 4]
            + %17 = softmax %16 : f32[outputs, 4]
            + %18, %19 = top_k %17 {k = 2} : f32[outputs, 2], i32[outputs, 2]
            + %20, %21 = moe_permute %19 {n_experts = 4} : i32[outputs, 2], i32[5]
            - %10 = grouped_linear %0, %9, %7, %8 : f32[tokens, 2, 6]
            - %11 = silu %10 : f32[tokens, 2, 6]
            + %22 = grouped_linear %15, %9, %20, %21 : f32[outputs, 2, 6]
            + %23 = silu %22 : f32[outputs, 2, 6]
            - %13 = grouped_linear %11, %12, %7, %8 : f32[tokens, 2, 8]
            - %14 = moe_combine %13, %5 : f32[tokens, 8]
            - %15 = select_rows %14, %1 : f32[outputs, 8]
            - output "y" = %15
            + %24 = grouped_linear %23, %12, %20, %21 : f32[outputs, 2, 8]
            + %25 = moe_combine %24, %18 : f32[outputs, 8]
            + output "y" = %25
        "#]],
        );
    }

    #[test]
    fn keeps_a_mixture_that_is_read_inside() {
        check_unchanged(HoistSelectRows, &format!("{MIXTURE}\noutput \"experts\" = %6"));
    }
}
