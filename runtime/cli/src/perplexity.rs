//! `jamba perplexity`: how well a model predicts a text, by llama.cpp's method.
//!
//! The tokens of the text are cut into chunks of the same length. Each chunk starts a new sequence, its first token replaced by
//! the start token if the model has one. The second half of each chunk is predicted; the first half is context only. The
//! perplexity is the exponential of the mean negative log probability of the predicted tokens. Texts of more than 8 MiB are encoded
//! in parts that end after lines.

use std::path::PathBuf;

use jamba_runtime::{AddedTokens, Engine, Feed, Outputs, Progress, RuntimeError, Unit};
use serde::Serialize;

use crate::failure::{Failure, NOT_FINITE, print, print_json};
use crate::generate::read_text;
use crate::open::{Bar, OpenArgs, PlanArg};

/// The length of a chunk, as llama.cpp's.
const CHUNK: u64 = 512;

/// Arguments of `jamba perplexity`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    plan: PlanArg,
    /// The text
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Tokens of a chunk [default: 512, or the plan's context if that is less]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(4..))]
    chunk: Option<u64>,
    /// Maximum number of chunks [default: all of the text]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    chunks: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    open: OpenArgs,
}

/// The output of `--json`.
#[derive(Debug, PartialEq, Serialize)]
struct Report {
    /// Tokens of the text.
    tokens: usize,
    /// Tokens of a chunk.
    chunk: usize,
    chunks: usize,
    /// Predicted tokens.
    predicted: u64,
    /// Sum of the negative natural log probabilities of the predicted tokens.
    nats: f64,
    /// Their mean.
    nats_per_token: f64,
    /// The standard error of the mean; None of one token.
    nats_per_token_error: Option<f64>,
    /// The exponential of the mean.
    perplexity: f64,
    /// The standard error of the perplexity.
    perplexity_error: Option<f64>,
}

/// The sums over all predicted tokens, added in the order of the text.
#[derive(Default)]
struct Sums {
    predicted: u64,
    nats: f64,
    squares: f64,
}

impl Sums {
    fn add(&mut self, nats: f64) {
        self.predicted += 1;
        self.nats += nats;
        self.squares += nats * nats;
    }

    /// The mean, and its standard error.
    fn mean(&self) -> (f64, Option<f64>) {
        let n = self.predicted as f64;
        let mean = self.nats / n;
        let variance = (self.squares / n - mean * mean).max(0.0);
        (mean, (self.predicted > 1).then(|| (variance / (n - 1.0)).sqrt()))
    }

    fn report(&self, (tokens, chunk, chunks): (usize, usize, usize)) -> Report {
        let (mean, error) = self.mean();
        let perplexity = mean.exp();
        Report {
            tokens,
            chunk,
            chunks,
            predicted: self.predicted,
            nats: self.nats,
            nats_per_token: mean,
            nats_per_token_error: error,
            perplexity,
            perplexity_error: error.map(|error| error * perplexity),
        }
    }
}

/// Measures the perplexity of a text.
pub(crate) fn perplexity(mut args: Args) -> Result<(), Failure> {
    let file = match (args.plan.take_first(), args.file) {
        (None, Some(file)) | (Some(file), None) => file,
        (None, None) => {
            return Err(Failure::Usage("a file with a text is needed: jamba perplexity PLAN FILE".to_owned()));
        }
        (Some(first), Some(_)) => {
            let first = first.display();
            return Err(Failure::Usage(format!("found {first} and -m, expected the plan once and one file")));
        }
    };
    let text = read_text(&file)?;
    let mut engine = args.open.open(args.plan.path())?;
    engine.check_head()?;
    let tokenizer = engine.tokenizer()?;
    let tokens = tokenizer.encode_long(&text, AddedTokens::AsConfigured)?;
    let limits = &engine.manifest().limits;
    let context = limits.max_context.min(limits.kv_tokens);
    if let Some(chunk) = args.chunk.filter(|&chunk| chunk > context) {
        return Err(Failure::Usage(format!(
            "--chunk: found {chunk}, expected at most the plan's context of {context}"
        )));
    }
    // A text shorter than a chunk is one chunk.
    let chunk = (args.chunk.unwrap_or(CHUNK).min(context) as usize).min(tokens.len());
    if chunk < 4 {
        return Err(Failure::Input(format!("{}: found {} tokens, expected at least 4", file.display(), tokens.len())));
    }
    let chunks = (tokens.len() / chunk).min(args.chunks.map_or(usize::MAX, |chunks| chunks as usize));
    // The start token, if encoding adds it.
    let bos = tokenizer.bos().filter(|bos| tokens.first() == Some(bos));
    let (mut sums, bar) = (Sums::default(), Bar::new());
    for (index, part) in tokens.chunks_exact(chunk).take(chunks).enumerate() {
        bar.tell(Progress {
            what: "predicting",
            done: (index * chunk) as u64,
            total: (chunks * chunk) as u64,
            unit: Unit::Tokens,
        });
        let mut part = part.to_vec();
        part[0] = bos.unwrap_or(part[0]);
        predict(&mut engine, &part, &mut sums)?;
        if !sums.nats.is_finite() {
            return Err(Failure::Input(format!(
                "chunk {} of {}: found logits that are not finite, expected finite ones: an activation of the model overflowed for \
                 these tokens\n{NOT_FINITE}",
                index + 1,
                file.display()
            )));
        }
    }
    drop(bar);
    let report = sums.report((tokens.len(), chunk, chunks));
    if args.json { print_json(&report) } else { print(&report.text()) }
}

