//! fuse-proj-conv: in_proj finishes its first half with the convolution, in steps of one token of each sequence.
//!
//! ```text
//! %s, %u, %z = norm_split_linear %a, %b, %w, %p {sizes = [C, C]}
//! %y, %t = causal_conv1d %u, …           ⇒   %s, %y, %z, %t = norm_proj_conv %a, %b, %w, %p, …
//! ```
//!
//! Not if %u has another reader, in_proj has two weights, or a parameter of the convolution is computed. Many tokens of a sequence
//! would need rows of %u that other threads compute.

use jambac_graph::{Graph, NodeId, Op};

use crate::pass::Pass;
use crate::rewrite::{Changed, Fused, Rewriter, fuse_each, has_one_reader};

pub struct FuseProjConv;

impl Pass for FuseProjConv {
    fn name(&self) -> &'static str {
        "fuse-proj-conv"
    }

    fn makes(&self) -> Option<Op> {
        Some(Op::NormProjConv { eps: 0.0, bias: false, activation: jambac_graph::Activation::None })
    }

    fn run(&self, rewriter: &mut Rewriter) -> Changed {
        fuse_each(rewriter, find)
    }
}

fn find(graph: &Graph, conv: NodeId) -> Option<Fused> {
    let Op::CausalConv1d { bias, activation } = *graph.op(conv) else { return None };
    let of_conv = graph.operands(conv);
    let (u, after_u) = of_conv.split_first()?;
    let Op::NormSplitLinear { eps, ref sizes } = *graph.op(u.node) else { return None };
    let of_proj = graph.operands(u.node);
    let halves = sizes.len() == 2 && sizes[0] == sizes[1] && of_proj.len() == 4;
    let is_source = after_u.iter().all(|value| graph.op(value.node).is_source());
    if !graph.one_token || !halves || u.result != 1 || !has_one_reader(graph, *u) || !is_source {
        return None;
    }
    Some(Fused {
        place: conv,
        op: Op::NormProjConv { eps, bias, activation },
        operands: of_proj.iter().chain(after_u).copied().collect(),
        results: vec![graph.result(u.node, 0), graph.result(conv, 0), graph.result(u.node, 2), graph.result(conv, 1)],
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::testing::{check_graph, check_unchanged_graph};

    const PARAMETERS: &str = r#"
        %a = input "a" : f32[tokens, 4]
        %b = input "b" : f32[tokens, 4]
        %w = parameter "norm" : bf16[4]
        %p = parameter "in_proj" : bf16[6, 4]
        %k = parameter "conv1d.weight" : bf16[3, 1, 2]
        %h = state "conv" : f32[sequences, 3, 1]
    "#;
    const PROJ: &str = "%s, %u, %z = norm_split_linear %a, %b, %w, %p {eps = 1e-6, sizes = [3, 3]}
        : f32[tokens, 4], f32[tokens, 3], f32[tokens, 3]";
    const OUTPUTS: &str = "output \"sum\" = %s output \"y\" = %y output \"z\" = %z output \"conv\" = %t";

    fn conv(u: &str) -> String {
        format!(
            "%y, %t = causal_conv1d {u}, %k, %h {{bias = false, activation = silu}} : f32[tokens, 3], f32[sequences, 3, 1]"
        )
    }

    fn one_token(lines: &str) -> String {
        format!("graph @g one_token {{\n{PARAMETERS}\n{lines}\n{OUTPUTS}\n}}")
    }

    #[test]
    fn fuses() {
        check_graph(
            FuseProjConv,
            &one_token(&format!("{PROJ} {}", conv("%u"))),
            expect![[r#"
                - %6, %7, %8 = norm_split_linear %0, %1, %2, %3 {eps = 1e-6, sizes = [3, 3]} : f32[tokens, 4], f32[tokens, 3], f32[tokens, 3]
                - %9, %10 = causal_conv1d %7, %4, %5 {bias = false, activation = silu} : f32[tokens, 3], f32[sequences, 3, 1]
                + %6, %9, %8, %10 = norm_proj_conv %0, %1, %2, %3, %4, %5 {eps = 1e-6, bias = false, activation = silu} : f32[tokens, 4], f32[tokens, 3], f32[tokens, 3], f32[sequences, 3, 1]
            "#]],
        );
    }

    #[test]
    fn keeps_steps_of_many_tokens() {
        let graph = one_token(&format!("{PROJ} {}", conv("%u"))).replace(" one_token", "");
        check_unchanged_graph(FuseProjConv, &graph);
    }

    #[test]
    fn keeps_the_second_half() {
        check_unchanged_graph(FuseProjConv, &one_token(&format!("{PROJ} {} output \"u\" = %u", conv("%z"))));
    }

    #[test]
    fn keeps_what_others_read() {
        for other in ["output \"u\" = %u", "%o = silu %u : f32[tokens, 3] output \"o\" = %o"] {
            check_unchanged_graph(FuseProjConv, &one_token(&format!("{PROJ} {} {other}", conv("%u"))));
        }
    }

    #[test]
    fn keeps_unequal_parts_and_two_weights() {
        let proj = "%v = parameter \"v\" : bf16[7, 4]
            %s, %u, %z = norm_split_linear %a, %b, %w, %v {eps = 1e-6, sizes = [3, 4]}
            : f32[tokens, 4], f32[tokens, 3], f32[tokens, 4]";
        check_unchanged_graph(FuseProjConv, &one_token(&format!("{proj} {}", conv("%u"))));
        let proj = "%v = parameter \"v\" : bf16[3, 4]
            %s, %u, %z = norm_split_linear %a, %b, %w, %v, %v {eps = 1e-6, sizes = [3, 3]}
            : f32[tokens, 4], f32[tokens, 3], f32[tokens, 3]";
        check_unchanged_graph(FuseProjConv, &one_token(&format!("{proj} {}", conv("%u"))));
    }
}
