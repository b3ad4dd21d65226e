//! fuse-norms-scan: fuse the norms of Δ, B and C into the scan, which computes them per token.
//!
//! ```text
//! %dt, %b, %c = split_rms_norm %x, %v, %w, %w'
//! %y, %s = selective_scan %u, …, %dt, %b, %c, … {selection = projected}
//!                               ⇒   %y, %s = selective_scan %u, …, %x, %v, %w, %w', … {selection = normed}
//! ```
//!
//! Not if a part has another reader, or the parts are in another order. Not if Δ is projected outside the scan: the scan would read
//! it, and x for two of three parts.

use jambac_graph::{Graph, NodeId, Op, Selection, ValueId};

use crate::pass::Pass;
use crate::rewrite::{Changed, Fused, Rewriter, fuse_each, has_one_reader};

pub struct FuseNormsScan;

impl Pass for FuseNormsScan {
    fn name(&self) -> &'static str {
        "fuse-norms-scan"
    }

    fn makes(&self) -> Option<Op> {
        Some(Op::SelectiveScan { selection: Selection::Normed { eps: 0.0 }, gated: false })
    }

    fn run(&self, rewriter: &mut Rewriter) -> Changed {
        fuse_each(rewriter, find)
    }
}

fn find(graph: &Graph, scan: NodeId) -> Option<Fused> {
    let Op::SelectiveScan { selection: Selection::Projected, gated } = *graph.op(scan) else { return None };
    let start = Selection::Projected.operands().start;
    let mut operands = graph.operands(scan);
    let parts = &operands[start..start + 3];
    let norms = parts[0].node;
    let Op::SplitRmsNorm { eps } = *graph.op(norms) else { return None };
    let in_order =
        |(result, &part): (usize, &ValueId)| part == graph.result(norms, result) && has_one_reader(graph, part);
    if graph.node(norms).results.len() != parts.len() || !parts.iter().enumerate().all(in_order) {
        return None;
    }
    operands.splice(start..start + 3, graph.operands(norms));
    let op = Op::SelectiveScan { selection: Selection::Normed { eps }, gated };
    Some(Fused { place: scan, op, operands, results: vec![graph.result(scan, 0), graph.result(scan, 1)] })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::testing::{check, check_unchanged};

    const OPERANDS: &str = r#"
        %x = input "x" : f32[tokens, 6]
        %u = input "u" : f32[tokens, 4]
        %a = parameter "A_log" : bf16[4, 2]
        %v = parameter "norm" : bf16[2]
        %w = parameter "dt_proj.weight" : bf16[4, 2]
        %bias = parameter "dt_proj.bias" : bf16[4]
        %h = state "ssm" : f32[sequences, 4, 2]
        output "ssm" = %next
        output "y" = %y
    "#;
    const NORMS: &str =
        "%0, %1, %2 = split_rms_norm %x, %v, %v, %v {eps = 1e-6} : f32[tokens, 2], f32[tokens, 2], f32[tokens, 2]";

    fn scan(operands: &str, selection: &str) -> String {
        format!(
            "%y, %next = selective_scan %u, %a, %h, {operands} {{selection = {selection}, gated = false}}
                : f32[tokens, 4], f32[sequences, 4, 2]"
        )
    }

    #[test]
    fn fuses() {
        check(
            FuseNormsScan,
            &format!("{OPERANDS} {NORMS} {}", scan("%0, %1, %2, %w, %bias", "projected")),
            expect![[r#"
                - %7, %8, %9 = split_rms_norm %0, %3, %3, %3 {eps = 1e-6} : f32[tokens, 2], f32[tokens, 2], f32[tokens, 2]
                - %10, %11 = selective_scan %1, %2, %6, %7, %8, %9, %4, %5 {selection = projected, gated = false} : f32[tokens, 4], f32[sequences, 4, 2]
                + %10, %11 = selective_scan %1, %2, %6, %0, %3, %3, %3, %4, %5 {selection = normed, eps = 1e-6, gated = false} : f32[tokens, 4], f32[sequences, 4, 2]
            "#]],
        );
    }

    #[test]
    fn keeps_parts_in_another_order() {
        check_unchanged(FuseNormsScan, &format!("{OPERANDS} {NORMS} {}", scan("%0, %2, %1, %w, %bias", "projected")));
    }

    #[test]
    fn keeps_what_others_read() {
        for other in ["%z = silu %1 : f32[tokens, 2] output \"z\" = %z", "output \"dt\" = %0"] {
            let scan = scan("%0, %1, %2, %w, %bias", "projected");
            check_unchanged(FuseNormsScan, &format!("{OPERANDS} {NORMS} {scan} {other}"));
        }
    }

    #[test]
    fn keeps_a_part_more() {
        check_unchanged(
            FuseNormsScan,
            &format!(
                "{OPERANDS} %more = input \"more\" : f32[tokens, 8]
                %0, %1, %2, %3 = split_rms_norm %more, %v, %v, %v, %v {{eps = 1e-6}}
                    : f32[tokens, 2], f32[tokens, 2], f32[tokens, 2], f32[tokens, 2]
                {}",
                scan("%0, %1, %2, %w, %bias", "projected")
            ),
        );
    }

    #[test]
    fn keeps_a_projection_outside() {
        let dt = "%dt = linear %0, %w, %bias {activation = softplus} : f32[tokens, 4]";
        check_unchanged(FuseNormsScan, &format!("{OPERANDS} {NORMS} {dt} {}", scan("%dt, %1, %2", "given")));
    }
}
