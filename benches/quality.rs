//! Quality of a weight format: predictions on held-out text compared with f32, and exact answers to questions.
//!
//! ```text
//! perplexity   exp(−mean ln p(next token))                       over all tokens of all documents but the first of each
//! divergence   Σ_v p_f32(v) · (ln p_f32(v) − ln p(v))            mean and 99th percentile over the same places
//! top-1        fraction of those places where the likeliest token is f32's
//! ```
//!
//! Each document is a separate sequence. Sums are f64.

use std::error::Error;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use jamba_plan::format::{Transform, Weight};
use jamba_runtime::{Engine, Feed, GenerateOptions, OpenOptions, Outputs};
use jambac::calibrate::Text;
use jambac::compile::{Progress, Request, build};
use jambac::fit::Fitter;
use jambac::manifest::{ModelFile, Weights, targets, weight_format};
use jambac::precision;
use jambac_codegen::loss::Loss;
use jambac_codegen::pack::Measure;
use serde::Deserialize;

/// Token limit of an answer; the longest correct answer has 14.
const MAX_ANSWER_TOKENS: usize = 16;

/// Token limit of a document, or of a prompt with its answer.
const CONTEXT: u64 = 2048;

/// Tokens of one prefill step.
const CHUNK: u64 = 256;

/// Weight formats of a plan; `None` keeps the format of the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// All linear layers.
    pub linears: Option<&'static str>,
    /// The experts, if they differ.
    pub experts: Option<&'static str>,
    /// Parameters with formats of their own: `lm_head=int4`; several are separated by spaces.
    pub pattern: Option<&'static str>,
    /// Formats that `--weights auto` chooses for the memory that the plan would take otherwise.
    pub is_mixed: bool,
    /// Whether integers are calibrated on samples of the model.
    pub is_calibrated: bool,
    /// The target that computes.
    pub target: &'static str,
}

impl Format {
    /// As the checkpoint stores the weights.
    const STORED: Format =
        Format { linears: None, experts: None, pattern: None, is_mixed: false, is_calibrated: false, target: "native" };

    /// One format for all linear layers, rounded to nearest.
    pub const fn all(name: &'static str) -> Format {
        Format { linears: Some(name), ..Format::STORED }
    }

    /// A format for the experts alone, rounded to nearest.
    pub const fn experts(name: &'static str) -> Format {
        Format { experts: Some(name), ..Format::STORED }
    }

    /// The same with another format for the experts.
    pub const fn with_experts(self, name: &'static str) -> Format {
        Format { experts: Some(name), ..self }
    }

    /// The same with another format for the parameters of a pattern.
    pub const fn with(self, pattern: &'static str) -> Format {
        Format { pattern: Some(pattern), ..self }
    }

    /// Formats chosen for the memory of this one.
    pub const fn mixed(self) -> Format {
        Format { is_mixed: true, ..self }
    }

    /// The same, calibrated.
    pub const fn calibrated(self) -> Format {
        Format { is_calibrated: true, ..self }
    }

    /// The same on another target.
    pub const fn on(self, target: &'static str) -> Format {
        Format { target, ..self }
    }

    /// Label in tables.
    pub fn name(self) -> String {
        let mut name = match (self.linears, self.experts) {
            (Some(linears), None) => linears.to_owned(),
            (None, Some(experts)) => format!("{experts} experts"),
            (None, None) => "as stored".to_owned(),
            (Some(linears), Some(experts)) => format!("{linears}, {experts} experts"),
        };
        name.extend(self.pattern.map(|pattern| format!(", {pattern}")));
        if self.is_mixed {
            name = format!("auto, as large as {name}");
        }
        name += if self.is_calibrated { ", calibrated" } else { "" };
        if self.target != Format::STORED.target {
            name = format!("{name} on {}", self.target);
        }
        name
    }
}

