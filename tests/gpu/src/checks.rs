//! Checks of a plan on a GPU against its CPU program: logits, greedy tokens, batches, graphs, moved state; and token picking on
//! the device against picking on the host.
//!
//! Each check opens its own engines. It fails when bits differ that must be equal, or when logits differ by more than bf16
//! rounding explains. The tests run all checks on the simulator, `gpu-bench` runs them on a device.

mod picks;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use jamba_runtime::sample::greedy as likeliest;
use jamba_runtime::{DebugOptions, Engine, Feed, OpenOptions, Outputs, SequenceId, Snapshot};
pub use picks::{picks, requests};
use serde::Serialize;

/// Most sequences that the kernels for few rows decode together.
pub const FEW: usize = 8;

/// Opens the plan on a GPU.
pub type OnGpu<'a> = dyn Fn(OpenOptions<'_>) -> Result<Engine> + 'a;

/// The plan under check.
pub struct Subject<'a> {
    /// A plan with CPU and GPU programs, for at least [`FEW`] + 2 sequences.
    pub plan: &'a Path,
    /// Opens it on the GPU.
    pub on_gpu: &'a OnGpu<'a>,
    /// Token ids, at least 128.
    pub text: &'a [u32],
    /// Allowed difference from the CPU's logits.
    pub tolerance: Tolerance,
}

/// Allowed difference of logits when one side rounds weights and activations to bf16 (8 significant bits).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Largest difference of a logit within a row.
    pub of_a_row: f32,
    /// Fraction of rows that may exceed it: when two experts nearly tie, bf16 rounding can route the token to the other one.
    pub rows_beyond: f64,
}

/// Result of a check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// Name of the check.
    pub check: &'static str,
    /// Difference from the CPU's logits; `None` for a comparison of bits.
    pub difference: Option<Difference>,
    /// Further findings.
    pub note: String,
}

/// A check by name.
pub type Check = fn(&Subject<'_>) -> Result<Found>;

/// All checks.
pub const CHECKS: [(&str, Check); 7] = [
    ("chunks", chunks),
    ("greedy", greedy),
    ("ragged batch", ragged_batch),
    ("many sequences", many_sequences),
    ("graphs", graphs),
    ("moved state", moved_state),
    ("picks", picks),
];

impl Subject<'_> {
    fn gpu(&self) -> Result<Engine> {
        (self.on_gpu)(OpenOptions::default())
    }

    fn cpu(&self) -> Result<Engine> {
        Ok(Engine::open(self.plan, OpenOptions::default())?)
    }
}

/// Difference between two sets of logits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Median over rows of the row's largest difference.
    pub median: f32,
    /// Largest difference of all logits.
    pub largest: f32,
    /// Rows that exceed the tolerance.
    pub rows_beyond: usize,
    /// Rows compared.
    pub rows: usize,
}

impl Tolerance {
    /// Compares rows of logits.
    ///
    /// # Errors
    /// The difference exceeds the tolerance, or a logit is not finite.
    pub fn compare(&self, what: &str, found: &[Vec<f32>], expected: &[Vec<f32>]) -> Result<Difference> {
        ensure!(found.len() == expected.len() && !found.is_empty(), "{what}: {} rows of logits", found.len());
        ensure!(found.iter().flatten().all(|logit| logit.is_finite()), "{what}: not all logits are finite");
        let of_row = |(a, b): (&Vec<f32>, &Vec<f32>)| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let mut rows: Vec<f32> = found.iter().zip(expected).map(of_row).collect();
        rows.sort_by(f32::total_cmp);
        let difference = Difference {
            median: rows[rows.len() / 2],
            largest: rows[rows.len() - 1],
            rows_beyond: rows.iter().filter(|&&row| row > self.of_a_row).count(),
            rows: rows.len(),
        };
        let most = (self.rows_beyond * rows.len() as f64).ceil() as usize;
        ensure!(difference.rows_beyond <= most, "{what}: {difference:?}, allowed {self:?}");
        Ok(difference)
    }
}

/// Logits of every token of a new sequence, prefilled in steps of at most `chunk` tokens.
pub fn logits(engine: &mut Engine, tokens: &[u32], chunk: usize) -> Result<Vec<Vec<f32>>> {
    let sequence = engine.add_sequence()?;
    let mut rows = Vec::new();
    for tokens in tokens.chunks(chunk) {
        let logits = engine.step(&[Feed { sequence, tokens, outputs: Outputs::All }])?;
        rows.extend(logits.rows().map(<[f32]>::to_vec));
    }
    engine.remove_sequence(sequence)?;
    Ok(rows)
}

