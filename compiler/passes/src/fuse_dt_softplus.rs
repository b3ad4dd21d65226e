//! fuse-dt-softplus: fuse the softplus into the projection of Δ.
//!
//! ```text
//! %y = linear %x, %w, %b
//! %dt = softplus %y             ⇒   %dt = linear %x, %w, %b {activation = softplus}
//! ```
//!
//! Not if %y has another reader, which would read the softplus, or the linear already has an activation.

use jambac_graph::{Activation, Graph, NodeId, Op};

use crate::pass::Pass;
use crate::rewrite::{Changed, Fused, Rewriter, fuse_each, has_one_reader};

pub struct FuseDtSoftplus;

impl Pass for FuseDtSoftplus {
    fn name(&self) -> &'static str {
        "fuse-dt-softplus"
    }

    fn run(&self, rewriter: &mut Rewriter) -> Changed {
        fuse_each(rewriter, find)
    }
}

fn find(graph: &Graph, softplus: NodeId) -> Option<Fused> {
    if *graph.op(softplus) != Op::Softplus {
        return None;
    }
    let y = graph.operands(softplus)[0];
    let is_plain = *graph.op(y.node) == (Op::Linear { activation: Activation::None });
    (is_plain && has_one_reader(graph, y)).then(|| Fused {
        place: y.node,
        op: Op::Linear { activation: Activation::Softplus },
        operands: graph.operands(y.node),
        results: vec![graph.result(softplus, 0)],
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
            FuseDtSoftplus,
            r#"
            %0 = input "x" : f32[tokens, 4]
            %1 = parameter "w" : bf16[8, 4]
            %2 = parameter "bias" : f32[8]
            %3 = linear %0, %1, %2 : f32[tokens, 8]
            %4 = softplus %3 : f32[tokens, 8]
            output "dt" = %4
            "#,
            expect![[r#"
                - %3 = linear %0, %1, %2 : f32[tokens, 8]
                - %4 = softplus %3 : f32[tokens, 8]
                + %4 = linear %0, %1, %2 {activation = softplus} : f32[tokens, 8]
            "#]],
        );
    }

    #[test]
    fn keeps_what_others_read() {
        check_unchanged(
            FuseDtSoftplus,
            r#"
            %0 = input "x" : f32[tokens, 4]
            %1 = parameter "w" : bf16[8, 4]
            %2 = linear %0, %1 : f32[tokens, 8]
            %3 = softplus %2 : f32[tokens, 8]
            %4 = add %2, %3 : f32[tokens, 8]
            output "y" = %4
            "#,
        );
    }

    #[test]
    fn keeps_a_second_activation() {
        check_unchanged(
            FuseDtSoftplus,
            r#"
            %0 = input "x" : f32[tokens, 4]
            %1 = parameter "w" : bf16[8, 4]
            %2 = linear %0, %1 {activation = silu} : f32[tokens, 8]
            %3 = softplus %2 : f32[tokens, 8]
            output "y" = %3
            "#,
        );
    }
}
