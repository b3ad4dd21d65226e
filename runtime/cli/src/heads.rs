//! `jamba classify` and `jamba embed`: plans whose head gives scores of labels or hidden states.

use std::time::Instant;

use clap::ValueEnum;
use jamba_runtime::{Cancel, Engine, Pooling, normalize};
use serde::Serialize;

use crate::failure::{Failure, print};
use crate::interrupt;
use crate::open::{OpenArgs, PlanArg};
use crate::prompt::{Prompt, PromptArgs};

/// What both commands take.
#[derive(clap::Args)]
pub(crate) struct TextArgs {
    #[command(flatten)]
    plan: PlanArg,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Each line of the prompt that is not empty is a text of its own. Prints a line for each
    #[arg(long, conflicts_with = "tokens")]
    lines: bool,
    /// Print JSON, a line for each text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    open: OpenArgs,
}

/// Arguments of `jamba classify`.
#[derive(clap::Args)]
#[command(
    after_help = "The plan's checkpoint is one of JambaForSequenceClassification. The last token of the text decides."
)]
pub(crate) struct ClassifyArgs {
    #[command(flatten)]
    text: TextArgs,
}

/// Arguments of `jamba embed`.
#[derive(clap::Args)]
#[command(after_help = "The plan is built with `jambac build --embeddings`, or of a checkpoint of JambaModel.")]
pub(crate) struct EmbedArgs {
    #[command(flatten)]
    text: TextArgs,
    /// Which hidden states become the embedding: of the last token, or the mean of all
    #[arg(long, value_name = "POOLING", default_value = "last")]
    pooling: PoolingArg,
    /// Leave the embedding as it is; by default its Euclidean norm is 1
    #[arg(long)]
    no_normalize: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum PoolingArg {
    Last,
    Mean,
}

/// A line of `classify --json`.
#[derive(Serialize)]
struct Classification<'a> {
    /// Tokens of the text.
    tokens: usize,
    seconds: f64,
    /// Most probable first.
    labels: Vec<Label<'a>>,
}

#[derive(Serialize)]
struct Label<'a> {
    label: &'a str,
    probability: f32,
    /// Before the activation.
    score: f32,
}

/// A line of `embed --json`.
#[derive(Serialize)]
struct Embedding {
    /// Tokens of the text.
    tokens: usize,
    seconds: f64,
    embedding: Vec<f32>,
}

impl TextArgs {
    /// Opens the plan and does `work` for the tokens of each text.
    fn each(
        mut self,
        mut work: impl FnMut(&mut Engine, &[u32], &Cancel) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.prompt = self.prompt.after(&mut self.plan)?;
        let prompt = self.prompt.read()?;
        let texts: Vec<Prompt> = match prompt {
            Prompt::Text(text) if self.lines => {
                let lines = text.lines().filter(|line| !line.trim().is_empty());
                lines.map(|line| Prompt::Text(line.to_owned())).collect()
            }
            prompt => vec![prompt],
        };
        let mut engine = self.open.open(self.plan.only()?)?;
        let cancel = interrupt::catch();
        for text in texts {
            let tokens = text.tokens(&engine, 0)?;
            work(&mut engine, &tokens, &cancel)?;
        }
        Ok(())
    }
}

/// Prints JSON in one line.
fn print_line(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::Ours(error.to_string()))?;
    print(&(text + "\n"))
}

/// A label of a checkpoint may have line breaks and tabs: here, they are escapes, so that each line is one label.
fn in_a_line(label: &str) -> String {
    label.replace('\n', "\\n").replace('\t', "\\t")
}

/// Prints the labels of a text with their probabilities.
pub(crate) fn classify(args: ClassifyArgs) -> Result<(), Failure> {
    let (json, lines) = (args.text.json, args.text.lines);
    args.text.each(|engine, tokens, cancel| {
        let began = Instant::now();
        let found = engine.classify(tokens, Some(cancel))?;
        let seconds = began.elapsed().as_secs_f64();
        let rows = engine.labels().iter().zip(found.probabilities.iter().zip(&found.scores));
        let mut labels: Vec<Label> =
            rows.map(|(label, (&probability, &score))| Label { label, probability, score }).collect();
        labels.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        if json {
            return print_line(&Classification { tokens: tokens.len(), seconds, labels });
        }
        let row = |label: &Label| format!("{:.6}\t{}", label.probability, in_a_line(label.label));
        let shown = if lines { &labels[..1] } else { &labels[..] };
        print(&(shown.iter().map(row).collect::<Vec<_>>().join("\n") + "\n"))
    })
}

/// Prints the embedding of a text.
pub(crate) fn embed(args: EmbedArgs) -> Result<(), Failure> {
    let EmbedArgs { text, pooling, no_normalize } = args;
    let pooling = match pooling {
        PoolingArg::Last => Pooling::Last,
        PoolingArg::Mean => Pooling::Mean,
    };
    let json = text.json;
    text.each(|engine, tokens, cancel| {
        let began = Instant::now();
        let mut embedding = engine.embed(tokens, pooling, Some(cancel))?;
        if !no_normalize {
            normalize(&mut embedding);
        }
        let seconds = began.elapsed().as_secs_f64();
        match json {
            true => print_line(&Embedding { tokens: tokens.len(), seconds, embedding }),
            false => {
                let numbers: Vec<String> = embedding.iter().map(f32::to_string).collect();
                print(&(numbers.join(" ") + "\n"))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_one_line() {
        assert_eq!(in_a_line("safe\n0.999999\tno spam"), "safe\\n0.999999\\tno spam");
    }
}
