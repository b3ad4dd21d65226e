//! The pass trait, and the manager that runs the pipeline: it verifies, dumps, times, and can stop at any rewrite.

use std::time::{Duration, Instant};

use jambac_graph::verify::verify;
use jambac_graph::{Graph, Op};

use crate::fusion::Fusion;
use crate::rewrite::{Changed, Rewriter};
use crate::{Error, PIPELINE};

/// Graph → graph. A pass reads no clock, no environment, no device: the same graph gives the same graph.
pub trait Pass {
    /// The name in `--fusion`, in dumps and in errors.
    fn name(&self) -> &'static str;

    /// Whether [`Fusion`] switches the pass; otherwise it always runs.
    fn is_fusion(&self) -> bool {
        true
    }

    /// An op that only this pass makes; a target without a kernel for it must leave the pass out.
    fn makes(&self) -> Option<Op> {
        None
    }

    /// Rewrites the graph until nothing is left to do or the rewriter's limit is reached.
    fn run(&self, rewriter: &mut Rewriter) -> Changed;
}

/// Called after a pass with its name and its result.
type Dump<'a> = Box<dyn FnMut(&'static str, &Graph) + 'a>;

/// Runs passes on a graph, [`PIPELINE`] or a part of it.
pub struct PassManager<'a> {
    passes: Vec<&'static dyn Pass>,
    stop_after: Option<u64>,
    dump: Option<Dump<'a>>,
}

/// The work of the manager.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The passes that ran, in order.
    pub passes: Vec<PassReport>,
    /// The last rewrite of all, as `pass: op at source`.
    pub last_rewrite: Option<String>,
}

impl Report {
    /// Rewrites of all passes together.
    pub fn rewrites(&self) -> u64 {
        self.passes.iter().map(|pass| pass.rewrites).sum()
    }
}

/// The work of one pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassReport {
    pub name: &'static str,
    pub rewrites: u64,
    /// Without verification.
    pub time: Duration,
}