/// An open plan.
pub struct Opened {
    /// Engine of the plan.
    pub engine: Engine,
    /// File size of the plan.
    pub bytes: u64,
    /// Bits for each weight of the linear layers, with their scales.
    pub bits: f64,
    /// Rounding errors of the parameters.
    pub losses: Vec<Loss>,
}

/// Builds the plan of a checkpoint into `folder` and opens it.
///
/// # Errors
/// The build fails, or the plan cannot be opened.
pub fn open(checkpoint: &Path, folder: &Path, format: Format) -> Result<Opened, Box<dyn Error>> {
    let mut model = ModelFile::open(checkpoint)?;
    model.weights.default = format.linears.map(|name| weight_format("weights.default", name)).transpose()?;
    model.weights.experts = format.experts.map(|name| weight_format("weights.experts", name)).transpose()?;
    model.weights.patterns = format
        .pattern
        .unwrap_or_default()
        .split(' ')
        .filter(|by| !by.is_empty())
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    model.weights.calibrate = format.is_calibrated.then_some(Text::Samples);
    // The logits of one level are enough, and code takes most of the time of a build.
    model.build.targets = targets(&[format.target])?;
    model.limits.max_context = CONTEXT;
    model.limits.max_sequences = 1;
    model.limits.kv_tokens = None;
    model.limits.prefill_chunk = CHUNK;
    model.limits.max_outputs = CHUNK;
    if format.is_mixed {
        let bytes = Fitter::new(&model)?.total(&model.limits)?;
        model.weights = Weights { auto: true, calibrate: model.weights.calibrate, ..Weights::default() };
        precision::choose(&mut model, bytes)?;
    }
    let output = folder.join("quality.plan");
    let request = Request { measure: Measure::Loss, ..Request::new(model, output.clone()) };
    let built = build(&request, &Progress::hidden())?;
    let (bytes, losses) = (built.summary.bytes, built.losses.into_iter().map(|(_, loss)| loss).collect());
    let engine = Engine::open(&output, OpenOptions::default())?;
    let bits = bits(&engine.program().weights);
    Ok(Opened { engine, bytes, bits, losses })
}

/// Bits for each weight of the linear layers, without padding of rows, which depends on the model's size.
fn bits(weights: &[Weight]) -> f64 {
    let (mut bits, mut n_values) = (0.0, 0.0);
    for weight in weights.iter().filter(|weight| weight.transform == Transform::None && weight.layout.lanes > 1) {
        let layout = weight.layout;
        let values = weight.parts.iter().map(|part| part.rows * layout.groups).sum::<u64>() as f64 * layout.k as f64;
        let is_linear = layout.k > 16;
        if is_linear {
            let of_scales = weight
                .format
                .scales()
                .map_or(0.0, |scales| scales.format.bits() as f64 / scales.inputs.unwrap_or(layout.k) as f64);
            bits += values * (weight.format.bits() as f64 + of_scales);
            n_values += values;
        }
    }
    bits / n_values
}

/// Reads documents, separated by empty lines.
///
/// # Errors
/// The file cannot be read.
pub fn documents(path: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(text.split_terminator("\n\n").map(|document| format!("{document}\n")).collect())
}

/// Predictions of the next token at every place of some documents.
pub struct Predictions {
    vocab: usize,
    /// ln p of every token: \[places, vocab\].
    logprobs: Vec<f32>,
    /// The actual next tokens: \[places\].
    next: Vec<u32>,
}

impl Predictions {
    /// Runs the documents through the engine.
    ///
    /// # Errors
    /// The engine fails.
    pub fn of(engine: &mut Engine, documents: &[String]) -> Result<Predictions, Box<dyn Error>> {
        let tokenizer = engine.tokenizer()?;
        let (mut logprobs, mut next) = (Vec::new(), Vec::new());
        for document in documents {
            let tokens = tokenizer.encode(document)?;
            let sequence = engine.add_sequence()?;
            for chunk in tokens[..tokens.len() - 1].chunks(CHUNK as usize) {
                let logits = engine.step(&[Feed { sequence, tokens: chunk, outputs: Outputs::All }])?;
                logits.rows().for_each(|row| logprobs.extend(log_softmax(row)));
            }
            engine.remove_sequence(sequence)?;
            next.extend_from_slice(&tokens[1..]);
        }
        Ok(Predictions { vocab: logprobs.len() / next.len(), logprobs, next })
    }

