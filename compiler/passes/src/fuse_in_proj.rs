//! fuse-in-proj: a projection stores its parts as separate values, without slices.
//!
//! ```text
//! %y = linear %x, %w
//! %u = slice %y {start = 0, len = 32}
//! %z = slice %y {start = 32, len = 32}   ⇒   %u, %z = split_linear %x, %w {sizes = [32, 32]}
//! ```
//!
//! Any order of the slices. Not if they overlap or leave a gap, %y has another reader, there are more of them than `split_linear` has
//! results, the linear has a bias, or its weight is computed or has another reader.

use jambac_graph::op::MAX_PARTS;
use jambac_graph::{Graph, NodeId, Op};

use crate::pass::Pass;
use crate::rewrite::{Changed, Fused, Rewriter, covers, fuse_each, plain_linear};

pub struct FuseInProj;

impl Pass for FuseInProj {
    fn name(&self) -> &'static str {
        "fuse-in-proj"
    }

    fn run(&self, rewriter: &mut Rewriter) -> Changed {
        fuse_each(rewriter, find)
    }
}

fn find(graph: &Graph, linear: NodeId) -> Option<Fused> {
    if !matches!(graph.op(linear), Op::Linear { .. }) {
        return None;
    }
    let y = graph.result(linear, 0);
    let (x, weight) = plain_linear(graph, y)?;
    let users = graph.users(y);
    if graph.is_output(y) || !(2..=MAX_PARTS).contains(&users.len()) {
        return None;
    }
    let slices = users.into_iter().map(|(user, _)| match *graph.op(user) {
        Op::Slice { start, len } => Some((start, len, user)),
        _ => None,
    });
    let mut slices = slices.collect::<Option<Vec<_>>>()?;
    slices.sort_unstable();
    covers(slices.iter().map(|&(start, len, _)| (start, len)), graph.ty(y)).then(|| Fused {
        place: linear,
        op: Op::SplitLinear { sizes: slices.iter().map(|&(_, len, _)| len).collect() },
        operands: vec![x, weight],
        results: slices.iter().map(|&(.., slice)| graph.result(slice, 0)).collect(),
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::testing::{check, check_unchanged};

    const PROJECTION: &str = r#"
        %x = input "x" : f32[tokens, 4]
        %w = parameter "in_proj" : bf16[8, 4]
    "#;

    #[test]
    fn fuses() {
        check(
            FuseInProj,
            &format!(
                "{PROJECTION}
                %y = linear %x, %w : f32[tokens, 8]
                %u = slice %y {{start = 0, len = 5}} : f32[tokens, 5]
                %z = slice %y {{start = 5, len = 3}} : f32[tokens, 3]
                output \"u\" = %u
                output \"z\" = %z"
            ),
            expect![[r#"
                - %2 = linear %0, %1 : f32[tokens, 8]
                - %3 = slice %2 {start = 0, len = 5} : f32[tokens, 5]
                - %4 = slice %2 {start = 5, len = 3} : f32[tokens, 3]
                + %3, %4 = split_linear %0, %1 {sizes = [5, 3]} : f32[tokens, 5], f32[tokens, 3]
            "#]],
        );
    }

    #[test]
    fn fuses_slices_in_any_order() {
        check(
            FuseInProj,
            &format!(
                "{PROJECTION}
                %y = linear %x, %w : f32[tokens, 8]
                %c = slice %y {{start = 5, len = 3}} : f32[tokens, 3]
                %a = slice %y {{start = 0, len = 1}} : f32[tokens, 1]
                %b = slice %y {{start = 1, len = 4}} : f32[tokens, 4]
                output \"a\" = %a
                output \"b\" = %b
                output \"c\" = %c"
            ),
            expect![[r#"
                - %2 = linear %0, %1 : f32[tokens, 8]
                - %3 = slice %2 {start = 5, len = 3} : f32[tokens, 3]
                - %4 = slice %2 {start = 0, len = 1} : f32[tokens, 1]
                - %5 = slice %2 {start = 1, len = 4} : f32[tokens, 4]
                + %4, %5, %3 = split_linear %0, %1 {sizes = [1, 4, 3]} : f32[tokens, 1], f32[tokens, 4], f32[tokens, 3]
            "#]],
        );
    }

    /// Slices (start, len) of an unfused projection, and further lines.
    fn check_kept(linear: &str, slices: &[(usize, usize)], besides: &str) {
        let slices = slices.iter().enumerate().map(|(n, (start, len))| {
            format!("%s{n} = slice %y {{start = {start}, len = {len}}} : f32[tokens, {len}] output \"s{n}\" = %s{n}\n")
        });
        let slices: String = slices.collect();
        check_unchanged(FuseInProj, &format!("{PROJECTION}\n{linear} : f32[tokens, 8]\n{slices}\n{besides}"));
    }

    #[test]
    fn keeps_slices_that_leave_columns_out_or_share_them() {
        for slices in
            [&[(0, 5), (5, 2)][..], &[(1, 4), (5, 3)], &[(0, 4), (5, 3)], &[(0, 6), (5, 3)], &[(0, 8), (0, 8)]]
        {
            check_kept("%y = linear %x, %w", slices, "");
        }
    }

    #[test]
    fn keeps_one_slice_and_too_many() {
        check_kept("%y = linear %x, %w", &[(0, 8)], "");
        check_kept("%y = linear %x, %w", &[(0, 1), (1, 1), (2, 1), (3, 1), (4, 4)], "");
    }

    #[test]
    fn keeps_what_others_read() {
        let halves = &[(0, 4), (4, 4)];
        check_kept("%y = linear %x, %w", halves, "output \"y\" = %y");
        check_kept("%y = linear %x, %w", halves, "%o = silu %y : f32[tokens, 8] output \"o\" = %o");
        check_kept("%y = linear %x, %w", halves, "%o = linear %x, %w : f32[tokens, 8] output \"o\" = %o");
    }

    #[test]
    fn keeps_a_bias_an_activation_and_a_computed_weight() {
        let halves = &[(0, 4), (4, 4)];
        check_kept("%b = parameter \"bias\" : f32[8] %y = linear %x, %w, %b", halves, "");
        check_kept("%y = linear %x, %w {activation = silu}", halves, "");
        check_kept("%v = input \"v\" : f32[8, 4] %s = silu %v : f32[8, 4] %y = linear %x, %s", halves, "");
    }
}
