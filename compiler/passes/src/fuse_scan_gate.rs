//! fuse-scan-gate: fuse the skip and the gate into the scan.
//!
//! ```text
//! %y, %s = selective_scan %u, … {gated = false}
//! %skip = mul %u, %d
//! %sum = add %y, %skip
//! %gate = silu %z
//! %out = mul %sum, %gate        ⇒   %out, %s = selective_scan %u, …, %d, %z {gated = true}
//! ```
//!
//! Either order of `add` and of the last `mul`. Not if the skip is of another value than the scan's input, or a value in between has
//! another reader.

use jambac_graph::{Graph, NodeId, Op, ValueId};

use crate::pass::Pass;
use crate::rewrite::{Changed, Fused, Rewriter, both_ways, fuse_each, has_one_reader, silu_of};

pub struct FuseScanGate;

impl Pass for FuseScanGate {
    fn name(&self) -> &'static str {
        "fuse-scan-gate"
    }

    fn run(&self, rewriter: &mut Rewriter) -> Changed {
        fuse_each(rewriter, find)
    }
}

fn find(graph: &Graph, out: NodeId) -> Option<Fused> {
    if *graph.op(out) != Op::Mul {
        return None;
    }
    both_ways(graph, out).into_iter().find_map(|(sum, gate)| {
        let z = silu_of(graph, gate)?;
        if *graph.op(sum.node) != Op::Add || !has_one_reader(graph, sum) {
            return None;
        }
        both_ways(graph, sum.node).into_iter().find_map(|(y, skip)| {
            let Op::SelectiveScan { selection, gated: false } = *graph.op(y.node) else { return None };
            if y.result != 0 || !has_one_reader(graph, y) {
                return None;
            }
            let mut operands = graph.operands(y.node);
            operands.extend([skip_of(graph, skip, operands[0])?, z]);
            let results = vec![graph.result(out, 0), graph.result(y.node, 1)];
            Some(Fused { place: out, op: Op::SelectiveScan { selection, gated: true }, operands, results })
        })
    })
}

/// The row d of `skip = mul u, d`.
fn skip_of(graph: &Graph, skip: ValueId, u: ValueId) -> Option<ValueId> {
    if *graph.op(skip.node) != Op::Mul || !has_one_reader(graph, skip) {
        return None;
    }
    let operands = graph.operands(skip.node);
    (operands[0] == u && graph.ty(operands[1]).shape.len() == 1).then_some(operands[1])
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::testing::{check, check_unchanged};

    const SCAN: &str = r#"
        %dt = input "dt" : f32[tokens, 4]
        %u = input "u" : f32[tokens, 4]
        %a = parameter "A_log" : bf16[4, 2]
        %b = input "b" : f32[tokens, 2]
        %c = input "c" : f32[tokens, 2]
        %d = parameter "D" : bf16[4]
        %z = input "z" : f32[tokens, 4]
        %h = state "ssm" : f32[sequences, 4, 2]
        %y, %next = selective_scan %u, %a, %h, %dt, %b, %c {selection = given, gated = false} : f32[tokens, 4], f32[sequences, 4, 2]
        output "ssm" = %next
        output "out" = %out
    "#;

    #[test]
    fn fuses() {
        check(
            FuseScanGate,
            &format!(
                "{SCAN}
                %skip = mul %u, %d : f32[tokens, 4]
                %sum = add %y, %skip : f32[tokens, 4]
                %gate = silu %z : f32[tokens, 4]
                %out = mul %sum, %gate : f32[tokens, 4]"
            ),
            expect![[r#"
                - %8, %9 = selective_scan %1, %2, %7, %0, %3, %4 {selection = given, gated = false} : f32[tokens, 4], f32[sequences, 4, 2]
                - %10 = mul %1, %5 : f32[tokens, 4]
                - %11 = add %8, %10 : f32[tokens, 4]
                - %12 = silu %6 : f32[tokens, 4]
                - %13 = mul %11, %12 : f32[tokens, 4]
                + %13, %9 = selective_scan %1, %2, %7, %0, %3, %4, %5, %6 {selection = given, gated = true} : f32[tokens, 4], f32[sequences, 4, 2]
            "#]],
        );
    }

    #[test]
    fn fuses_the_other_way_round() {
        check(
            FuseScanGate,
            &format!(
                "{SCAN}
                %gate = silu %z : f32[tokens, 4]
                %skip = mul %u, %d : f32[tokens, 4]
                %sum = add %skip, %y : f32[tokens, 4]
                %out = mul %gate, %sum : f32[tokens, 4]"
            ),
            expect![[r#"
                - %8, %9 = selective_scan %1, %2, %7, %0, %3, %4 {selection = given, gated = false} : f32[tokens, 4], f32[sequences, 4, 2]
                - %10 = silu %6 : f32[tokens, 4]
                - %11 = mul %1, %5 : f32[tokens, 4]
                - %12 = add %11, %8 : f32[tokens, 4]
                - %13 = mul %10, %12 : f32[tokens, 4]
                + %13, %9 = selective_scan %1, %2, %7, %0, %3, %4, %5, %6 {selection = given, gated = true} : f32[tokens, 4], f32[sequences, 4, 2]
            "#]],
        );
    }

    #[test]
    fn keeps_a_skip_of_another_value() {
        check_unchanged(
            FuseScanGate,
            &format!(
                "{SCAN}
                %skip = mul %dt, %d : f32[tokens, 4]
                %sum = add %y, %skip : f32[tokens, 4]
                %gate = silu %z : f32[tokens, 4]
                %out = mul %sum, %gate : f32[tokens, 4]"
            ),
        );
    }

    #[test]
    fn keeps_a_skip_that_is_no_row() {
        check_unchanged(
            FuseScanGate,
            &format!(
                "{SCAN}
                %skip = mul %u, %dt : f32[tokens, 4]
                %sum = add %y, %skip : f32[tokens, 4]
                %gate = silu %z : f32[tokens, 4]
                %out = mul %sum, %gate : f32[tokens, 4]"
            ),
        );
    }

    #[test]
    fn keeps_what_others_read() {
        for value in ["y", "skip", "sum", "gate"] {
            check_unchanged(
                FuseScanGate,
                &format!(
                    "{SCAN}
                    %skip = mul %u, %d : f32[tokens, 4]
                    %sum = add %y, %skip : f32[tokens, 4]
                    %gate = silu %z : f32[tokens, 4]
                    %out = mul %sum, %gate : f32[tokens, 4]
                    %other = softplus %{value} : f32[tokens, 4]
                    output \"other\" = %other"
                ),
            );
        }
    }
}
