//! `jambac compare A.plan B.plan`: the first step whose output differs between two plans of a model, on the CPU.
//!
//! Both plans run the same tokens. Before each step the buffers that it writes are filled with a marker, so that afterwards the words
//! that the step wrote are known whatever the padding and the number of rows. Outputs of the two plans are aligned by layer (the
//! step's `source`), kernel without its weight format, name of the buffer and number of words written. Outputs without a partner, of
//! kernels that only one plan has, are skipped.

mod record;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use jamba_plan::format::EntryKind;
use jamba_program::tokens::Tokens;
use jamba_runtime::{Engine, Feed, OpenOptions, Outputs, SequenceId};
use jambac_reference::compare::{Report, Tolerance, compare, standard_deviation};

use crate::report::{check_plan, print};
use record::{Output, Recorder};

/// The options of `jambac compare`.
#[derive(Args)]
pub struct Compare {
    /// The plan to trust.
    a: PathBuf,
    /// The plan to compare with it.
    b: PathBuf,
    /// Token ids of the prompt: 1,2,3 or "1 2 3". Default: 16 ids drawn from --seed.
    #[arg(long, value_name = "IDS")]
    tokens: Option<Tokens>,
    /// Seed of the drawn ids.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Of the tokens, how many are decoded one by one; those before them are one prefill step.
    #[arg(long, value_name = "N", default_value_t = 4)]
    decode: usize,
    /// Allowed difference of a value, as a part of its magnitude and of the standard deviation of its buffer; 0: the same
    /// bits.
    #[arg(long, value_name = "T", default_value_t = 1e-4)]
    tolerance: f64,
}

/// Where and how much two outputs differ.
#[derive(Debug)]
pub struct Difference {
    /// `prefill` or `decode`.
    pub entry: &'static str,
    /// Index of the step in the entry of each plan, and the symbol of its kernel.
    pub steps: [(usize, String); 2],
    /// The step's place in the model: `layers.3.mamba`.
    pub source: String,
    /// The buffer: `out`.
    pub buffer: String,
    /// The largest |a − b| / |a| of finite, non-zero a.
    pub max_relative: f64,
    pub report: Report,
}

/// The outcome of a comparison.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Outputs that were compared.
    pub compared: usize,
    /// Outputs without a partner in the other plan, of both plans together.
    pub skipped: usize,
    /// The largest difference within the tolerance.
    pub largest_allowed: Option<Difference>,
    /// The first difference beyond the tolerance.
    pub first: Option<Difference>,
}

/// Runs the subcommand.
///
/// # Errors
/// A plan that cannot be opened on this CPU; plans of different vocabularies; plans that differ.
pub fn run(options: &Compare) -> Result<()> {
    let [mut a, mut b] = [open(&options.a)?, open(&options.b)?];
    let vocab = a.manifest().model.vocab;
    let other = b.manifest().model.vocab;
    ensure!(vocab == other, "{}: found a vocabulary of {other} tokens, expected {vocab}", options.b.display());
    let tokens = options.tokens.as_ref().map_or_else(|| drawn(options.seed, vocab), |Tokens(tokens)| tokens.clone());
    let comparison = compare_plans(&mut a, &mut b, &tokens, options.decode, options.tolerance)?;
    print(&comparison.to_string())?;
    match comparison.first {
        Some(first) => bail!("the plans differ, first in {} at {}", first.entry, first.source),
        None => Ok(()),
    }
}

fn open(path: &Path) -> Result<Engine> {
    check_plan(path)?;
    Engine::open(path, OpenOptions { threads: Some(1), ..OpenOptions::default() })
        .with_context(|| format!("opening {}", path.display()))
}

/// Sixteen token ids; splitmix64.
fn drawn(seed: u64, vocab: u64) -> Vec<u32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = state;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % vocab) as u32
    };
    (0..16).map(|_| next()).collect()
}

