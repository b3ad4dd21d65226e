//! `jambac build --bisect`: the first rewrite of the passes after which a plan computes wrong logits.
//!
//! The logits of a plan on the CPU are compared with those of the interpreter on the graphs before any pass. A binary search over
//! the number of rewrites (prefill's first, then decode's) finds the first one after which they differ. Whether the interpreter
//! computes the same with the rewritten graphs tells a wrong pass from a wrong kernel.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use jamba_plan::format::{TargetKind, WeightFormat};
use jamba_plan::output::unfinished;
use jamba_runtime::{Engine, Feed, OpenOptions, Outputs};
use jambac_models::jamba;
use jambac_passes::{PassManager, Report};
use jambac_reference::compare::{self, Tolerance, compare};
use jambac_reference::{Batch, Interpreter, Parameters, State};

use crate::compile::{Entries, Phase, Progress, Request, Resume, build, graphs};
use crate::report::Ours;
use crate::source::Source;

/// Tokens of the prefill step, and of all steps; the rest is decoded one by one.
const PROMPT: usize = 12;
const TOKENS: usize = 16;

/// What the search found.
#[derive(Debug)]
pub enum Verdict {
    /// The plan with all rewrites agrees with the interpreter.
    Agrees { rewrites: u64 },
    /// The plan without any rewrite already differs: not a pass.
    Unoptimized { report: compare::Report, quantized: bool },
    /// A rewrite.
    Rewrite(Box<Finding>),
}

/// The first rewrite after which the logits differ.
#[derive(Debug)]
pub struct Finding {
    /// `prefill` or `decode`.
    pub entry: String,
    /// The number of the rewrite in that entry, from 1, as `jambac opt --bisect` counts.
    pub rewrite: u64,
    /// `pass: op at source`.
    pub place: String,
    /// The plan after the rewrite against the interpreter before any pass.
    pub report: compare::Report,
    /// Whether the interpreter's logits stay the same after the rewrite.
    pub graphs_agree: bool,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Agrees { rewrites } => {
                write!(f, "the plan agrees with the interpreter after all {rewrites} rewrites")
            }
            Verdict::Unoptimized { report, quantized } => {
                write!(f, "the plan differs before any rewrite, so no pass is at fault\n{report}\n")?;
                f.write_str(match quantized {
                    true => "The weights are quantized, which the interpreter does not do: bisect with --weights f32",
                    false => "Compare it with another target's plan: jambac compare A.plan B.plan",
                })
            }
            Verdict::Rewrite(finding) => finding.fmt(f),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { entry, rewrite, place, report, graphs_agree } = self;
        writeln!(f, "first wrong rewrite: {rewrite} of {entry}, {place}\n{report}")?;
        match graphs_agree {
            true => writeln!(f, "The rewritten graphs are right: look at the kernel of the new op and its schedule.")?,
            false => writeln!(f, "The interpreter differs on the rewritten graphs too: the pass is wrong.")?,
        }
        write!(
            f,
            "The graph before the passes: jambac build MODEL --emit graph. Its rewrites: jambac opt GRAPH --bisect {rewrite} --diff"
        )
    }
}

