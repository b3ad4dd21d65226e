//! fuse-dt-norms: fuse the norms of parts of a row into one op, which reads the row once.
//!
//! ```text
//! %0 = slice %x {start = 0, len = R}
//! %1 = slice %x {start = R, len = N}
//! %2 = slice %x {start = R + N, len = N}
//! %dt = rms_norm %0, %v
//! %b = rms_norm %1, %w
//! %c = rms_norm %2, %w'         ⇒   %dt, %b, %c = split_rms_norm %x, %v, %w, %w'
//! ```
//!
//! Any 2 to 4 parts. Not if %x or a part has another reader, the parts overlap or leave a gap, the norms differ in eps, or the weight
//! of a norm is computed: it could depend on another part.

use jambac_graph::op::MAX_PARTS;
use jambac_graph::{Graph, NodeId, Op, ValueId};

use crate::pass::Pass;
use crate::rewrite::{Changed, Fused, Rewriter, covers, fuse_each, has_one_reader};

pub struct FuseDtNorms;

impl Pass for FuseDtNorms {
    fn name(&self) -> &'static str {
        "fuse-dt-norms"
    }

    fn run(&self, rewriter: &mut Rewriter) -> Changed {
        fuse_each(rewriter, find)
    }
}

/// Some columns and their norm.
struct Part {
    start: usize,
    len: usize,
    norm: NodeId,
    eps: f64,
    weight: ValueId,
}

fn find(graph: &Graph, slice: NodeId) -> Option<Fused> {
    let Op::Slice { start: 0, .. } = *graph.op(slice) else { return None };
    let x = graph.operands(slice)[0];
    let users = graph.users(x);
    if graph.is_output(x) || graph.ty(x).shape.len() != 2 || !(2..=MAX_PARTS).contains(&users.len()) {
        return None;
    }
    let mut parts = users.iter().map(|&(slice, _)| part(graph, slice)).collect::<Option<Vec<_>>>()?;
    parts.sort_by_key(|part| part.start);
    let eps = parts[0].eps;
    let columns = parts.iter().map(|part| (part.start, part.len));
    if parts.iter().any(|part| part.eps != eps) || !covers(columns, graph.ty(x)) {
        return None;
    }
    Some(Fused {
        place: parts[0].norm,
        op: Op::SplitRmsNorm { eps },
        operands: [x].into_iter().chain(parts.iter().map(|part| part.weight)).collect(),
        results: parts.iter().map(|part| graph.result(part.norm, 0)).collect(),
    })
}

