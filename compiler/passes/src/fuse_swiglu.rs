//! fuse-swiglu: fuse SiLU and product of gate and up.
//!
//! ```text
//! %s = silu %gate
//! %y = mul %s, %up              ⇒   %y = swiglu %gate, %up
//! ```
//!
//! Either order of `mul`, for rows of tokens and of expert slots. Not if %s has another reader, or %up is one row for all tokens.

use jambac_graph::{Graph, NodeId, Op};

use crate::pass::Pass;
use crate::rewrite::{Changed, Fused, Rewriter, both_ways, fuse_each, silu_of};

pub struct FuseSwiglu;

impl Pass for FuseSwiglu {
    fn name(&self) -> &'static str {
        "fuse-swiglu"
    }

    fn run(&self, rewriter: &mut Rewriter) -> Changed {
        fuse_each(rewriter, find)
    }
}

fn find(graph: &Graph, mul: NodeId) -> Option<Fused> {
    if *graph.op(mul) != Op::Mul {
        return None;
    }
    both_ways(graph, mul).into_iter().find_map(|(silu, up)| {
        let gate = silu_of(graph, silu)?;
        (graph.ty(gate) == graph.ty(up)).then(|| Fused::one(graph, mul, Op::Swiglu, [gate, up]))
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
            FuseSwiglu,
            r#"
            %0 = input "gate" : f32[tokens, 8]
            %1 = input "up" : f32[tokens, 8]
            %2 = silu %0 : f32[tokens, 8]
            %3 = mul %2, %1 : f32[tokens, 8]
            output "y" = %3
            "#,
            expect![[r#"
                - %2 = silu %0 : f32[tokens, 8]
                - %3 = mul %2, %1 : f32[tokens, 8]
                + %3 = swiglu %0, %1 : f32[tokens, 8]
            "#]],
        );
    }

    #[test]
    fn fuses_slots_the_other_way_round() {
        check(
            FuseSwiglu,
            r#"
            %0 = input "gate" : f32[tokens, 2, 8]
            %1 = input "up" : f32[tokens, 2, 8]
            %2 = silu %0 : f32[tokens, 2, 8]
            %3 = mul %1, %2 : f32[tokens, 2, 8]
            output "y" = %3
            "#,
            expect![[r#"
                - %2 = silu %0 : f32[tokens, 2, 8]
                - %3 = mul %1, %2 : f32[tokens, 2, 8]
                + %3 = swiglu %0, %1 : f32[tokens, 2, 8]
            "#]],
        );
    }

    #[test]
    fn keeps_what_others_read() {
        check_unchanged(
            FuseSwiglu,
            r#"
            %0 = input "gate" : f32[tokens, 8]
            %1 = silu %0 : f32[tokens, 8]
            %2 = mul %1, %1 : f32[tokens, 8]
            output "y" = %2
            "#,
        );
    }

    #[test]
    fn keeps_a_product_with_a_row() {
        check_unchanged(
            FuseSwiglu,
            r#"
            %0 = input "gate" : f32[tokens, 8]
            %1 = parameter "row" : f32[8]
            %2 = silu %0 : f32[tokens, 8]
            %3 = mul %2, %1 : f32[tokens, 8]
            output "y" = %3
            "#,
        );
    }
}
