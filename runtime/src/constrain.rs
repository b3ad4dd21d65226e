//! Text that has to follow a JSON schema, a regular expression or a grammar: before each token is picked, llguidance says
//! which ones may come next.

use std::sync::{Arc, OnceLock};

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory, token_bytes_from_tokenizer_json};
use serde_json::Value;

use crate::tokenize::byte_of;
use crate::{Engine, RuntimeError};

/// What a generated text has to be. A text that is cut short, by [`Finish::Length`](crate::Finish::Length) or otherwise,
/// is the beginning of one.
///
/// ```
/// use jamba_runtime::{Constraint, Engine, Finish, GenerateOptions, OpenOptions};
/// use serde_json::json;
/// # use std::ops::ControlFlow;
///
/// let mut engine = Engine::open("examples/toy.plan".as_ref(), OpenOptions::default())?;
/// let schema = json!({
///     "type": "object", "properties": { "age": { "type": "integer", "minimum": 0, "maximum": 130 } },
///     "required": ["age"], "additionalProperties": false,
/// });
/// let constraint = Some(Constraint::JsonSchema(schema));
/// let options = GenerateOptions { max_new: 60, constraint, ..GenerateOptions::default() };
/// let generated = engine.generate(&[1, 20, 30], &options, |_| ControlFlow::Continue(()))?;
/// let value: serde_json::Value = serde_json::from_str(&generated.text)?;
/// assert!(value["age"].as_u64().is_some_and(|age| age <= 130));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Constraint {
    /// A JSON text that satisfies this schema, with one space behind commas and colons and none elsewhere; a key
    /// `x-guidance` in the schema changes that, as llguidance documents it.
    JsonSchema(Value),
    /// A text that the regular expression matches as a whole, in the syntax of Rust's regex crate.
    Regex(String),
    /// A text of this grammar, in llguidance's variant of Lark.
    Lark(String),
}

impl Constraint {
    /// What it is, in messages.
    fn kind(&self) -> &'static str {
        match self {
            Constraint::JsonSchema(_) => "JSON schema",
            Constraint::Regex(_) => "regular expression",
            Constraint::Lark(_) => "grammar",
        }
    }

    fn grammar(&self) -> Result<TopLevelGrammar, RuntimeError> {
        match self {
            Constraint::JsonSchema(schema) => Ok(TopLevelGrammar::from_json_schema(compact(schema)?)),
            Constraint::Regex(text) => Ok(TopLevelGrammar::from_regex(text)),
            Constraint::Lark(text) => Ok(TopLevelGrammar::from_lark(text.clone())),
        }
    }
}

/// The schema with our default of white space: as little as is usual, so that no answer is an endless row of it.
fn compact(schema: &Value) -> Result<Value, RuntimeError> {
    let mut schema = match schema {
        Value::Object(_) => schema.clone(),
        Value::Bool(true) => Value::Object(serde_json::Map::new()),
        _ => return Err(refused("JSON schema", "it is neither an object nor true")),
    };
    if let Some(object) = schema.as_object_mut().filter(|object| !object.contains_key("x-guidance")) {
        let spaces = JsonCompileOptions {
            item_separator: ", ".to_owned(),
            key_separator: ": ".to_owned(),
            whitespace_flexible: false,
            ..JsonCompileOptions::default()
        };
        let spaces = serde_json::to_value(spaces).map_err(|error| refused("JSON schema", error))?;
        object.insert("x-guidance".to_owned(), spaces);
    }
    Ok(schema)
}

fn refused(kind: &'static str, reason: impl ToString) -> RuntimeError {
    RuntimeError::Constraint { kind, reason: reason.to_string() }
}

/// What constraints need to know of a plan's tokens; made when the first one comes.
#[derive(Default)]
pub(crate) struct Vocabulary(OnceLock<Arc<ParserFactory>>);

impl Vocabulary {
    /// Of a `tokenizer.json`, for rows of `vocab` logits of which `eos` end a text.
    fn factory(&self, tokenizer: &[u8], vocab: usize, eos: &[u32]) -> Result<Arc<ParserFactory>, RuntimeError> {
        if let Some(factory) = self.0.get() {
            return Ok(Arc::clone(factory));
        }
        let failed = |reason: String| RuntimeError::Tokenizer { section: "tokenizer", reason };
        let json: Value = serde_json::from_slice(tokenizer).map_err(|error| failed(error.to_string()))?;
        let names = json["model"]["vocab"].as_object().into_iter().flatten().map(|(name, _)| name);
        // The library takes for granted that such names are bytes.
        if let Some(name) = names.filter(|name| name.starts_with("<0x")).find(|name| byte_of(name).is_none()) {
            return Err(failed(format!("token {name:?} stands for no byte")));
        }
        let mut words = token_bytes_from_tokenizer_json(&json).map_err(|error| failed(error.to_string()))?;
        words.resize(vocab, Vec::new()); // rows may be longer than the vocabulary; no word is allowed nowhere
        let eos: Vec<u32> = eos.iter().copied().filter(|&eos| (eos as usize) < vocab).collect();
        let Some(&first) = eos.first() else {
            return Err(failed("no token ends a text: a constraint needs one".to_owned()));
        };
        let trie = TokTrie::from(&TokRxInfo::new(vocab as u32, first), &words).with_eos_tokens(&eos);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment).map_err(|error| failed(error.to_string()))?;
        factory.quiet();
        Ok(Arc::clone(self.0.get_or_init(|| Arc::new(factory))))
    }
}

/// A constraint, and how far a text is that follows it.
pub(crate) struct Matching {
    kind: &'static str,
    matcher: Matcher,
    eos: Vec<u32>,
}

/// Tokens that may come next.
pub(crate) struct Allowed(SimpleVob);

impl Allowed {
    pub(crate) fn contains(&self, token: u32) -> bool {
        (token as usize) < self.0.len() && self.0.is_allowed(token)
    }
}

impl Matching {
    /// The beginning of a text; refuses constraints that cannot be understood, or that no text meets.
    pub(crate) fn new(engine: &Engine, constraint: &Constraint) -> Result<Matching, RuntimeError> {
        let kind = constraint.kind();
        let mut eos = engine.manifest().model.eos.clone();
        if eos.is_empty() {
            eos.extend(engine.tokenizer()?.eos());
        }
        let grammar = constraint.grammar()?;
        let (tokenizer, vocabulary) = engine.vocabulary()?;
        let factory = vocabulary.factory(tokenizer, engine.manifest().model.vocab as usize, &eos)?;
        let matcher = Matcher::new(factory.create_parser(grammar));
        match matcher.get_error() {
            Some(reason) => Err(refused(kind, reason)),
            None => Ok(Matching { kind, matcher, eos }),
        }
    }

    /// Tokens that may come next, the end of the text among them where `may_end` and it may.
    pub(crate) fn allowed(&mut self, may_end: bool) -> Result<Allowed, RuntimeError> {
        let mut mask = self.matcher.compute_mask_or_eos().map_err(|error| refused(self.kind, error))?;
        if !may_end {
            let n_tokens = mask.len();
            self.eos.iter().filter(|&&eos| (eos as usize) < n_tokens).for_each(|&eos| mask.disallow_token(eos));
        }
        Ok(Allowed(mask))
    }

    /// Takes a token that was allowed; true where the text is whole and nothing may follow.
    pub(crate) fn take(&mut self, token: u32) -> Result<bool, RuntimeError> {
        self.matcher.consume_token(token).map_err(|error| refused(self.kind, error))?;
        Ok(self.matcher.is_stopped())
    }
}