/// Runs both plans step by step until an output differs by more than the tolerance.
///
/// # Errors
/// Tokens that a plan does not take.
pub fn compare_plans(
    a: &mut Engine,
    b: &mut Engine,
    tokens: &[u32],
    n_decode: usize,
    tolerance: f64,
) -> Result<Comparison> {
    let n_prefill = tokens.len().saturating_sub(n_decode).max(1);
    let most = a.max_step_tokens().min(b.max_step_tokens());
    let (prompt, rest) = tokens.split_at(n_prefill.min(tokens.len()));
    let sequences = [a.add_sequence()?, b.add_sequence()?];
    let mut comparison = Comparison::default();
    for step in prompt.chunks(most).chain(rest.chunks(1)) {
        let outputs = [record(a, sequences[0], step)?, record(b, sequences[1], step)?];
        comparison.add(&outputs, tolerance);
        if comparison.first.is_some() {
            break;
        }
    }
    Ok(comparison)
}

fn record(engine: &mut Engine, sequence: SequenceId, tokens: &[u32]) -> Result<Vec<Output>> {
    let mut recorder = Recorder::new(engine.program().clone());
    engine.step_observed(&[Feed { sequence, tokens, outputs: Outputs::Last }], &mut recorder)?;
    Ok(recorder.outputs)
}

impl Comparison {
    /// Compares the outputs of one step of both engines, up to the first difference beyond the tolerance.
    fn add(&mut self, [a, b]: &[Vec<Output>; 2], tolerance: f64) {
        let [keys_a, keys_b] = [a, b].map(|outputs| outputs.iter().map(Output::key).collect::<Vec<_>>());
        let changes = similar::capture_diff_slices(similar::Algorithm::Myers, &keys_a, &keys_b);
        let aligned = changes.iter().flat_map(|change| match *change {
            similar::DiffOp::Equal { old_index, new_index, len } => {
                (0..len).map(|i| (old_index + i, new_index + i)).collect::<Vec<_>>()
            }
            _ => Vec::new(),
        });
        let mut n_aligned = 0;
        for (i, j) in aligned {
            n_aligned += 1;
            self.compared += 1;
            let difference = difference(&a[i], &b[j], tolerance);
            if !difference.report.ok() {
                self.first = Some(difference);
                return;
            }
            let larger = |other: &Difference| difference.report.max_abs > other.report.max_abs;
            if difference.report.max_abs > 0.0 && self.largest_allowed.as_ref().is_none_or(larger) {
                self.largest_allowed = Some(difference);
            }
        }
        self.skipped += a.len() + b.len() - 2 * n_aligned;
    }
}

