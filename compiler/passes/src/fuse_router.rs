//! fuse-router: fuse softmax, top-k and permutation of a router.
//!
//! ```text
//! %p = softmax %logits
//! %w, %e = top_k %p {k}
//! %s, %o = moe_permute %e {n_experts}      ⇒   %w, %s, %o = moe_route %logits {k}
//! ```
//!
//! Not if the probabilities or the experts' indices have another reader, or there are more experts than logits.

use jambac_graph::{Dim, Graph, NodeId, Op};

use crate::pass::Pass;
use crate::rewrite::{Changed, Fused, Rewriter, fuse_each, has_one_reader};

pub struct FuseRouter;

impl Pass for FuseRouter {
    fn name(&self) -> &'static str {
        "fuse-router"
    }

    fn run(&self, rewriter: &mut Rewriter) -> Changed {
        fuse_each(rewriter, find)
    }
}

fn find(graph: &Graph, permute: NodeId) -> Option<Fused> {
    let Op::MoePermute { n_experts } = *graph.op(permute) else { return None };
    let experts = graph.operands(permute)[0];
    let Op::TopK { k } = *graph.op(experts.node) else { return None };
    let probabilities = graph.operands(experts.node)[0];
    let fits = *graph.op(probabilities.node) == Op::Softmax
        && has_one_reader(graph, experts)
        && has_one_reader(graph, probabilities)
        && graph.ty(probabilities).shape.last() == Some(&Dim::Fixed(n_experts));
    fits.then(|| Fused {
        place: permute,
        op: Op::MoeRoute { k },
        operands: graph.operands(probabilities.node),
        results: vec![graph.result(experts.node, 0), graph.result(permute, 0), graph.result(permute, 1)],
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
            FuseRouter,
            r#"
            %0 = input "logits" : f32[tokens, 4]
            %1 = softmax %0 : f32[tokens, 4]
            %2, %3 = top_k %1 {k = 2} : f32[tokens, 2], i32[tokens, 2]
            %4, %5 = moe_permute %3 {n_experts = 4} : i32[tokens, 2], i32[5]
            output "offsets" = %5
            output "slots" = %4
            output "weights" = %2
            "#,
            expect![[r#"
                - %1 = softmax %0 : f32[tokens, 4]
                - %2, %3 = top_k %1 {k = 2} : f32[tokens, 2], i32[tokens, 2]
                - %4, %5 = moe_permute %3 {n_experts = 4} : i32[tokens, 2], i32[5]
                + %2, %4, %5 = moe_route %0 {k = 2} : f32[tokens, 2], i32[tokens, 2], i32[5]
            "#]],
        );
    }

    #[test]
    fn keeps_probabilities_and_indices_that_are_read() {
        check_unchanged(
            FuseRouter,
            r#"
            %0 = input "logits" : f32[tokens, 4]
            %1 = softmax %0 : f32[tokens, 4]
            %2, %3 = top_k %1 {k = 2} : f32[tokens, 2], i32[tokens, 2]
            %4, %5 = moe_permute %3 {n_experts = 4} : i32[tokens, 2], i32[5]
            %6 = softmax %0 : f32[tokens, 4]
            %7, %8 = top_k %6 {k = 1} : f32[tokens, 1], i32[tokens, 1]
            %9, %10 = moe_permute %8 {n_experts = 4} : i32[tokens, 1], i32[5]
            output "experts" = %8
            output "offsets" = %10
            output "probabilities" = %1
            output "slots" = %4
            output "weights" = %7
            "#,
        );
    }

    #[test]
    fn keeps_a_permutation_of_more_experts() {
        check_unchanged(
            FuseRouter,
            r#"
            %0 = input "logits" : f32[tokens, 4]
            %1 = softmax %0 : f32[tokens, 4]
            %2, %3 = top_k %1 {k = 2} : f32[tokens, 2], i32[tokens, 2]
            %4, %5 = moe_permute %3 {n_experts = 6} : i32[tokens, 2], i32[7]
            output "offsets" = %5
            output "slots" = %4
            output "weights" = %2
            "#,
        );
    }
}