/// Prefills a new sequence; returns it with the logits of the last token.
fn begin(engine: &mut Engine, tokens: &[u32]) -> Result<(SequenceId, Vec<f32>)> {
    let sequence = engine.add_sequence()?;
    let mut last = Vec::new();
    for tokens in tokens.chunks(engine.max_step_tokens()) {
        last = engine.step(&[Feed { sequence, tokens, outputs: Outputs::Last }])?.row(0).to_vec();
    }
    Ok((sequence, last))
}

/// Feeds one token to each sequence and returns their logits.
fn next_of_all(engine: &mut Engine, sequences: &[SequenceId], tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
    let feeds: Vec<Feed> = (sequences.iter().zip(tokens))
        .map(|(&sequence, token)| Feed { sequence, tokens: std::slice::from_ref(token), outputs: Outputs::Last })
        .collect();
    Ok(engine.step(&feeds)?.rows().map(<[f32]>::to_vec).collect())
}

fn next(engine: &mut Engine, sequence: SequenceId, token: u32) -> Result<Vec<f32>> {
    let rows = next_of_all(engine, &[sequence], &[token])?;
    rows.into_iter().next().context("a step of one token has a row of logits")
}

/// Logits of the whole text match the CPU's, and are the same bits for any split into steps.
pub fn chunks(subject: &Subject<'_>) -> Result<Found> {
    let (mut gpu, mut cpu, text) = (subject.gpu()?, subject.cpu()?, subject.text);
    let most = gpu.max_step_outputs();
    let whole = logits(&mut gpu, text, most)?;
    let difference = subject.tolerance.compare("all tokens", &whole, &logits(&mut cpu, text, most)?)?;
    let (odd, short) = (most * 2 / 3 + 1, &text[..text.len().min(35)]);
    ensure!(logits(&mut gpu, text, odd)? == whole, "chunks of {odd} have other bits than chunks of {most}");
    ensure!(logits(&mut gpu, short, 5)? == whole[..short.len()], "chunks of 5 have other bits than chunks of {most}");
    Ok(Found {
        check: "chunks",
        difference: Some(difference),
        note: format!("{} tokens in chunks of {most}, {odd}, 5", text.len()),
    })
}

/// 64 greedy tokens after a prompt of 17: each is the CPU's choice, or ties with it within bf16 rounding.
pub fn greedy(subject: &Subject<'_>) -> Result<Found> {
    const TOKENS: usize = 64;
    let (mut gpu, mut cpu, prompt) = (subject.gpu()?, subject.cpu()?, &subject.text[..17]);
    let ((on_cpu, mut expected), (on_gpu, mut found)) = (begin(&mut cpu, prompt)?, begin(&mut gpu, prompt)?);
    let (mut all_found, mut all_expected, mut equal) = (Vec::new(), Vec::new(), 0);
    for _ in 0..TOKENS {
        let (token, other) = (likeliest(&expected)?, likeliest(&found)?);
        equal += usize::from(token == other);
        let margin = expected[token as usize] - expected[other as usize];
        ensure!(margin <= 2.0 * subject.tolerance.of_a_row, "token {other} in place of {token}, {margin} below it");
        all_found.push(found);
        all_expected.push(expected);
        (expected, found) = (next(&mut cpu, on_cpu, token)?, next(&mut gpu, on_gpu, token)?);
    }
    let difference = subject.tolerance.compare("greedy tokens", &all_found, &all_expected)?;
    Ok(Found {
        check: "greedy",
        difference: Some(difference),
        note: format!("{equal} of {TOKENS} tokens equal the CPU's"),
    })
}

/// Sequences of different lengths, prefilled in one step and decoded together, give the same bits as each alone.
pub fn ragged_batch(subject: &Subject<'_>) -> Result<Found> {
    let text = subject.text;
    let prompts = [&text[..70], &text[3..5], &text[40..57]];
    let (mut together, mut alone) = (subject.gpu()?, subject.gpu()?);
    let sequences: Vec<SequenceId> = prompts.iter().map(|_| together.add_sequence()).collect::<Result<_, _>>()?;
    let feeds: Vec<Feed> = (sequences.iter().zip(prompts))
        .map(|(&sequence, tokens)| Feed { sequence, tokens, outputs: Outputs::Last })
        .collect();
    let of_prompts: Vec<Vec<f32>> = together.step(&feeds)?.rows().map(<[f32]>::to_vec).collect();
    let mut decoded = vec![of_prompts];
    for _ in 0..3 {
        let tokens: Vec<u32> = decoded[decoded.len() - 1].iter().map(|row| likeliest(row)).collect::<Result<_, _>>()?;
        decoded.push(next_of_all(&mut together, &sequences, &tokens)?);
    }
    for (nth, prompt) in prompts.into_iter().enumerate() {
        let (sequence, mut row) = begin(&mut alone, prompt)?;
        for (step, rows) in decoded.iter().enumerate() {
            ensure!(row == rows[nth], "sequence {nth} has other bits in a batch, {step} tokens after its prompt");
            if step + 1 < decoded.len() {
                row = next(&mut alone, sequence, likeliest(&row)?)?;
            }
        }
    }
    Ok(Found { check: "ragged batch", difference: None, note: "70, 2 and 17 tokens, then 3 together".to_owned() })
}

