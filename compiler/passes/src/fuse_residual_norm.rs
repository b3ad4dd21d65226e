//! fuse-residual-norm: fuse the residual sum with the norm, which then reads it once.
//!
//! ```text
//! %s = add %a, %b
//! %n = rms_norm %s, %w          ⇒   %s, %n = add_rms_norm %a, %b, %w
//! ```
//!
//! Other readers of %s read the first result. Not if one of them is a second norm, which would read the sum again. Not if %w is
//! computed: it could depend on %s.

use jambac_graph::{Graph, NodeId, Op};

use crate::pass::Pass;
use crate::rewrite::{Changed, Fused, Rewriter, fuse_each};

pub struct FuseResidualNorm;

impl Pass for FuseResidualNorm {
    fn name(&self) -> &'static str {
        "fuse-residual-norm"
    }

    fn run(&self, rewriter: &mut Rewriter) -> Changed {
        fuse_each(rewriter, find)
    }
}

fn find(graph: &Graph, norm: NodeId) -> Option<Fused> {
    let Op::RmsNorm { eps } = *graph.op(norm) else { return None };
    let operands = graph.operands(norm);
    let (sum, weight) = (operands[0], operands[1]);
    if *graph.op(sum.node) != Op::Add || !graph.op(weight.node).is_source() {
        return None;
    }
    let is_norm = |&(reader, _): &(NodeId, usize)| matches!(graph.op(reader), Op::RmsNorm { .. });
    if graph.users(sum).iter().filter(|reader| is_norm(reader)).count() > 1 {
        return None;
    }
    Some(Fused {
        place: norm,
        op: Op::AddRmsNorm { eps },
        operands: graph.operands(sum.node).into_iter().chain([weight]).collect(),
        results: vec![sum, graph.result(norm, 0)],
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::testing::{check, check_unchanged};

    #[test]
    fn fuses() {
        check(
            FuseResidualNorm,
            r#"
            %0 = input "x" : f32[tokens, 8]
            %1 = input "mixed" : f32[tokens, 8]
            %2 = parameter "norm" : bf16[8]
            %3 = add %0, %1 : f32[tokens, 8]
            %4 = rms_norm %3, %2 {eps = 1e-6} : f32[tokens, 8]
            %5 = silu %4 : f32[tokens, 8]
            %6 = add %3, %5 : f32[tokens, 8]
            output "x" = %6
            "#,
            expect![[r#"
                - %3 = add %0, %1 : f32[tokens, 8]
                - %4 = rms_norm %3, %2 {eps = 1e-6} : f32[tokens, 8]
                + %3, %4 = add_rms_norm %0, %1, %2 {eps = 1e-6} : f32[tokens, 8], f32[tokens, 8]
            "#]],
        );
    }

    #[test]
    fn fuses_a_sum_that_is_an_output_or_not_read() {
        check(
            FuseResidualNorm,
            r#"
            %0 = input "x" : f32[tokens, 8]
            %1 = parameter "norm" : bf16[8]
            %2 = add %0, %0 : f32[tokens, 8]
            %3 = rms_norm %2, %1 {eps = 1e-6} : f32[tokens, 8]
            %4 = add %3, %0 : f32[tokens, 8]
            %5 = rms_norm %4, %1 {eps = 1e-6} : f32[tokens, 8]
            output "hidden" = %2
            output "y" = %5
            "#,
            expect![[r#"
                - %2 = add %0, %0 : f32[tokens, 8]
                - %3 = rms_norm %2, %1 {eps = 1e-6} : f32[tokens, 8]
                - %4 = add %3, %0 : f32[tokens, 8]
                - %5 = rms_norm %4, %1 {eps = 1e-6} : f32[tokens, 8]
                + %2, %6 = add_rms_norm %0, %0, %1 {eps = 1e-6} : f32[tokens, 8], f32[tokens, 8]
                + %7, %5 = add_rms_norm %6, %0, %1 {eps = 1e-6} : f32[tokens, 8], f32[tokens, 8]
            "#]],
        );
    }

    #[test]
    fn keeps_a_second_norm() {
        check_unchanged(
            FuseResidualNorm,
            r#"
            %0 = input "x" : f32[tokens, 8]
            %1 = parameter "norm" : bf16[8]
            %2 = add %0, %0 : f32[tokens, 8]
            %3 = rms_norm %2, %1 {eps = 1e-6} : f32[tokens, 8]
            %4 = rms_norm %2, %1 {eps = 1e-5} : f32[tokens, 8]
            output "a" = %3
            output "b" = %4
            "#,
        );
    }

    #[test]
    fn keeps_a_computed_weight() {
        check_unchanged(
            FuseResidualNorm,
            r#"
            %0 = input "x" : f32[8]
            %1 = add %0, %0 : f32[8]
            %2 = silu %1 : f32[8]
            %3 = rms_norm %1, %2 {eps = 1e-6} : f32[8]
            output "y" = %3
            "#,
        );
    }
}