/// Searches for the rewrite. `manager` makes the pass manager of one run over one graph. The limits of the request are replaced by
/// small ones.
///
/// # Errors
/// A model without a target that this CPU runs, or without weights; a phase of a build that fails.
pub fn bisect(request: &Request, manager: &dyn Fn() -> PassManager<'static>, progress: &Progress) -> Result<Verdict> {
    let mut request = request.clone();
    let model = &mut request.model;
    model.build.targets.retain(|target| target.kind() == TargetKind::Cpu);
    if model.build.targets.is_empty() {
        bail!("--bisect: found no CPU target, expected one that this machine runs");
    }
    let limits = &mut model.limits;
    (limits.max_context, limits.max_sequences, limits.kv_tokens) = (64, 1, None);
    (limits.prefill_chunk, limits.max_outputs) = (TOKENS as u64, TOKENS as u64);
    // Its packed weights would differ from the interpreter's in any case.
    model.weights.calibrate = None;
    request.dump_dir = None;

    let checkpoint = request.model.open_checkpoint()?;
    let parameters = jamba::bind(&checkpoint)?;
    let source = Source::new(&parameters);
    let entries = graphs(&request.model, checkpoint.config(), &|name| parameters.dtype(name), TargetKind::Cpu)?;
    let tokens = tokens(checkpoint.config().vocab);
    let folder = unfinished::Entry::folder().context("a temporary folder for plans")?;
    let search = Search {
        expected: interpreted(&entries, &source, &tokens)?,
        entries,
        tokens,
        request: Request { output: folder.path().join("bisect.plan"), ..request },
        manager,
        progress,
    };

    let (_, [prefill, decode]) = search.rewritten(u64::MAX)?;
    let total = prefill.rewrites() + decode.rewrites();
    let unoptimized = search.plan_after(0)?;
    if !unoptimized.ok() {
        let weights = search.request.model.weights.clone();
        let is_integer = |format: Option<WeightFormat>| format.is_some_and(WeightFormat::is_integer);
        let quantized = is_integer(weights.default) || is_integer(weights.experts);
        return Ok(Verdict::Unoptimized { report: unoptimized, quantized });
    }
    let mut report = search.plan_after(total)?;
    if report.ok() {
        return Ok(Verdict::Agrees { rewrites: total });
    }
    let (mut good, mut bad) = (0, total);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        tracing::info!(middle, good, bad, "bisecting rewrites");
        let found = search.plan_after(middle)?;
        if found.ok() {
            good = middle;
        } else {
            (bad, report) = (middle, found);
        }
    }
    search.describe(bad, prefill.rewrites(), report).map(|finding| Verdict::Rewrite(Box::new(finding)))
}

struct Search<'a> {
    request: Request,
    /// Before any pass.
    entries: Entries,
    tokens: Vec<u32>,
    /// The interpreter's logits of every token, \[tokens, vocab\].
    expected: Vec<f32>,
    manager: &'a dyn Fn() -> PassManager<'static>,
    progress: &'a Progress,
}

impl Search<'_> {
    /// The graphs after `n` rewrites, prefill's before decode's.
    fn rewritten(&self, n: u64) -> Result<(Entries, [Report; 2])> {
        let mut entries = self.entries.clone();
        let prefill = (self.manager)().stop_after(n).run(&mut entries.prefill).ours("passes")?;
        let left = n.saturating_sub(prefill.rewrites());
        let decode = (self.manager)().stop_after(left).run(&mut entries.decode).ours("passes")?;
        Ok((entries, [prefill, decode]))
    }

    /// The logits of the plan after `n` rewrites against the expected ones.
    fn plan_after(&self, n: u64) -> Result<compare::Report> {
        let (entries, _) = self.rewritten(n)?;
        let from = Some(Resume { phase: Phase::Optimized, entries });
        let request = Request { from, ..self.request.clone() };
        build(&request, self.progress).with_context(|| format!("the plan after {n} rewrites"))?;
        let found = executed(&request.output, &self.tokens)?;
        Ok(compare(&found, &self.expected, Tolerance::logits(&self.expected)))
    }

    fn describe(&self, n: u64, of_prefill: u64, report: compare::Report) -> Result<Finding> {
        let (entries, [prefill, decode]) = self.rewritten(n)?;
        let (entry, rewrite, of_entry) =
            if n > of_prefill { ("decode", n - of_prefill, decode) } else { ("prefill", n, prefill) };
        let parameters_of = self.request.model.open_checkpoint()?;
        let parameters = jamba::bind(&parameters_of)?;
        let interpreted = interpreted(&entries, &Source::new(&parameters), &self.tokens)?;
        Ok(Finding {
            entry: entry.to_owned(),
            rewrite,
            place: of_entry.last_rewrite.unwrap_or_else(|| "no rewrite".into()),
            report,
            graphs_agree: compare(&interpreted, &self.expected, Tolerance::logits(&self.expected)).ok(),
        })
    }
}

/// Token ids that visit the vocabulary in large steps.
fn tokens(vocab: usize) -> Vec<u32> {
    (0..TOKENS).map(|i| ((i * 37 + 5) % vocab) as u32).collect()
}

