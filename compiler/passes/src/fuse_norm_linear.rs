//! fuse-norm-linear: the product that reads a norm computes it, in steps of one token of each sequence.
//!
//! ```text
//! %s, %n = add_rms_norm %a, %b, %w
//! %y = linear_swiglu %n, %g, %u          ⇒   %s, %y = norm_linear_swiglu %a, %b, %w, %g, %u
//! ```
//!
//! A `split_linear` likewise. One row's norm is a step of one thread for which the others wait; inside the product each thread
//! computes it for itself. Not if a step may take many tokens: the threads would norm as many rows each. Not if %n has another reader,
//! or a weight of the product is computed: it could depend on %s.

use jambac_graph::{Graph, NodeId, Op};

use crate::pass::Pass;
use crate::rewrite::{Changed, Fused, Rewriter, fuse_each, has_one_reader};

pub struct FuseNormLinear;

impl Pass for FuseNormLinear {
    fn name(&self) -> &'static str {
        "fuse-norm-linear"
    }

    fn makes(&self) -> Option<Op> {
        Some(Op::NormLinearSwiglu { eps: 0.0 })
    }

    fn run(&self, rewriter: &mut Rewriter) -> Changed {
        fuse_each(rewriter, find)
    }
}

fn find(graph: &Graph, product: NodeId) -> Option<Fused> {
    if !graph.one_token || !matches!(graph.op(product), Op::SplitLinear { .. } | Op::LinearSwiglu) {
        return None;
    }
    let mut operands = graph.operands(product);
    let normed = operands.remove(0);
    let norm = normed.node;
    let Op::AddRmsNorm { eps } = *graph.op(norm) else { return None };
    let is_source = operands.iter().all(|weight| graph.op(weight.node).is_source());
    if normed.result != 1 || !has_one_reader(graph, normed) || !is_source {
        return None;
    }
    let op = match graph.op(product) {
        Op::SplitLinear { sizes } => Op::NormSplitLinear { eps, sizes: sizes.clone() },
        _ => Op::NormLinearSwiglu { eps },
    };
    let n_results = graph.node(product).results.len();
    let results = (0..n_results).map(|result| graph.result(product, result));
    Some(Fused {
        place: product,
        op,
        operands: graph.operands(norm).into_iter().chain(operands).collect(),
        results: [graph.result(norm, 0)].into_iter().chain(results).collect(),
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::testing::{check_graph, check_unchanged, check_unchanged_graph};

    const NORM: &str = r#"
        %a = input "a" : f32[tokens, 4]
        %b = input "b" : f32[tokens, 4]
        %w = parameter "norm" : bf16[4]
        %g = parameter "gate_proj" : bf16[8, 4]
        %u = parameter "up_proj" : bf16[8, 4]
        %s, %n = add_rms_norm %a, %b, %w {eps = 1e-6} : f32[tokens, 4], f32[tokens, 4]
        output "sum" = %s
    "#;
    const SWIGLU: &str = "%y = linear_swiglu %n, %g, %u : f32[tokens, 8] output \"y\" = %y";

    fn one_token(lines: &str) -> String {
        format!("graph @g one_token {{\n{NORM}\n{lines}\n}}")
    }

    #[test]
    fn fuses_a_swiglu() {
        check_graph(
            FuseNormLinear,
            &one_token(SWIGLU),
            expect![[r#"
                - %5, %6 = add_rms_norm %0, %1, %2 {eps = 1e-6} : f32[tokens, 4], f32[tokens, 4]
                - %7 = linear_swiglu %6, %3, %4 : f32[tokens, 8]
                + %5, %7 = norm_linear_swiglu %0, %1, %2, %3, %4 {eps = 1e-6} : f32[tokens, 4], f32[tokens, 8]
            "#]],
        );
    }

    #[test]
    fn fuses_parts() {
        check_graph(
            FuseNormLinear,
            &one_token(
                "%y, %z = split_linear %n, %g, %u {sizes = [8, 8]} : f32[tokens, 8], f32[tokens, 8]
                 output \"y\" = %y
                 output \"z\" = %z",
            ),
            expect![[r#"
                - %5, %6 = add_rms_norm %0, %1, %2 {eps = 1e-6} : f32[tokens, 4], f32[tokens, 4]
                - %7, %8 = split_linear %6, %3, %4 {sizes = [8, 8]} : f32[tokens, 8], f32[tokens, 8]
                + %5, %7, %8 = norm_split_linear %0, %1, %2, %3, %4 {eps = 1e-6, sizes = [8, 8]} : f32[tokens, 4], f32[tokens, 8], f32[tokens, 8]
            "#]],
        );
    }

    #[test]
    fn keeps_steps_of_many_tokens() {
        check_unchanged(FuseNormLinear, &format!("{NORM} {SWIGLU}"));
    }

    #[test]
    fn keeps_what_others_read() {
        for other in ["output \"n\" = %n", "%o = silu %n : f32[tokens, 4] output \"o\" = %o"] {
            check_unchanged_graph(FuseNormLinear, &one_token(&format!("{SWIGLU} {other}")));
        }
    }

    #[test]
    fn keeps_a_product_of_the_sum() {
        let product = "%y = linear_swiglu %s, %g, %u : f32[tokens, 8] output \"y\" = %y output \"n\" = %n";
        check_unchanged_graph(FuseNormLinear, &one_token(product));
    }

    #[test]
    fn keeps_a_computed_weight() {
        let lines = "%v = input \"v\" : f32[8, 4] %c = silu %v : f32[8, 4]
            %y = split_linear %n, %c {sizes = [8]} : f32[tokens, 8] output \"y\" = %y";
        check_unchanged_graph(FuseNormLinear, &one_token(lines));
    }
}
