//! fuse-conv-silu: fuse the SiLU into the convolution.
//!
//! ```text
//! %y, %s = causal_conv1d …
//! %a = silu %y                  ⇒   %a, %s = causal_conv1d … {activation = silu}
//! ```
//!
//! Not if %y has another reader, which would read the SiLU, or the convolution already has an activation.

use jambac_graph::{Activation, Graph, NodeId, Op};

use crate::pass::Pass;
use crate::rewrite::{Changed, Fused, Rewriter, fuse_each, has_one_reader};

pub struct FuseConvSilu;

impl Pass for FuseConvSilu {
    fn name(&self) -> &'static str {
        "fuse-conv-silu"
    }

    fn run(&self, rewriter: &mut Rewriter) -> Changed {
        fuse_each(rewriter, find)
    }
}

fn find(graph: &Graph, silu: NodeId) -> Option<Fused> {
    if *graph.op(silu) != Op::Silu {
        return None;
    }
    let y = graph.operands(silu)[0];
    let Op::CausalConv1d { bias, activation: Activation::None } = *graph.op(y.node) else { return None };
    (y.result == 0 && has_one_reader(graph, y)).then(|| Fused {
        place: y.node,
        op: Op::CausalConv1d { bias, activation: Activation::Silu },
        operands: graph.operands(y.node),
        results: vec![graph.result(silu, 0), graph.result(y.node, 1)],
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
            FuseConvSilu,
            r#"
            %0 = input "u" : f32[tokens, 4]
            %1 = parameter "w" : f32[4, 1, 3]
            %2 = parameter "bias" : f32[4]
            %3 = state "conv" : f32[sequences, 4, 2]
            %4, %5 = causal_conv1d %0, %1, %2, %3 {bias = true} : f32[tokens, 4], f32[sequences, 4, 2]
            %6 = silu %4 : f32[tokens, 4]
            %7 = softplus %6 : f32[tokens, 4]
            output "conv" = %5
            output "y" = %7
            "#,
            expect![[r#"
                - %4, %5 = causal_conv1d %0, %1, %2, %3 {bias = true} : f32[tokens, 4], f32[sequences, 4, 2]
                - %6 = silu %4 : f32[tokens, 4]
                + %6, %5 = causal_conv1d %0, %1, %2, %3 {bias = true, activation = silu} : f32[tokens, 4], f32[sequences, 4, 2]
            "#]],
        );
    }

    #[test]
    fn keeps_what_others_read() {
        check_unchanged(
            FuseConvSilu,
            r#"
            %0 = input "u" : f32[tokens, 4]
            %1 = parameter "w" : f32[4, 1, 3]
            %2 = state "conv" : f32[sequences, 4, 2]
            %3, %4 = causal_conv1d %0, %1, %2 {bias = false} : f32[tokens, 4], f32[sequences, 4, 2]
            %5 = silu %3 : f32[tokens, 4]
            output "conv" = %4
            output "y" = %5
            output "before" = %3
            "#,
        );
    }

    #[test]
    fn keeps_a_second_silu() {
        check_unchanged(
            FuseConvSilu,
            r#"
            %0 = input "u" : f32[tokens, 4]
            %1 = parameter "w" : f32[4, 1, 3]
            %2 = state "conv" : f32[sequences, 4, 2]
            %3, %4 = causal_conv1d %0, %1, %2 {bias = false, activation = silu} : f32[tokens, 4], f32[sequences, 4, 2]
            %5 = silu %3 : f32[tokens, 4]
            output "conv" = %4
            output "y" = %5
            "#,
        );
    }
}