/// More sequences than [`FEW`]: other kernels sum in another order, so logits are compared within the tolerance.
pub fn many_sequences(subject: &Subject<'_>) -> Result<Found> {
    let prompts: Vec<&[u32]> = (0..FEW + 2).map(|nth| &subject.text[nth..2 * nth + 3]).collect();
    let tokens = vec![7; prompts.len()];
    let decode = |engine: &mut Engine| {
        let begun = prompts.iter().map(|prompt| Ok(begin(engine, prompt)?.0)).collect::<Result<Vec<_>>>()?;
        let few = engine.snapshot(begun[0])?;
        let rows = next_of_all(engine, &begun, &tokens)?;
        for id in begun {
            engine.remove_sequence(id)?;
        }
        let again = engine.restore(&few)?;
        let row = next(engine, again, tokens[0])?;
        Ok::<_, anyhow::Error>((rows, row))
    };
    let (tiled, few) = decode(&mut subject.gpu()?)?;
    let (expected, _) = decode(&mut subject.cpu()?)?;
    let between = subject.tolerance.compare("few sequences against many", &[few], &tiled[..1])?;
    let difference = subject.tolerance.compare("many sequences", &tiled, &expected)?;
    let note = format!("{} sequences; {:.1e} from the kernels for {FEW}", prompts.len(), between.largest);
    Ok(Found { check: "many sequences", difference: Some(difference), note })
}

/// Replayed graphs give the same bits as separate launches.
pub fn graphs(subject: &Subject<'_>) -> Result<Found> {
    let run = |launch_each: bool| {
        let mut engine = (subject.on_gpu)(OpenOptions {
            debug: DebugOptions { launch_each, ..DebugOptions::default() },
            ..OpenOptions::default()
        })?;
        let (sequence, last) = begin(&mut engine, &subject.text[..17])?;
        let mut rows = vec![last];
        for _ in 0..6 {
            let token = likeliest(&rows[rows.len() - 1])?;
            rows.push(next(&mut engine, sequence, token)?);
        }
        Ok::<_, anyhow::Error>(rows)
    };
    ensure!(run(false)? == run(true)?, "graphs have other bits than launches one by one");
    Ok(Found { check: "graphs", difference: None, note: "17 tokens, then 6".to_owned() })
}

/// Forked, restored and rolled-back sequences continue with the same bits; the CPU refuses a GPU state.
pub fn moved_state(subject: &Subject<'_>) -> Result<Found> {
    let mut engine = subject.gpu()?;
    let (first, _) = begin(&mut engine, &subject.text[..45])?;
    let fork = engine.fork(first)?;
    let snapshot = engine.snapshot(first)?;
    engine.checkpoint(first)?;
    let expected = next(&mut engine, first, 9)?;
    next(&mut engine, first, 11)?;
    ensure!(next(&mut engine, fork, 9)? == expected, "a fork has other bits");
    engine.rollback(first, 2)?;
    ensure!(next(&mut engine, first, 9)? == expected, "a sequence that was rolled back has other bits");
    let path = std::env::temp_dir().join(format!("gpu-bench-{}.state", std::process::id()));
    let saved = snapshot.save(&path).map_err(anyhow::Error::from).and_then(|()| {
        let mut other = subject.gpu()?;
        let loaded = Snapshot::load(&path, &other)?;
        let restored = other.restore(&loaded)?;
        ensure!(next(&mut other, restored, 9)? == expected, "a state that was saved has other bits");
        let mut cpu = subject.cpu()?;
        let taken = Snapshot::load(&path, &cpu).and_then(|loaded| cpu.restore(&loaded));
        ensure!(taken.is_err(), "a CPU took a GPU's state, which lies otherwise");
        Ok(())
    });
    let removed = std::fs::remove_file(&path);
    saved?;
    removed.with_context(|| format!("removing {}", path.display()))?;
    Ok(Found { check: "moved state", difference: None, note: "fork, checkpoint, snapshot in a file".to_owned() })
}