impl<'a> PassManager<'a> {
    /// A manager of the chosen fusions and of every pass that is not a fusion.
    pub fn new(fusion: &Fusion) -> PassManager<'a> {
        let passes = PIPELINE.iter().map(|planned| planned.pass);
        PassManager::of(passes.filter(|pass| !pass.is_fusion() || fusion.includes(pass.name())).collect())
    }

    /// A manager of these passes only.
    pub fn of(passes: Vec<&'static dyn Pass>) -> PassManager<'a> {
        PassManager { passes, stop_after: None, dump: None }
    }

    /// Stops after this number of rewrites over all passes, for bisection.
    pub fn stop_after(mut self, rewrites: u64) -> PassManager<'a> {
        self.stop_after = Some(rewrites);
        self
    }

    /// Calls `dump` after each pass with its name and its result.
    pub fn dump(mut self, dump: impl FnMut(&'static str, &Graph) + 'a) -> PassManager<'a> {
        self.dump = Some(Box::new(dump));
        self
    }

    /// Runs the pipeline, verifying the graph first and after every pass.
    ///
    /// # Errors
    /// An invalid graph, before the first pass or after one; the graph is left as the pass made it.
    pub fn run(&mut self, graph: &mut Graph) -> Result<Report, Error> {
        verify(graph).map_err(|error| Error::Before(error.into()))?;
        let mut report = Report::default();
        for pass in &self.passes {
            let left = self.stop_after.map(|limit| limit - report.rewrites());
            if left == Some(0) {
                break;
            }
            let mut rewriter = Rewriter::new(graph, left);
            let start = Instant::now();
            let Changed(rewrites) = pass.run(&mut rewriter);
            report.passes.push(PassReport { name: pass.name(), rewrites, time: start.elapsed() });
            let last = rewriter.last().map(|last| format!("{}: {last}", pass.name()));
            report.last_rewrite = last.or(report.last_rewrite);
            verify(graph).map_err(|error| Error::After {
                pass: pass.name(),
                last_rewrite: report.last_rewrite.clone().unwrap_or_else(|| "none".into()),
                error: error.into(),
            })?;
            if let Some(dump) = &mut self.dump {
                dump(pass.name(), graph);
            }
        }
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use jambac_graph::Op;
    use jambac_graph::text::{parse, print, read};

    use super::*;
    use crate::rewrite::rewrite_each;
    use crate::{FuseConvSilu, FuseSwiglu};

    /// Two silu · mul, one of them in the last layer; nothing else can be fused.
    fn graph() -> Graph {
        read(
            r#"graph @g {
                %0 = input "x" : f32[tokens, 4]
                %1 = silu %0 : f32[tokens, 4] loc "layers.0"
                %2 = mul %1, %0 : f32[tokens, 4] loc "layers.0"
                %3 = silu %2 : f32[tokens, 4] loc "layers.1"
                %4 = mul %3, %0 : f32[tokens, 4] loc "layers.1"
                %5 = softplus %0 : f32[tokens, 4]
                output "y" = %4
            }"#,
        )
        .unwrap()
    }

    fn n_swiglu(graph: &Graph) -> usize {
        graph.order().into_iter().filter(|&node| *graph.op(node) == Op::Swiglu).count()
    }

    #[test]
    fn reports_every_pass_and_dumps_after_it() {
        let mut dumped = Vec::new();
        let mut graph = graph();
        let fusion = "fuse-swiglu,fuse-conv-silu".parse().unwrap();
        let mut manager = PassManager::new(&fusion).dump(|name, graph| dumped.push((name, n_swiglu(graph))));
        let report = manager.run(&mut graph).unwrap();
        drop(manager);
        assert_eq!(dumped, [("eliminate-dead", 0), ("fuse-conv-silu", 0), ("fuse-swiglu", 2)]);
        let rewrites: Vec<u64> = report.passes.iter().map(|pass| pass.rewrites).collect();
        assert_eq!((rewrites, report.rewrites()), (vec![1, 0, 2], 3));
        assert_eq!(report.last_rewrite.as_deref(), Some("fuse-swiglu: mul at layers.1"));
    }

    #[test]
    fn none_fuses_nothing_and_all_is_the_pipeline() {
        let mut unfused = graph();
        let report = PassManager::new(&Fusion::None).run(&mut unfused).unwrap();
        assert_eq!((n_swiglu(&unfused), report.passes.len()), (0, 1));
        let report = PassManager::new(&Fusion::All).run(&mut graph()).unwrap();
        let names: Vec<&str> = report.passes.iter().map(|pass| pass.name).collect();
        assert_eq!(names, PIPELINE.iter().map(|planned| planned.pass.name()).collect::<Vec<_>>());
    }

    #[test]
    fn stops_after_any_rewrite_and_says_what_it_was() {
        let stop = |rewrites| {
            let mut graph = graph();
            let report = PassManager::new(&Fusion::All).stop_after(rewrites).run(&mut graph).unwrap();
            assert_eq!(report.rewrites(), rewrites);
            (n_swiglu(&graph), report.last_rewrite)
        };
        assert_eq!(stop(0), (0, None));
        assert_eq!(stop(1), (0, Some("eliminate-dead: softplus".into())));
        assert_eq!(stop(2), (1, Some("fuse-swiglu: mul at layers.0".into())));
        assert_eq!(stop(3), (2, Some("fuse-swiglu: mul at layers.1".into())));
    }

    /// Breaks a graph: its logits have a row per token, not per output.
    struct Mislabel;

    impl Pass for Mislabel {
        fn name(&self) -> &'static str {
            "mislabel"
        }

        fn run(&self, rewriter: &mut Rewriter) -> Changed {
            rewrite_each(
                rewriter,
                |graph, node| (*graph.op(node) == Op::Silu && graph.outputs().len() == 1).then_some(node),
                |graph, node| graph.set_output("logits", graph.result(node, 0)),
            )
        }
    }

    #[test]
    fn a_pass_that_breaks_the_graph_is_named() {
        let mut graph = graph();
        let error = PassManager::of(vec![&FuseConvSilu, &Mislabel, &FuseSwiglu]).run(&mut graph).unwrap_err();
        expect![[r#"after pass mislabel, last rewrite mislabel: silu at layers.0: graph g, silu at layers.0: output "logits" is f32[tokens, 4], expected f32[outputs, vocab] (invariant 10, Outputs)"#]].assert_eq(&error.to_string());
    }

    #[test]
    fn a_broken_graph_is_refused() {
        let text = print(&graph()).replace("%1 = silu %0 : f32[tokens, 4]", "%1 = silu %0 : f32[tokens, 5]");
        let mut broken = parse(&text).unwrap();
        let error = PassManager::new(&Fusion::All).run(&mut broken).unwrap_err();
        expect!["before the first pass: graph g, silu at layers.0: results are f32[tokens, 5], inferred f32[tokens, 4] (invariant 3, Types)"].assert_eq(&error.to_string());
        assert_eq!(print(&broken), text);
    }
}