fn difference(a: &Output, b: &Output, tolerance: f64) -> Difference {
    let (expected, found) = record::values(a, b);
    let allowed = match a.is_integer(b) || tolerance == 0.0 {
        true => Tolerance::EXACT,
        false => Tolerance { abs: tolerance * standard_deviation(&expected), rel: tolerance },
    };
    let relative = expected.iter().zip(&found).filter(|(a, _)| **a != 0.0 && a.is_finite());
    let relative = relative.map(|(&a, &b)| (f64::from(b) - f64::from(a)).abs() / f64::from(a).abs());
    Difference {
        entry: match a.entry {
            EntryKind::Prefill => "prefill",
            EntryKind::Decode => "decode",
        },
        steps: [a, b].map(|output| (output.step, output.symbol.clone())),
        source: a.source.clone(),
        buffer: a.buffer.clone(),
        max_relative: relative.fold(0.0, f64::max),
        report: compare(&found, &expected, allowed),
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Comparison { compared, skipped, largest_allowed, first } = self;
        writeln!(f, "{compared} outputs compared, {skipped} without a partner")?;
        if let Some(allowed) = largest_allowed {
            writeln!(f, "largest difference within the tolerance: {allowed}")?;
        }
        match first {
            Some(first) => writeln!(f, "first difference: {first}"),
            None => writeln!(f, "no difference{}", if largest_allowed.is_some() { " beyond it" } else { "" }),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { entry, steps: [a, b], source, buffer, max_relative, report } = self;
        writeln!(f, "{entry}, {buffer} at {source}")?;
        writeln!(f, "  A: step {}, {}\n  B: step {}, {}", a.0, a.1, b.0, b.1)?;
        write!(f, "  max relative {max_relative:.2e}, {}", report.to_string().replace('\n', "\n  "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(source: &str, op: &str, words: &[f32]) -> Output {
        Output {
            entry: EntryKind::Prefill,
            step: 0,
            symbol: format!("{op}_f32"),
            source: source.to_owned(),
            buffer: "out".to_owned(),
            words: words.iter().map(|word| word.to_bits()).collect(),
        }
    }

    fn compared(a: Vec<Output>, b: Vec<Output>, tolerance: f64) -> Comparison {
        let mut comparison = Comparison::default();
        comparison.add(&[a, b], tolerance);
        comparison
    }

    #[test]
    fn outputs_of_ops_that_both_plans_have_are_aligned() {
        let a = vec![
            output("layers.0", "rms_norm", &[1.0, 2.0]),
            output("layers.0", "linear", &[3.0, 4.0]),
            output("layers.0", "silu", &[5.0, 6.0]),
            output("layers.1", "linear", &[7.0, 8.0]),
        ];
        let mut b = vec![a[0].clone(), output("layers.0", "linear_silu", &[5.0, 6.0]), a[3].clone()];
        let same = compared(a.clone(), b.clone(), 0.0);
        assert_eq!((same.compared, same.skipped, same.first.is_none()), (2, 3, true), "{same}");
        b[2].words[1] = 8.5f32.to_bits();
        let other = compared(a, b, 1e-4);
        let first = other.first.as_ref().unwrap();
        assert_eq!((first.source.as_str(), first.report.first_bad.unwrap().index), ("layers.1", 1));
        assert_eq!((first.report.max_abs, first.max_relative), (0.5, 0.0625));
        assert!(other.to_string().contains("first difference: prefill, out at layers.1\n  A: step 0, linear_f32"));
    }

    #[test]
    fn kernels_of_other_formats_are_partners_and_fused_ones_are_not() {
        let named = |symbol: &str| vec![Output { symbol: symbol.to_owned(), ..output("layers.0", "", &[1.0]) }];
        assert_eq!(compared(named("linear_bf16_n8_k4"), named("linear_int8_n8_k4"), 0.0).compared, 1);
        assert_eq!(compared(named("causal_conv1d_c256_k4"), named("causal_conv1d_c256_k4_silu"), 0.0).compared, 0);
    }

    #[test]
    fn small_differences_are_allowed_unless_bits_are_asked_for() {
        let a = vec![output("layers.0", "linear", &[1.0, -1.0])];
        let b = vec![output("layers.0", "linear", &[1.00001, -1.0])];
        let allowed = compared(a.clone(), b.clone(), 1e-4);
        assert!(allowed.first.is_none() && allowed.largest_allowed.is_some(), "{allowed}");
        assert!(compared(a, b, 0.0).first.is_some());
        // Indices of experts are integers, whatever the tolerance.
        let experts = |second: i32| {
            let mut output = output("layers.1", "top_k", &[]);
            output.words = vec![3, second as u32];
            vec![output]
        };
        let other = compared(experts(1), experts(2), 0.5);
        assert_eq!(other.first.unwrap().report.first_bad.unwrap().found, 2.0);
    }

    #[test]
    fn tokens_are_drawn_from_a_seed() {
        assert_eq!(drawn(1, 100), drawn(1, 100));
        assert_ne!(drawn(1, 100), drawn(2, 100));
        assert!(drawn(3, 7).iter().all(|&id| id < 7));
    }
}