    /// Number of places.
    pub fn len(&self) -> usize {
        self.next.len()
    }

    /// True if there are no places.
    pub fn is_empty(&self) -> bool {
        self.next.is_empty()
    }

    fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.logprobs.chunks_exact(self.vocab)
    }

    /// exp(mean −ln p).
    pub fn perplexity(&self) -> f64 {
        (-self.mean(self.rows().zip(&self.next).map(|(row, &token)| f64::from(row[token as usize])))).exp()
    }

    /// KL divergence of these predictions from `truth`, in nats: the mean over all places, and the value that 99 of 100 places
    /// do not exceed.
    pub fn divergence(&self, truth: &Predictions) -> (f64, f64) {
        let of_row = |(found, truth): (&[f32], &[f32])| -> f64 {
            let each = truth.iter().zip(found).map(|(&p, &q)| (f64::from(p), f64::from(q)));
            each.map(|(p, q)| p.exp() * (p - q)).sum()
        };
        let mut all: Vec<f64> = self.rows().zip(truth.rows()).map(of_row).collect();
        all.sort_by(f64::total_cmp);
        (self.mean(all.iter().copied()), all[(all.len() * 99).div_ceil(100) - 1])
    }

    /// Fraction of places with the same likeliest token.
    pub fn agreement(&self, other: &Predictions) -> f64 {
        let same = |(a, b): (&[f32], &[f32])| f64::from(u8::from(likeliest(a) == likeliest(b)));
        self.mean(self.rows().zip(other.rows()).map(same))
    }

    fn mean(&self, values: impl Iterator<Item = f64>) -> f64 {
        values.sum::<f64>() / self.len() as f64
    }
}

fn log_softmax(logits: &[f32]) -> impl Iterator<Item = f32> {
    let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - most).exp()).sum();
    logits.iter().map(move |&logit| (f64::from(logit) - most - sum.ln()) as f32)
}

/// Index of the largest element; the first one on ties.
fn likeliest(row: &[f32]) -> usize {
    (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// A prompt and its expected answer.
#[derive(Clone, Debug, Deserialize)]
pub struct Question {
    /// Story and question.
    pub prompt: String,
    /// Expected answer, one line.
    pub answer: String,
}

/// Reads questions, one JSON object per line.
///
/// # Errors
/// The file cannot be read, or a line is not a question.
pub fn questions(path: &Path) -> Result<Vec<Question>, Box<dyn Error>> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let question = |(i, line)| {
        serde_json::from_str(line).map_err(|error| format!("{}, line {}: {error}", path.display(), i + 1).into())
    };
    text.lines().enumerate().map(question).collect()
}

/// Number of questions whose greedy answer matches exactly.
///
/// # Errors
/// The engine fails.
pub fn exact_answers(engine: &mut Engine, questions: &[Question]) -> Result<usize, Box<dyn Error>> {
    let tokenizer = engine.tokenizer()?;
    let options = GenerateOptions { max_new: MAX_ANSWER_TOKENS, ..GenerateOptions::default() };
    let mut exact = 0;
    for question in questions {
        let prompt = tokenizer.encode(&question.prompt)?;
        let generated = engine.generate(&prompt, &options, |_| ControlFlow::Continue(()))?;
        let said = tokenizer.decode(&generated.tokens)?;
        exact += usize::from(said.split('\n').next().unwrap_or_default().trim() == question.answer);
    }
    Ok(exact)
}