/// The interpreter's logits of every token: a prefill step, then decode steps.
fn interpreted(entries: &Entries, parameters: &dyn Parameters, tokens: &[u32]) -> Result<Vec<f32>> {
    let mut state = State::new(1);
    let mut logits = Vec::new();
    let (prompt, rest) = tokens.split_at(PROMPT);
    let prefill = Interpreter::new(&entries.prefill, parameters).ours("interpreter")?;
    let decode = Interpreter::new(&entries.decode, parameters).ours("interpreter")?;
    let steps = std::iter::once((&prefill, prompt)).chain(rest.chunks(1).map(|token| (&decode, token)));
    for (interpreter, tokens) in steps {
        let outputs = interpreter.run(&Batch::one(tokens), &mut state).ours("interpreter")?;
        let rows = outputs.get("logits").and_then(|rows| rows.as_f32()).context("the graph has no logits")?;
        logits.extend_from_slice(rows);
    }
    Ok(logits)
}

/// The plan's logits of every token, in the same steps.
fn executed(plan: &Path, tokens: &[u32]) -> Result<Vec<f32>> {
    let mut engine = Engine::open(plan, OpenOptions::default())?;
    let sequence = engine.add_sequence()?;
    let mut logits = Vec::new();
    let (prompt, rest) = tokens.split_at(PROMPT);
    for tokens in std::iter::once(prompt).chain(rest.chunks(1)) {
        let rows = engine.step(&[Feed { sequence, tokens, outputs: Outputs::All }])?;
        rows.rows().for_each(|row| logits.extend_from_slice(row));
    }
    Ok(logits)
}

#[cfg(test)]
mod tests {
    use jambac_graph::{Graph, NodeId, Op};
    use jambac_models::tiny::Tiny;
    use jambac_passes::{Changed, EliminateDead, FuseQkv, FuseResidualNorm, Fusion, Pass, Rewriter, rewrite_each};

    use super::*;
    use crate::manifest::ModelFile;

    fn request(folder: &Path) -> Request {
        let checkpoint = folder.join("tiny");
        Tiny { layers: 2, attention: (2, 1), ..Tiny::odd() }.write(&checkpoint, 3).unwrap();
        Request::new(ModelFile::open(&checkpoint).unwrap(), folder.join("unused.plan"))
    }

    /// Replaces the softplus of the last Mamba layer by a silu.
    struct WrongActivation;

    impl Pass for WrongActivation {
        fn name(&self) -> &'static str {
            "wrong-activation"
        }

        fn run(&self, rewriter: &mut Rewriter) -> Changed {
            let find = |graph: &Graph, node: NodeId| (*graph.op(node) == Op::Softplus).then_some(node);
            rewrite_each(rewriter, find, |graph, node| graph.set_op(node, Op::Silu).expect("ops of the same type"))
        }
    }

    #[test]
    fn the_pass_and_the_rewrite_that_break_a_plan_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let passes: [&'static dyn Pass; 4] = [&EliminateDead, &FuseQkv, &WrongActivation, &FuseResidualNorm];
        let manager = || PassManager::of(passes.to_vec());
        let request = request(folder.path());
        let verdict = bisect(&request, &manager, &Progress::hidden()).unwrap();
        let Verdict::Rewrite(finding) = verdict else { panic!("{verdict}") };
        // One fuse-qkv of the one attention layer, then the softplus of the one Mamba layer.
        assert_eq!((finding.entry.as_str(), finding.rewrite), ("prefill", 2), "{finding}");
        assert!(finding.place.starts_with("wrong-activation: softplus at layers."), "{finding}");
        assert!(!finding.graphs_agree, "{finding}");
        assert!(finding.to_string().contains("the pass is wrong"));
    }

    #[test]
    fn the_pipeline_agrees_with_the_interpreter() {
        let folder = tempfile::tempdir().unwrap();
        let manager = || PassManager::new(&Fusion::All);
        let request = request(folder.path());
        let verdict = bisect(&request, &manager, &Progress::hidden()).unwrap();
        assert!(matches!(verdict, Verdict::Agrees { rewrites } if rewrites > 10), "{verdict}");
        // Quantized weights are not the interpreter's.
        let mut quantized = request;
        quantized.model.weights.default = Some(WeightFormat::Int4);
        let verdict = bisect(&quantized, &manager, &Progress::hidden()).unwrap();
        assert!(matches!(verdict, Verdict::Unoptimized { quantized: true, .. }), "{verdict}");
        assert!(verdict.to_string().ends_with("bisect with --weights f32"));
    }
}
