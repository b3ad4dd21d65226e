//! fuse-norms-scan: the scan norms Δ, B and C itself, for the tokens it is at.
//!
//!     %dt, %b, %c = split_rms_norm %x, %v, %w, %w'
//!     %y, %s = selective_scan %u, …, %dt, %b, %c, … {selection = projected}
//!                                   ⇒   %y, %s = selective_scan %u, …, %x, %v, %w, %w', … {selection = normed}
//!
//! Not when a part has another reader, or stands in another's place. Not when Δ is projected outside: the scan would read it, and
//! x for two parts of three.

use jambac_graph::{Graph, NodeId, Op, Selection, ValueId};

use crate::fuse_dt_scan::replace_scan;
use crate::pass::Pass;
use crate::rewrite::{Changed, Rewriter, has_one_reader, rewrite_each};

/// The pass of this file.
pub struct FuseNormsScan;

impl Pass for FuseNormsScan {
    const NAME: &'static str = "fuse-norms-scan";

    fn run(&self, rewriter: &mut Rewriter) -> Changed {
        rewrite_each(rewriter, find, apply)
    }
}

struct Match {
    scan: NodeId,
    gated: bool,
    norms: NodeId,
    eps: f64,
}

fn find(graph: &Graph, scan: NodeId) -> Option<Match> {
    let Op::SelectiveScan { selection: Selection::Projected, gated } = *graph.op(scan) else { return None };
    let operands = graph.operands(scan);
    let parts = &operands[Selection::Projected.operands()][..3];
    let norms = parts[0].node;
    let Op::SplitRmsNorm { eps } = *graph.op(norms) else { return None };
    if graph.node(norms).results.len() != parts.len() {
        return None;
    }
    let in_place =
        |(result, &part): (usize, &ValueId)| part == graph.result(norms, result) && has_one_reader(graph, part);
    parts.iter().enumerate().all(in_place).then_some(Match { scan, gated, norms, eps })
}

fn apply(graph: &mut Graph, Match { scan, gated, norms, eps }: Match) {
    let start = Selection::Projected.operands().start;
    let mut operands = graph.operands(scan);
    operands.splice(start..start + 3, graph.operands(norms));
    replace_scan(graph, scan, Op::SelectiveScan { selection: Selection::Normed { eps }, gated }, &operands);
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
