//! eliminate-dead: remove nodes that no output depends on.
//!
//! ```text
//! %a = silu %x          ⇒   nothing, if %a has no reader
//! ```
//!
//! Inputs and parameters are removed too. States never are: the next value of a state is an output.

use jambac_graph::{Graph, NodeId};

use crate::pass::Pass;
use crate::rewrite::{Changed, Rewriter, is_dead, rewrite_each};

pub struct EliminateDead;

impl Pass for EliminateDead {
    fn name(&self) -> &'static str {
        "eliminate-dead"
    }

    fn is_fusion(&self) -> bool {
        false
    }

    fn run(&self, rewriter: &mut Rewriter) -> Changed {
        rewrite_each(rewriter, find, Graph::remove)
    }
}

fn find(graph: &Graph, node: NodeId) -> Option<NodeId> {
    is_dead(graph, node).then_some(node)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::testing::{check, check_unchanged};

    #[test]
    fn removes_chains_with_their_parameters() {
        check(
            EliminateDead,
            r#"
            %0 = input "x" : f32[tokens, 4]
            %1 = parameter "w" : f32[8, 4]
            %2 = input "rows" : i32[outputs]
            %3 = linear %0, %1 : f32[tokens, 8]
            %4 = silu %3 : f32[tokens, 8]
            %5 = softplus %0 : f32[tokens, 4]
            output "y" = %5
            "#,
            expect![[r#"
                - %1 = parameter "w" : f32[8, 4]
                - %2 = input "rows" : i32[outputs]
                - %3 = linear %0, %1 : f32[tokens, 8]
                - %4 = silu %3 : f32[tokens, 8]
            "#]],
        );
    }

    #[test]
    fn keeps_a_node_for_one_of_its_results() {
        check_unchanged(
            EliminateDead,
            r#"
            %0 = input "u" : f32[tokens, 4]
            %1 = parameter "w" : f32[4, 1, 3]
            %2 = state "conv" : f32[sequences, 4, 2]
            %3, %4 = causal_conv1d %0, %1, %2 {bias = false} : f32[tokens, 4], f32[sequences, 4, 2]
            output "conv" = %4
            "#,
        );
    }
}