fn part(graph: &Graph, slice: NodeId) -> Option<Part> {
    let Op::Slice { start, len } = *graph.op(slice) else { return None };
    let columns = graph.result(slice, 0);
    let (norm, operand) = *graph.users(columns).first()?;
    let Op::RmsNorm { eps } = *graph.op(norm) else { return None };
    let weight = graph.operands(norm)[1];
    let fits = operand == 0 && has_one_reader(graph, columns) && graph.op(weight.node).is_source();
    fits.then_some(Part { start, len, norm, eps, weight })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::testing::{check, check_unchanged};

    const X: &str = r#"
        %x = input "x" : f32[tokens, 7]
        %v = parameter "dt_layernorm" : bf16[3]
        %w = parameter "b_layernorm" : bf16[2]
        output "dt" = %dt
        output "b" = %b
        output "c" = %c
    "#;

    #[test]
    fn fuses() {
        check(
            FuseDtNorms,
            &format!(
                "{X}
                %0 = slice %x {{start = 0, len = 3}} : f32[tokens, 3]
                %1 = slice %x {{start = 3, len = 2}} : f32[tokens, 2]
                %2 = slice %x {{start = 5, len = 2}} : f32[tokens, 2]
                %dt = rms_norm %0, %v {{eps = 1e-6}} : f32[tokens, 3]
                %b = rms_norm %1, %w {{eps = 1e-6}} : f32[tokens, 2]
                %c = rms_norm %2, %w {{eps = 1e-6}} : f32[tokens, 2]"
            ),
            expect![[r#"
                - %3 = slice %0 {start = 0, len = 3} : f32[tokens, 3]
                - %4 = slice %0 {start = 3, len = 2} : f32[tokens, 2]
                - %5 = slice %0 {start = 5, len = 2} : f32[tokens, 2]
                - %6 = rms_norm %3, %1 {eps = 1e-6} : f32[tokens, 3]
                - %7 = rms_norm %4, %2 {eps = 1e-6} : f32[tokens, 2]
                - %8 = rms_norm %5, %2 {eps = 1e-6} : f32[tokens, 2]
                + %6, %7, %8 = split_rms_norm %0, %1, %2, %2 {eps = 1e-6} : f32[tokens, 3], f32[tokens, 2], f32[tokens, 2]
            "#]],
        );
    }

    #[test]
    fn fuses_parts_written_in_any_order() {
        check(
            FuseDtNorms,
            r#"
            %x = input "x" : f32[tokens, 5]
            %v = parameter "v" : bf16[3]
            %w = parameter "w" : bf16[2]
            %1 = slice %x {start = 3, len = 2} : f32[tokens, 2]
            %b = rms_norm %1, %w {eps = 1e-6} : f32[tokens, 2]
            %0 = slice %x {start = 0, len = 3} : f32[tokens, 3]
            %a = rms_norm %0, %v {eps = 1e-6} : f32[tokens, 3]
            output "a" = %a
            output "b" = %b
            "#,
            expect![[r#"
                - %3 = slice %0 {start = 3, len = 2} : f32[tokens, 2]
                - %4 = rms_norm %3, %2 {eps = 1e-6} : f32[tokens, 2]
                - %5 = slice %0 {start = 0, len = 3} : f32[tokens, 3]
                - %6 = rms_norm %5, %1 {eps = 1e-6} : f32[tokens, 3]
                + %6, %4 = split_rms_norm %0, %1, %2 {eps = 1e-6} : f32[tokens, 3], f32[tokens, 2]
            "#]],
        );
    }

    /// The three parts with something of their own: starts and lengths, the eps of the last, a reader more.
    fn unchanged(slices: [(usize, usize); 3], eps: &str, more: &str) {
        let [(start_0, len_0), (start_1, len_1), (start_2, len_2)] = slices;
        check_unchanged(
            FuseDtNorms,
            &format!(
                "{X}
                %0 = slice %x {{start = {start_0}, len = {len_0}}} : f32[tokens, 3]
                %1 = slice %x {{start = {start_1}, len = {len_1}}} : f32[tokens, 2]
                %2 = slice %x {{start = {start_2}, len = {len_2}}} : f32[tokens, 2]
                %dt = rms_norm %0, %v {{eps = 1e-6}} : f32[tokens, 3]
                %b = rms_norm %1, %w {{eps = 1e-6}} : f32[tokens, 2]
                %c = rms_norm %2, %w {{eps = {eps}}} : f32[tokens, 2]
                {more}"
            ),
        );
    }

    #[test]
    fn keeps_parts_that_leave_out_a_column_or_share_one() {
        unchanged([(0, 3), (3, 2), (4, 2)], "1e-6", "");
        unchanged([(0, 3), (2, 2), (5, 2)], "1e-6", "");
        unchanged([(1, 3), (3, 2), (5, 2)], "1e-6", "");
    }

    #[test]
    fn keeps_norms_of_another_eps() {
        unchanged([(0, 3), (3, 2), (5, 2)], "1e-5", "");
    }

    #[test]
    fn keeps_what_others_read() {
        let parts = [(0, 3), (3, 2), (5, 2)];
        unchanged(parts, "1e-6", "%y = silu %x : f32[tokens, 7] output \"y\" = %y");
        unchanged(parts, "1e-6", "output \"y\" = %x");
        unchanged(parts, "1e-6", "%y = silu %1 : f32[tokens, 2] output \"y\" = %y");
        unchanged(parts, "1e-6", "output \"y\" = %2");
    }

    #[test]
    fn keeps_a_computed_weight() {
        check_unchanged(
            FuseDtNorms,
            r#"
            %x = input "x" : f32[2, 4]
            %w = parameter "w" : f32[2]
            %0 = slice %x {start = 0, len = 2} : f32[2, 2]
            %1 = slice %x {start = 2, len = 2} : f32[2, 2]
            %2 = silu %w : f32[2]
            %a = rms_norm %0, %w {eps = 1e-6} : f32[2, 2]
            %b = rms_norm %1, %2 {eps = 1e-6} : f32[2, 2]
            output "a" = %a
            output "b" = %b
            "#,
        );
    }
}