impl Report {
    fn text(&self) -> String {
        let Report { tokens, chunk, chunks, predicted, nats, nats_per_token, perplexity, .. } = self;
        let error = |error: Option<f64>| error.map(|error| format!(" ± {error:.5}")).unwrap_or_default();
        format!(
            "perplexity      {perplexity:.5}{}\nnats per token  {nats_per_token:.6}{}\nnats            {nats:.4} of {predicted} \
             predicted tokens\nchunks          {chunks} of {chunk} tokens, of {tokens} in the text; the second half of each \
             is predicted\n",
            error(self.perplexity_error),
            error(self.nats_per_token_error),
        )
    }
}

/// Adds the negative log probabilities of the second half of a chunk.
fn predict(engine: &mut Engine, tokens: &[u32], sums: &mut Sums) -> Result<(), RuntimeError> {
    let sequence = engine.add_sequence()?;
    let predicted = predict_in(engine, sequence, tokens, sums);
    engine.remove_sequence(sequence)?;
    predicted
}

fn predict_in(
    engine: &mut Engine,
    sequence: jamba_runtime::SequenceId,
    tokens: &[u32],
    sums: &mut Sums,
) -> Result<(), RuntimeError> {
    let first = tokens.len() / 2; // the row of this token predicts the next one
    engine.prefill(sequence, &tokens[..first], None, None)?;
    let most = engine.max_step_tokens().min(engine.max_step_outputs());
    let end = tokens.len() - 1;
    for begin in (first..end).step_by(most) {
        let rows = begin..end.min(begin + most);
        let logits = engine.step(&[Feed { sequence, tokens: &tokens[rows.clone()], outputs: Outputs::All }])?;
        for (row, &next) in logits.rows().zip(&tokens[rows.start + 1..]) {
            sums.add(nats(row, next));
        }
    }
    Ok(())
}

/// The negative natural log probability of a token, in f64.
fn nats(logits: &[f32], token: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - f64::from(max)).exp()).sum();
    sum.ln() + f64::from(max) - f64::from(logits[token as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_have_a_mean_and_an_error() {
        let mut sums = Sums::default();
        [1.0, 2.0, 3.0].into_iter().for_each(|nats| sums.add(nats));
        let report = sums.report((10, 4, 2));
        assert_eq!((report.predicted, report.nats, report.nats_per_token), (3, 6.0, 2.0));
        assert_eq!(report.perplexity, 2.0f64.exp());
        let error = report.nats_per_token_error.unwrap();
        assert!((error - (1.0f64 / 3.0).sqrt()).abs() < 1e-12, "{error}");
        let mut one = Sums::default();
        one.add(0.5);
        assert_eq!(one.report((4, 4, 1)).nats_per_token_error, None);
        assert!(one.report((4, 4, 1)).text().starts_with("perplexity      1.64872\n"));
    }

    #[test]
    fn a_token_of_equal_logits_has_the_log_of_their_number() {
        assert!((nats(&[2.5; 8], 3) - 8.0f64.ln()).abs() < 1e-12);
        assert!((nats(&[-1000.0, 1000.0], 0) - 2000.0).abs() < 1e-9);
    }
}
