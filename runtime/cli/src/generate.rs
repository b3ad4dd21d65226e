//! Generation options of `run` and `chat`.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::Path;

use jamba_program::say;
use jamba_runtime::sample::random_seed;
use jamba_runtime::{
    AddedTokens, Cancel, Chat, ChatTemplate, Constraint, EncodedChat, Engine, GenerateOptions, RuntimeError,
    SamplerOptions, SpecialTokens, Tokenizer,
};

use crate::failure::Failure;
use crate::style;

/// The heading of the options whose defaults come from the model.
const SAMPLING: &str = "Sampling (defaults: the model's generation_config.json, shown by `jamba info`)";

/// Generation options.
#[derive(clap::Args)]
pub(crate) struct GenerateArgs {
    /// Maximum number of new tokens; -1 is no limit [default: the model's, or 256; in a chat the model's, or the context]
    #[arg(short = 'n', long, value_name = "MAX_NEW", value_parser = max_new, aliases = ["n-predict", "predict", "max-tokens", "max-new-tokens"])]
    max_new: Option<usize>,
    /// Minimum number of new tokens: before it nothing ends the answer
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, alias = "min-tokens")]
    min_new: usize,
    /// Always pick the most likely token: temperature 0. Long greedy answers tend to repeat themselves
    #[arg(long, help_heading = SAMPLING, conflicts_with_all = ["temperature", "top_k", "top_p", "min_p"])]
    greedy: bool,
    /// Sampling temperature; 0 is greedy [default: the model's, or 0.8]
    #[arg(long, value_name = "T", alias = "temp", help_heading = SAMPLING)]
    temperature: Option<f32>,
    /// Sample from the K most likely tokens; 0 is all, and so is -1 [default: the model's, or 40]
    #[arg(long, value_name = "K", value_parser = top_k, help_heading = SAMPLING)]
    top_k: Option<usize>,
    /// Sample from the most likely tokens with this total probability; 1 is all [default: the model's, or 0.95]
    #[arg(long, value_name = "P", help_heading = SAMPLING)]
    top_p: Option<f32>,
    /// Sample from tokens with at least this fraction of the largest probability; 0 is all [default: the model's, or 0.05]
    #[arg(long, value_name = "P", help_heading = SAMPLING)]
    min_p: Option<f32>,
    /// Penalty for tokens that occurred in the prompt or the answer, for example 1.1 [default: the model's, or 1: none]
    #[arg(long, value_name = "X", alias = "repeat-penalty", help_heading = SAMPLING)]
    repetition_penalty: Option<f32>,
    /// Subtracted from the logits of generated tokens
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = SAMPLING)]
    presence_penalty: Option<f32>,
    /// Subtracted from the logits of generated tokens once per occurrence
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = SAMPLING)]
    frequency_penalty: Option<f32>,
    /// Add a number to the logit of a token: `17=-2.5`; `17=-inf` forbids it. Repeatable
    #[arg(long, value_name = "TOKEN=X", value_parser = bias, help_heading = SAMPLING)]
    logit_bias: Vec<(u32, f32)>,
    /// Random seed; the same seed draws the same answer; -1 takes a new one, which a terminal shows
    #[arg(short = 's', long, default_value = "0", value_parser = seed, help_heading = SAMPLING)]
    seed: u64,
    /// Stop string: end the answer before this text. Repeatable
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Print all special tokens of the answer. Without it, those that the chat template writes around tool calls and reasoning
    /// are printed, and those that a stop string contains
    #[arg(long)]
    special: bool,
    /// Special tokens in messages, tools and documents are special. Without it they are text, so that no message ends its turn
    #[arg(long)]
    allow_special: bool,
    /// Chat template: the name of one of the model's, or a file. [default: tool_use if there are tools and a template of that
    /// name, otherwise default]
    #[arg(long, value_name = "NAME|FILE")]
    chat_template: Option<String>,
    #[command(flatten)]
    constraint: ConstraintArgs,
    /// Maximum tokens per prefill step [default: the plan's maximum]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    chunk: Option<u64>,
}

/// What special tokens in the content of a chat are.
#[derive(Clone, Copy)]
pub(crate) enum Content {
    Text,
    /// `--allow-special`.
    Special,
}

impl Content {
    /// Renders and encodes a chat of at most `most` tokens.
    pub(crate) fn encode(
        self,
        tokenizer: &Tokenizer,
        template: &ChatTemplate,
        chat: &Chat,
        most: u64,
    ) -> Result<EncodedChat, RuntimeError> {
        let rendered = template.render_parts(chat)?;
        match self {
            Content::Text => tokenizer.encode_chat_within(&rendered, Some(most)),
            Content::Special => {
                let tokens = tokenizer.encode_within(rendered.text(), Some(most), AddedTokens::None)?;
                Ok(EncodedChat { tokens, turn_ends: Vec::new() })
            }
        }
    }
}

