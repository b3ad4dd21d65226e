//! fuse-qkv: fuse the projections of attention, which then read x once.
//!
//! ```text
//! %q = linear %x, %wq
//! %k = linear %x, %wk
//! %v = linear %x, %wv           ⇒   %q, %k, %v = split_linear %x, %wq, %wk, %wv {sizes = […]}
//! %c = kv_append %state, %k, %v
//! %y = attention %q, %c
//! ```
//!
//! Keys and values may be narrower than queries, and the projections may have more readers. Not if they are of several values, one of
//! them has a bias, or the weights differ in type (they are stored together), are computed, or have another reader.

use jambac_graph::{Graph, NodeId, Op};

use crate::pass::Pass;
use crate::rewrite::{Changed, Fused, Rewriter, fuse_each, plain_linear};

pub struct FuseQkv;

impl Pass for FuseQkv {
    fn name(&self) -> &'static str {
        "fuse-qkv"
    }

    fn run(&self, rewriter: &mut Rewriter) -> Changed {
        fuse_each(rewriter, find)
    }
}

fn find(graph: &Graph, attention: NodeId) -> Option<Fused> {
    if !matches!(graph.op(attention), Op::Attention { .. }) {
        return None;
    }
    let operands = graph.operands(attention);
    let (q, append) = (operands[0], operands[1].node);
    if *graph.op(append) != Op::KvAppend {
        return None;
    }
    let appended = graph.operands(append);
    let projections = [q, appended[1], appended[2]];
    let [(x, wq), (xk, wk), (xv, wv)] = [
        plain_linear(graph, projections[0])?,
        plain_linear(graph, projections[1])?,
        plain_linear(graph, projections[2])?,
    ];
    let stored = [wq, wk, wv].map(|weight| graph.ty(weight).dtype);
    // The same projection twice has the same weight twice.
    let distinct = wq != wk && wq != wv && wk != wv;
    if xk != x || xv != x || !distinct || stored.iter().any(|&dtype| dtype != stored[0]) {
        return None;
    }
    let sizes = projections.iter().map(|&value| graph.ty(value).cols()).collect::<Option<Vec<_>>>()?;
    Some(Fused {
        place: q.node,
        op: Op::SplitLinear { sizes },
        operands: vec![x, wq, wk, wv],
        results: projections.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::testing::{check, check_unchanged};

    /// Attention of four query heads over two KV heads, after the projections.
    fn attention(projections: &str) -> String {
        format!(
            r#"
            %x = input "x" : f32[tokens, 8]
            %other = input "other" : f32[tokens, 8]
            %wq = parameter "q_proj" : bf16[12, 8]
            %wk = parameter "k_proj" : bf16[6, 8]
            %wv = parameter "v_proj" : bf16[6, 8]
            %state = state "kv" : f32[sequences, context, 2, 2, 3]
            {projections}
            %cache = kv_append %state, %k, %v : f32[sequences, context, 2, 2, 3]
            %y = attention %q, %cache {{n_heads = 4, scale = 0.5}} : f32[tokens, 12]
            output "kv" = %cache
            output "y" = %y"#
        )
    }

    const PLAIN: &str = "%q = linear %x, %wq : f32[tokens, 12]
                         %k = linear %x, %wk : f32[tokens, 6]
                         %v = linear %x, %wv : f32[tokens, 6]";

    #[test]
    fn fuses() {
        check(
            FuseQkv,
            &attention(PLAIN),
            expect![[r#"
            - %6 = linear %0, %2 : f32[tokens, 12]
            - %7 = linear %0, %3 : f32[tokens, 6]
            - %8 = linear %0, %4 : f32[tokens, 6]
            + %6, %7, %8 = split_linear %0, %2, %3, %4 {sizes = [12, 6, 6]} : f32[tokens, 12], f32[tokens, 6], f32[tokens, 6]
        "#]],
        );
    }

    #[test]
    fn fuses_what_others_read_too() {
        let read = format!("{PLAIN}\n%o = silu %k : f32[tokens, 6] output \"o\" = %o output \"q\" = %q");
        check(
            FuseQkv,
            &attention(&read),
            expect![[r#"
            - %6 = linear %0, %2 : f32[tokens, 12]
            - %7 = linear %0, %3 : f32[tokens, 6]
            - %8 = linear %0, %4 : f32[tokens, 6]
            + %6, %7, %8 = split_linear %0, %2, %3, %4 {sizes = [12, 6, 6]} : f32[tokens, 12], f32[tokens, 6], f32[tokens, 6]
        "#]],
        );
    }

    #[test]
    fn keeps_projections_of_several_values() {
        for name in ["q", "k", "v"] {
            let from = format!("%{name} = linear %x");
            check_unchanged(FuseQkv, &attention(&PLAIN.replace(&from, &format!("%{name} = linear %other"))));
        }
    }

    #[test]
    fn keeps_a_bias_and_an_activation() {
        let biased = PLAIN.replace("%x, %wk", "%x, %wk, %b");
        check_unchanged(FuseQkv, &attention(&format!("%b = parameter \"bias\" : f32[6] {biased}")));
        check_unchanged(FuseQkv, &attention(&PLAIN.replace("%wv :", "%wv {activation = silu} :")));
    }

    #[test]
    fn keeps_weights_of_several_types() {
        check_unchanged(FuseQkv, &attention(PLAIN).replace("bf16[12, 8]", "f32[12, 8]"));
    }

    #[test]
    fn keeps_weights_with_other_readers() {
        let tied = format!("{PLAIN}\n%o = linear %other, %wv : f32[tokens, 6] output \"o\" = %o");
        check_unchanged(FuseQkv, &attention(&tied));
        check_unchanged(FuseQkv, &attention(&PLAIN.replace("%wv", "%wk")));
    }

    #[test]
    fn keeps_one_projection_in_two_places() {
        check_unchanged(FuseQkv, &attention(PLAIN).replace("%state, %k, %v", "%state, %k, %k"));
    }
}
