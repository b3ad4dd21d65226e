//! fuse-kv-append: fuse appending to the cache into attention, if each sequence has one token.
//!
//! ```text
//! %c = kv_append %cache, %k, %v
//! %y = attention %q, %c         ⇒   %y, %c = append_attention %q, %k, %v, %cache
//! ```
//!
//! Not if a step may take several tokens of a sequence: one token would read the keys that another appends. Not if a second attention
//! reads the cache.

use jambac_graph::{Graph, NodeId, Op};

use crate::pass::Pass;
use crate::rewrite::{Changed, Fused, Rewriter, fuse_each};

pub struct FuseKvAppend;

impl Pass for FuseKvAppend {
    fn name(&self) -> &'static str {
        "fuse-kv-append"
    }

    fn makes(&self) -> Option<Op> {
        Some(Op::AppendAttention { n_heads: 1, scale: 1.0 })
    }

    fn run(&self, rewriter: &mut Rewriter) -> Changed {
        fuse_each(rewriter, find)
    }
}

fn find(graph: &Graph, attention: NodeId) -> Option<Fused> {
    let Op::Attention { n_heads, scale } = *graph.op(attention) else { return None };
    let operands = graph.operands(attention);
    let (q, next) = (operands[0], operands[1]);
    if !graph.one_token || *graph.op(next.node) != Op::KvAppend || graph.users(next).len() != 1 {
        return None;
    }
    let append = graph.operands(next.node);
    let (cache, k, v) = (append[0], append[1], append[2]);
    Some(Fused {
        place: attention,
        op: Op::AppendAttention { n_heads, scale },
        operands: vec![q, k, v, cache],
        results: vec![graph.result(attention, 0), next],
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::testing::{check_graph, check_unchanged, check_unchanged_graph};

    const LINES: &str = r#"
        %0 = input "q" : f32[tokens, 4]
        %1 = input "k" : f32[tokens, 2]
        %2 = input "v" : f32[tokens, 2]
        %3 = state "kv" : f32[sequences, context, 2, 1, 2]
        %4 = kv_append %3, %1, %2 : f32[sequences, context, 2, 1, 2]
        %5 = attention %0, %4 {n_heads = 2, scale = 0.5} : f32[tokens, 4]
        output "kv" = %4
        output "y" = %5
    "#;

    #[test]
    fn fuses() {
        check_graph(
            FuseKvAppend,
            &format!("graph @g one_token {{\n{LINES}\n}}"),
            expect![[r#"
                - %4 = kv_append %3, %1, %2 : f32[sequences, context, 2, 1, 2]
                - %5 = attention %0, %4 {n_heads = 2, scale = 0.5} : f32[tokens, 4]
                + %5, %4 = append_attention %0, %1, %2, %3 {n_heads = 2, scale = 0.5} : f32[tokens, 4], f32[sequences, context, 2, 1, 2]
            "#]],
        );
    }

    #[test]
    fn keeps_steps_of_several_tokens() {
        check_unchanged(FuseKvAppend, LINES);
    }

    #[test]
    fn keeps_a_cache_that_two_read() {
        let second = "%6 = attention %0, %4 {n_heads = 2, scale = 0.25} : f32[tokens, 4]\noutput \"z\" = %6";
        check_unchanged_graph(FuseKvAppend, &format!("graph @g one_token {{\n{LINES}\n{second}\n}}"));
    }
}
