//! fuse-gate-up: fuse gate, up and SwiGLU; x is read once, and gate and up are not stored.
//!
//! ```text
//! %g = linear %x, %wg
//! %u = linear %x, %wu
//! %y = swiglu %g, %u            ⇒   %y = linear_swiglu %x, %wg, %wu
//! ```
//!
//! Not if %g or %u has another reader or a bias, they are of two values, or the weights differ in type (they are stored
//! interleaved), are computed, or have another reader.

use jambac_graph::{Graph, NodeId, Op};

use crate::pass::Pass;
use crate::rewrite::{Changed, Fused, Rewriter, fuse_each, has_one_reader, plain_linear};

pub struct FuseGateUp;

impl Pass for FuseGateUp {
    fn name(&self) -> &'static str {
        "fuse-gate-up"
    }

    fn run(&self, rewriter: &mut Rewriter) -> Changed {
        fuse_each(rewriter, find)
    }
}

fn find(graph: &Graph, swiglu: NodeId) -> Option<Fused> {
    if *graph.op(swiglu) != Op::Swiglu {
        return None;
    }
    let operands = graph.operands(swiglu);
    if !operands.iter().all(|&operand| has_one_reader(graph, operand)) {
        return None;
    }
    let (x, gate) = plain_linear(graph, operands[0])?;
    let (x_of_up, up) = plain_linear(graph, operands[1])?;
    let fits = x == x_of_up && graph.ty(gate) == graph.ty(up);
    fits.then(|| Fused::one(graph, swiglu, Op::LinearSwiglu, [x, gate, up]))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::testing::{check, check_unchanged};

    const MLP: &str = r#"
        %x = input "x" : f32[tokens, 4]
        %other = input "other" : f32[tokens, 4]
        %wg = parameter "gate_proj" : bf16[8, 4]
        %wu = parameter "up_proj" : bf16[8, 4]
        %g = linear %x, %wg : f32[tokens, 8]
        %u = linear %x, %wu : f32[tokens, 8]
        %y = swiglu %g, %u : f32[tokens, 8]
        output "y" = %y
        output "x" = %other
    "#;

    #[test]
    fn fuses() {
        check(
            FuseGateUp,
            MLP,
            expect![[r#"
            - %4 = linear %0, %2 : f32[tokens, 8]
            - %5 = linear %0, %3 : f32[tokens, 8]
            - %6 = swiglu %4, %5 : f32[tokens, 8]
            + %6 = linear_swiglu %0, %2, %3 : f32[tokens, 8]
        "#]],
        );
    }

    #[test]
    fn keeps_what_others_read() {
        for value in ["g", "u"] {
            check_unchanged(FuseGateUp, &format!("{MLP} %o = silu %{value} : f32[tokens, 8] output \"o\" = %o"));
            check_unchanged(FuseGateUp, &format!("{MLP} output \"o\" = %{value}"));
        }
        check_unchanged(FuseGateUp, &MLP.replace("swiglu %g, %u", "swiglu %g, %g"));
    }

    #[test]
    fn keeps_projections_of_two_values() {
        check_unchanged(FuseGateUp, &MLP.replace("linear %x, %wu", "linear %other, %wu"));
    }

    #[test]
    fn keeps_a_bias_and_an_activation() {
        let biased = MLP.replace("%x, %wu", "%x, %wu, %b");
        check_unchanged(FuseGateUp, &format!("%b = parameter \"bias\" : f32[8] {biased}"));
        check_unchanged(FuseGateUp, &MLP.replace("%x, %wg :", "%x, %wg {activation = silu} :"));
    }

    #[test]
    fn keeps_weights_of_two_types_and_with_other_readers() {
        check_unchanged(FuseGateUp, &MLP.replace("\"up_proj\" : bf16", "\"up_proj\" : f32"));
        check_unchanged(FuseGateUp, &MLP.replace("%x, %wu", "%x, %wg"));
        check_unchanged(FuseGateUp, &format!("{MLP} %o = linear %other, %wg : f32[tokens, 8] output \"o\" = %o"));
    }

    #[test]
    fn keeps_experts() {
        check_unchanged(
            FuseGateUp,
            r#"
            %x = input "x" : f32[tokens, 4]
            %e = input "experts" : i32[tokens, 2]
            %wg = parameter "gate_proj" : bf16[3, 8, 4]
            %wu = parameter "up_proj" : bf16[3, 8, 4]
            %s, %o = moe_permute %e {n_experts = 3} : i32[tokens, 2], i32[4]
            %g = grouped_linear %x, %wg, %s, %o : f32[tokens, 2, 8]
            %u = grouped_linear %x, %wu, %s, %o : f32[tokens, 2, 8]
            %y = swiglu %g, %u : f32[tokens, 2, 8]
            output "y" = %y
            "#,
        );
    }
}
