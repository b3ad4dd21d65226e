//! A plan on a GPU against the same plan on the CPU: logits, greedy tokens, batches, graphs, state that moves; and against itself
//! where tokens are picked on the host.
//!
//! Each check opens engines of its own, and says what it found; it fails where bits differ that have to be the same, or numbers
//! by more than bf16 explains. Tests run all of them on a simulator, [`crate`]'s program on a device.

mod picks;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use jamba_runtime::sample::greedy as likeliest;
use jamba_runtime::{DebugOptions, Engine, Feed, OpenOptions, Outputs, SequenceId, Snapshot};
pub use picks::{picks, requests};
use serde::Serialize;

/// Sequences that the kernels for few rows decode together.
pub const FEW: usize = 8;

/// Opens the plan on a GPU.
pub type OnGpu<'a> = dyn Fn(OpenOptions<'_>) -> Result<Engine> + 'a;

/// What is checked.
pub struct Subject<'a> {
    /// The plan, with a program for each kind of target, for at least [`FEW`] + 2 sequences.
    pub plan: &'a Path,
    /// Opens it on the GPU.
    pub on_gpu: &'a OnGpu<'a>,
    /// A text of 128 tokens or more.
    pub text: &'a [u32],
    /// How far logits may be from the CPU's.
    pub tolerance: Tolerance,
}

/// How far logits may be from others: activations and weights are bf16, of eight bits, on the one side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Largest difference of a logit in most rows.
    pub of_a_row: f32,
    /// Share of rows that may be further off: where two experts are about as good, the rounding of a bf16 decides, and the
    /// token goes through other weights.
    pub rows_beyond: f64,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// What was compared.
    pub check: &'static str,
    /// How far logits are from the CPU's; None where bits were compared.
    pub difference: Option<Difference>,
    /// Anything else.
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

/// How far logits are from others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Median over the rows of the largest difference of a logit.
    pub median: f32,
    /// The largest of all.
    pub largest: f32,
    /// Rows beyond the tolerance.
    pub rows_beyond: usize,
    /// Rows.
    pub rows: usize,
}

impl Tolerance {
    /// How far rows of logits are from others.
    ///
    /// # Errors
    /// If that is further than allowed, or a logit is not a number.
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

/// Logits of every token of a sequence of its own, read in steps of at most `chunk` tokens.
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

/// A sequence that has read `tokens`, and the logits of the last one.
fn begin(engine: &mut Engine, tokens: &[u32]) -> Result<(SequenceId, Vec<f32>)> {
    let sequence = engine.add_sequence()?;
    let mut last = Vec::new();
    for tokens in tokens.chunks(engine.max_step_tokens()) {
        last = engine.step(&[Feed { sequence, tokens, outputs: Outputs::Last }])?.row(0).to_vec();
    }
    Ok((sequence, last))
}

/// One more token of each sequence, and its logits.
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

/// All of the text is the CPU's; the same bits however it is cut into steps.
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

/// 64 tokens after the first 17, each the CPU's choice or one that bf16 cannot tell from it.
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

/// Sequences of different lengths in one step, then decoded together, have the bits that each has alone.
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

/// More sequences than the kernels for few rows take: other sums, the same numbers.
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

/// Graphs that are replayed give the bits of launches one by one.
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

/// Forked, restored and rolled back sequences go on with the same bits; a CPU refuses a GPU's state.
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
