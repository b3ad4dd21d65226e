//! fuse-experts: fuse the products of experts, so that intermediate values are not stored.
//!
//! ```text
//! %g = grouped_linear %x, %gate, %s, %o
//! %u = grouped_linear %x, %up, %s, %o
//! %h = swiglu %g, %u                            ⇒   %h = grouped_swiglu %x, %gate, %up, %s, %o
//!
//! %y = grouped_linear %h, %down, %s, %o
//! %out = moe_combine %y, %w                     ⇒   %out = grouped_combine %h, %down, %w, %s, %o
//! ```
//!
//! Not if a value in between has another reader. The first only if %gate and %up are parameters of one type, which can be stored
//! together; the second only if %h has a row per token and expert.

use jambac_graph::{Graph, NodeId, Op, ValueId};

use crate::pass::Pass;
use crate::rewrite::{Changed, Fused, Rewriter, fuse_each, has_one_reader};

pub struct FuseExperts;

impl Pass for FuseExperts {
    fn name(&self) -> &'static str {
        "fuse-experts"
    }

    fn run(&self, rewriter: &mut Rewriter) -> Changed {
        fuse_each(rewriter, find)
    }
}

fn find(graph: &Graph, last: NodeId) -> Option<Fused> {
    let operands = graph.operands(last);
    match graph.op(last) {
        Op::Swiglu => {
            let ([x, gate, slots, offsets], up) = (grouped(graph, operands[0])?, grouped(graph, operands[1])?);
            let are_parameters =
                [gate, up[1]].iter().all(|weight| matches!(graph.op(weight.node), Op::Parameter { .. }));
            let fits = up == [x, up[1], slots, offsets] && are_parameters && graph.ty(gate) == graph.ty(up[1]);
            fits.then(|| Fused::one(graph, last, Op::GroupedSwiglu, [x, gate, up[1], slots, offsets]))
        }
        Op::MoeCombine => {
            let [h, down, slots, offsets] = grouped(graph, operands[0])?;
            let fits = graph.ty(h).shape.len() == 3;
            fits.then(|| Fused::one(graph, last, Op::GroupedCombine, [h, down, operands[1], slots, offsets]))
        }
        _ => None,
    }
}

/// The operands of a grouped linear, if its result has one reader.
fn grouped(graph: &Graph, y: ValueId) -> Option<[ValueId; 4]> {
    let fits = *graph.op(y.node) == Op::GroupedLinear && has_one_reader(graph, y);
    if fits { graph.operands(y.node).try_into().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::testing::{check, check_unchanged};

    #[test]
    fn fuses() {
        check(
            FuseExperts,
            r#"
            %0 = input "x" : f32[tokens, 8]
            %1 = input "weights" : f32[tokens, 2]
            %2 = input "slots" : i32[tokens, 2]
            %3 = input "offsets" : i32[5]
            %4 = parameter "gate" : bf16[4, 6, 8]
            %5 = parameter "up" : bf16[4, 6, 8]
            %6 = parameter "down" : bf16[4, 8, 6]
            %7 = grouped_linear %0, %4, %2, %3 : f32[tokens, 2, 6]
            %8 = grouped_linear %0, %5, %2, %3 : f32[tokens, 2, 6]
            %9 = swiglu %7, %8 : f32[tokens, 2, 6]
            %10 = grouped_linear %9, %6, %2, %3 : f32[tokens, 2, 8]
            %11 = moe_combine %10, %1 : f32[tokens, 8]
            output "y" = %11
            "#,
            expect![[r#"
                - %7 = grouped_linear %0, %4, %2, %3 : f32[tokens, 2, 6]
                - %8 = grouped_linear %0, %5, %2, %3 : f32[tokens, 2, 6]
                - %9 = swiglu %7, %8 : f32[tokens, 2, 6]
                - %10 = grouped_linear %9, %6, %2, %3 : f32[tokens, 2, 8]
                - %11 = moe_combine %10, %1 : f32[tokens, 8]
                + %12 = grouped_swiglu %0, %4, %5, %2, %3 : f32[tokens, 2, 6]
                + %11 = grouped_combine %12, %6, %1, %2, %3 : f32[tokens, 8]
            "#]],
        );
    }

    #[test]
    fn keeps_what_is_read_in_between() {
        check_unchanged(
            FuseExperts,
            r#"
            %0 = input "x" : f32[tokens, 8]
            %1 = input "weights" : f32[tokens, 2]
            %2 = input "slots" : i32[tokens, 2]
            %3 = input "offsets" : i32[5]
            %4 = parameter "gate" : bf16[4, 6, 8]
            %5 = parameter "up" : bf16[4, 6, 8]
            %6 = parameter "down" : bf16[4, 8, 6]
            %7 = grouped_linear %0, %4, %2, %3 : f32[tokens, 2, 6]
            %8 = grouped_linear %0, %5, %2, %3 : f32[tokens, 2, 6]
            %9 = swiglu %7, %8 : f32[tokens, 2, 6]
            %10 = grouped_linear %9, %6, %2, %3 : f32[tokens, 2, 8]
            %11 = moe_combine %10, %1 : f32[tokens, 8]
            output "gated" = %7
            output "y" = %11
            output "y of each" = %10
            "#,
        );
    }

    #[test]
    fn keeps_weights_of_two_types() {
        check_unchanged(
            FuseExperts,
            r#"
            %0 = input "x" : f32[tokens, 8]
            %1 = input "slots" : i32[tokens, 2]
            %2 = input "offsets" : i32[5]
            %3 = parameter "gate" : bf16[4, 6, 8]
            %4 = parameter "up" : f32[4, 6, 8]
            %5 = grouped_linear %0, %3, %1, %2 : f32[tokens, 2, 6]
            %6 = grouped_linear %0, %4, %1, %2 : f32[tokens, 2, 6]
            %7 = swiglu %5, %6 : f32[tokens, 2, 6]
            output "y" = %7
            "#,
        );
    }

    #[test]
    fn keeps_two_inputs_or_two_routes() {
        check_unchanged(
            FuseExperts,
            r#"
            %0 = input "x" : f32[tokens, 8]
            %1 = input "z" : f32[tokens, 8]
            %2 = input "slots" : i32[tokens, 2]
            %3 = input "offsets" : i32[5]
            %4 = parameter "gate" : bf16[4, 6, 8]
            %5 = parameter "up" : bf16[4, 6, 8]
            %6 = grouped_linear %0, %4, %2, %3 : f32[tokens, 2, 6]
            %7 = grouped_linear %1, %5, %2, %3 : f32[tokens, 2, 6]
            %8 = swiglu %6, %7 : f32[tokens, 2, 6]
            %9 = input "other offsets" : i32[5]
            %10 = grouped_linear %0, %4, %2, %3 : f32[tokens, 2, 6]
            %11 = grouped_linear %0, %5, %2, %9 : f32[tokens, 2, 6]
            %12 = swiglu %10, %11 : f32[tokens, 2, 6]
            output "inputs" = %8
            output "routes" = %12
            "#,
        );
    }

    #[test]
    fn keeps_a_sum_of_rows_per_token() {
        check_unchanged(
            FuseExperts,
            r#"
            %0 = input "x" : f32[tokens, 8]
            %1 = input "weights" : f32[tokens, 2]
            %2 = input "slots" : i32[tokens, 2]
            %3 = input "offsets" : i32[5]
            %4 = parameter "down" : bf16[4, 6, 8]
            %5 = grouped_linear %0, %4, %2, %3 : f32[tokens, 2, 6]
            %6 = moe_combine %5, %1 : f32[tokens, 6]
            output "y" = %6
            "#,
        );
    }
}
