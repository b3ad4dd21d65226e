//! fuse-dt-scan: fuse the projection of Δ into the scan, which computes it per token and channel.
//!
//! ```text
//! %dt = linear %low, %w, %bias {activation = softplus}
//! %y, %s = selective_scan %u, …, %dt, %b, %c {selection = given}
//!                               ⇒   %y, %s = selective_scan %u, …, %low, %b, %c, %w, %bias {selection = projected}
//! ```
//!
//! Not if %dt has another reader, or the linear has no bias or no softplus.

use jambac_graph::{Activation, Graph, NodeId, Op, Selection};

use crate::pass::Pass;
use crate::rewrite::{Changed, Fused, Rewriter, fuse_each, has_one_reader};

pub struct FuseDtScan;

impl Pass for FuseDtScan {
    fn name(&self) -> &'static str {
        "fuse-dt-scan"
    }

    fn makes(&self) -> Option<Op> {
        Some(Op::SelectiveScan { selection: Selection::Projected, gated: false })
    }

    fn run(&self, rewriter: &mut Rewriter) -> Changed {
        fuse_each(rewriter, find)
    }
}

fn find(graph: &Graph, scan: NodeId) -> Option<Fused> {
    let Op::SelectiveScan { selection: Selection::Given, gated } = *graph.op(scan) else { return None };
    let given = Selection::Given.operands();
    let mut operands = graph.operands(scan);
    let dt = operands[given.start];
    let projection = graph.operands(dt.node);
    let is_projection =
        *graph.op(dt.node) == (Op::Linear { activation: Activation::Softplus }) && projection.len() == 3;
    if !is_projection || !has_one_reader(graph, dt) {
        return None;
    }
    operands[given.start] = projection[0];
    operands.splice(given.end..given.end, projection[1..].iter().copied());
    let op = Op::SelectiveScan { selection: Selection::Projected, gated };
    Some(Fused { place: scan, op, operands, results: vec![graph.result(scan, 0), graph.result(scan, 1)] })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::testing::{check, check_unchanged};

    const OPERANDS: &str = r#"
        %low = input "low" : f32[tokens, 3]
        %u = input "u" : f32[tokens, 4]
        %a = parameter "A_log" : bf16[4, 2]
        %b = input "b" : f32[tokens, 2]
        %c = input "c" : f32[tokens, 2]
        %w = parameter "dt_proj.weight" : bf16[4, 3]
        %bias = parameter "dt_proj.bias" : bf16[4]
        %h = state "ssm" : f32[sequences, 4, 2]
        output "ssm" = %next
        output "y" = %y
    "#;
    const SCAN: &str = "%y, %next = selective_scan %u, %a, %h, %dt, %b, %c {selection = given, gated = false} : f32[tokens, 4], f32[sequences, 4, 2]";

    #[test]
    fn fuses() {
        check(
            FuseDtScan,
            &format!("{OPERANDS} %dt = linear %low, %w, %bias {{activation = softplus}} : f32[tokens, 4] {SCAN}"),
            expect![[r#"
                - %8 = linear %0, %5, %6 {activation = softplus} : f32[tokens, 4]
                - %9, %10 = selective_scan %1, %2, %7, %8, %3, %4 {selection = given, gated = false} : f32[tokens, 4], f32[sequences, 4, 2]
                + %9, %10 = selective_scan %1, %2, %7, %0, %3, %4, %5, %6 {selection = projected, gated = false} : f32[tokens, 4], f32[sequences, 4, 2]
            "#]],
        );
    }

    #[test]
    fn fuses_with_a_gated_scan() {
        check(
            FuseDtScan,
            &format!(
                "{OPERANDS} %dt = linear %low, %w, %bias {{activation = softplus}} : f32[tokens, 4]
                %y, %next = selective_scan %u, %a, %h, %dt, %b, %c, %bias, %u {{selection = given, gated = true}}
                    : f32[tokens, 4], f32[sequences, 4, 2]"
            ),
            expect![[r#"
                - %8 = linear %0, %5, %6 {activation = softplus} : f32[tokens, 4]
                - %9, %10 = selective_scan %1, %2, %7, %8, %3, %4, %6, %1 {selection = given, gated = true} : f32[tokens, 4], f32[sequences, 4, 2]
                + %9, %10 = selective_scan %1, %2, %7, %0, %3, %4, %5, %6, %6, %1 {selection = projected, gated = true} : f32[tokens, 4], f32[sequences, 4, 2]
            "#]],
        );
    }

    #[test]
    fn keeps_what_others_read() {
        for other in ["%z = silu %dt : f32[tokens, 4] output \"z\" = %z", "output \"dt\" = %dt"] {
            let dt = "%dt = linear %low, %w, %bias {activation = softplus} : f32[tokens, 4]";
            check_unchanged(FuseDtScan, &format!("{OPERANDS} {dt} {SCAN} {other}"));
        }
    }

    #[test]
    fn keeps_what_the_scan_reads_twice() {
        check_unchanged(
            FuseDtScan,
            &format!(
                "{OPERANDS} %dt = linear %low, %w, %bias {{activation = softplus}} : f32[tokens, 4]
                %y, %next = selective_scan %dt, %a, %h, %dt, %b, %c {{selection = given, gated = false}}
                    : f32[tokens, 4], f32[sequences, 4, 2]"
            ),
        );
    }

    #[test]
    fn keeps_other_linears() {
        for dt in [
            "%dt = linear %low, %w {activation = softplus} : f32[tokens, 4]",
            "%dt = linear %low, %w, %bias {activation = silu} : f32[tokens, 4]",
            "%0 = linear %low, %w, %bias : f32[tokens, 4] %dt = softplus %0 : f32[tokens, 4]",
        ] {
            check_unchanged(FuseDtScan, &format!("{OPERANDS} {dt} {SCAN}"));
        }
    }
}