/// Constraint on the text: at most one of these.
#[derive(clap::Args)]
#[group(multiple = false)]
struct ConstraintArgs {
    /// The answer is JSON that satisfies this schema, given inline or as a file
    #[arg(long, value_name = "SCHEMA|FILE")]
    json_schema: Option<String>,
    /// The whole answer matches this regular expression
    #[arg(long, value_name = "REGEX")]
    regex: Option<String>,
    /// The answer follows the grammar in this file (llguidance's variant of Lark)
    #[arg(long, value_name = "FILE")]
    grammar: Option<String>,
}

impl GenerateArgs {
    /// The files that the options name.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        let ConstraintArgs { json_schema, grammar, .. } = &self.constraint;
        json_schema.iter().chain(grammar).chain(&self.chat_template).map(Path::new)
    }

    /// Converts to options of the runtime. Absent options have the model's values.
    pub(crate) fn options(&self, engine: &Engine, cancel: &Cancel) -> Result<GenerateOptions, Failure> {
        let default = engine.generate_options();
        let max_new = self.max_new.unwrap_or(default.max_new);
        let sampler = self.sampler(default.sampler)?;
        Ok(GenerateOptions {
            max_new,
            min_new: self.min_new,
            sampler,
            chunk: self.chunk.map(|chunk| chunk as usize),
            stop: self.stop.clone(),
            special_tokens: if self.special { SpecialTokens::All } else { SpecialTokens::Marks },
            constraint: self.constraint.read()?,
            cancel: cancel.clone(),
            ..GenerateOptions::default()
        })
    }

    /// Options of a chat: answers end where the model ends them, unless an option or the model limits them.
    pub(crate) fn chat_options(&self, engine: &Engine, cancel: &Cancel) -> Result<GenerateOptions, Failure> {
        let options = self.options(engine, cancel)?;
        let is_limited = self.max_new.is_some() || engine.manifest().generation.max_new_tokens.is_some();
        let max_new = if is_limited { options.max_new } else { usize::MAX };
        Ok(GenerateOptions { max_new, ..options })
    }

    /// The chat template: the model's, or the one given by its name or file.
    pub(crate) fn chat_template(&self, engine: &Engine) -> Result<ChatTemplate, Failure> {
        let Some(given) = &self.chat_template else { return Ok(engine.chat_template()?) };
        let names = match engine.chat_template() {
            Ok(template) if template.names().contains(&given.as_str()) => return Ok(template.choose(given)?),
            Ok(template) => template.names().join(", "),
            Err(RuntimeError::NoSection(_)) => "none".to_owned(),
            Err(error) => return Err(error.into()),
        };
        let path = Path::new(given);
        if !path.exists() {
            return Err(Failure::Input(format!(
                "--chat-template: found {given:?}, expected a file, or the name of one of the model's templates: {names}"
            )));
        }
        Ok(engine.chat_template_of(given, &read_text(path)?)?)
    }

    /// How chats are encoded.
    pub(crate) fn content(&self) -> Content {
        if self.allow_special { Content::Special } else { Content::Text }
    }

    /// True if `--chat-template` is given.
    pub(crate) fn has_chat_template(&self) -> bool {
        self.chat_template.is_some()
    }

    /// The model's sampler with the given values.
    fn sampler(&self, default: SamplerOptions) -> Result<SamplerOptions, Failure> {
        let temperature = if self.greedy { 0.0 } else { self.temperature.unwrap_or(default.temperature) };
        let filters =
            [("--top-k", self.top_k.is_some()), ("--top-p", self.top_p.is_some()), ("--min-p", self.min_p.is_some())];
        if let (true, Some((option, _))) = (temperature == 0.0, filters.iter().find(|(_, given)| *given)) {
            return Err(Failure::Usage(format!(
                "{option} needs sampling, and the temperature is 0: add --temperature, for example --temperature 0.8"
            )));
        }
        Ok(SamplerOptions {
            temperature,
            top_k: self.top_k.unwrap_or(default.top_k),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(default.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(default.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(default.frequency_penalty),
            logit_bias: self.logit_bias.clone(),
            seed: Some(self.seed),
        })
    }
}

impl ConstraintArgs {
    fn read(&self) -> Result<Option<Constraint>, Failure> {
        if let Some(given) = &self.json_schema {
            let (place, text) = match given.trim_start().starts_with('{') {
                true => ("--json-schema", given.clone()),
                false => (given.as_str(), read_json(Path::new(given))?),
            };
            let schema = serde_json::from_str(&text)
                .map_err(|error| Failure::Input(format!("{place}: expected a JSON schema: {error}")))?;
            return Ok(Some(Constraint::JsonSchema(schema)));
        }
        if let Some(path) = &self.grammar {
            return Ok(Some(Constraint::Lark(read_text(Path::new(path))?)));
        }
        Ok(self.regex.clone().map(Constraint::Regex))
    }
}

/// Parses `-n`: a number, or -1 for as many tokens as fit.
fn max_new(text: &str) -> Result<usize, String> {
    number_or(text, usize::MAX).ok_or_else(|| "expected a whole number, 0 or more, or -1 for no limit".to_owned())
}

/// Parses `--top-k`: a number, or -1 for all tokens.
fn top_k(text: &str) -> Result<usize, String> {
    number_or(text, 0).ok_or_else(|| "expected a whole number, 0 or more, or -1 for all tokens".to_owned())
}

/// Parses `-s`: a number, or -1 for a new one. It is short, so that it can be typed again.
fn seed(text: &str) -> Result<u64, String> {
    let drawn = u64::from(random_seed() as u32);
    let seed = number_or(text, drawn).ok_or("expected a whole number, 0 or more, or -1 for a new seed")?;
    if text == "-1" && std::io::stderr().is_terminal() {
        say!("{}", style::on_stderr(style::Kind::Quiet, &format!("[seed {seed}]")));
    }
    Ok(seed)
}

/// A number, or `other` for -1.
fn number_or<T: std::str::FromStr>(text: &str, other: T) -> Option<T> {
    if text == "-1" { Some(other) } else { text.parse().ok() }
}

/// Parses `17=-2.5`.
fn bias(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.split_once('=').and_then(|(token, bias)| Some((token.parse().ok()?, bias.parse().ok()?)));
    parsed.ok_or_else(|| "expected a token's id and a number: 17=-2.5".to_owned())
}

/// Most bytes of a text that is read into memory. A device such as /dev/zero has no end.
const MOST_BYTES: u64 = 1 << 30;

/// Reads a text file.
pub(crate) fn read_text(path: &Path) -> Result<String, Failure> {
    let file = File::open(path).map_err(|error| Failure::file(path, "read it", error))?;
    let bytes = read_all(file, &path.display().to_string())?;
    as_text(bytes, &path.display().to_string())
}

/// Reads a file of JSON, without the byte order mark that some editors write.
pub(crate) fn read_json(path: &Path) -> Result<String, Failure> {
    let text = read_text(path)?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// Reads to the end. Errors name `place`.
pub(crate) fn read_all(source: impl Read, place: &str) -> Result<Vec<u8>, Failure> {
    read_at_most(MOST_BYTES, source, place)
}

fn read_at_most(most: u64, source: impl Read, place: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = source.take(most + 1).read_to_end(&mut bytes);
    read.map_err(|error| Failure::Input(format!("{place}: cannot read it: {error}")))?;
    match bytes.len() as u64 > most {
        true => Err(Failure::Input(format!("{place}: found more than {most} bytes, expected a text"))),
        false => Ok(bytes),
    }
}

/// Decodes UTF-8. The error names `place` and the offset of the first invalid byte.
pub(crate) fn as_text(bytes: Vec<u8>, place: &str) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let found = error.as_bytes()[at];
        Failure::Input(format!(
            "{place}: found byte {found:#04x} at offset {at}, expected UTF-8: convert it with iconv -t UTF-8"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn biases_are_tokens_and_numbers() {
        assert_eq!(bias("17=-2.5"), Ok((17, -2.5)));
        assert_eq!(bias("3=-inf"), Ok((3, f32::NEG_INFINITY)));
        for wrong in ["17", "=1", "17=", "a=1", "17=b", "-1=2"] {
            assert!(bias(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_source_without_an_end_is_refused() {
        assert_eq!(read_at_most(3, &b"abc"[..], "x").unwrap(), b"abc");
        let endless = read_at_most(1000, std::io::repeat(0), "/dev/zero");
        assert!(
            matches!(endless, Err(Failure::Input(text)) if text.starts_with("/dev/zero: found more than 1000 bytes"))
        );
    }

    #[test]
    fn minus_one_is_no_limit() {
        assert_eq!((max_new("-1"), max_new("7"), top_k("-1"), top_k("0")), (Ok(usize::MAX), Ok(7), Ok(0), Ok(0)));
        assert_eq!(seed("7"), Ok(7));
        assert!(seed("-1").is_ok_and(|seed| seed <= u64::from(u32::MAX)));
        let seeds: std::collections::BTreeSet<u64> = (0..8).map(|_| seed("-1").unwrap()).collect();
        assert!(seeds.len() > 1, "{seeds:?}");
        for wrong in ["-2", "many", "", "1.5"] {
            assert!(max_new(wrong).is_err() && top_k(wrong).is_err() && seed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn text_that_is_none_says_where() {
        let refused = as_text(b"ab\xffcd".to_vec(), "a.txt");
        assert!(matches!(refused, Err(Failure::Input(text)) if text.starts_with("a.txt: found byte 0xff at offset 2")));
    }
}
