//! Constrained decoding by a JSON schema, a regular expression or a grammar. llguidance computes the allowed tokens before
//! each token is picked.

use std::sync::{Arc, OnceLock};

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory, token_bytes_from_tokenizer_json};
use serde_json::Value;

use super::tokenizer::byte_of;
use crate::{Engine, RuntimeError};

/// A constraint on generated text. Text that ends early, for example by [`Finish::Length`](crate::Finish::Length), is a
/// prefix of matching text.
///
/// ```
/// use jamba_runtime::{Constraint, Engine, Finish, GenerateOptions, OpenOptions};
/// use serde_json::json;
/// # use std::ops::ControlFlow;
///
/// let mut engine = Engine::open("examples/toy.plan", OpenOptions::default())?;
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
    /// JSON that satisfies this schema, with one space after commas and colons and no other white space. The key
    /// `x-guidance` of the schema overrides this; see llguidance's documentation.
    JsonSchema(Value),
    /// Text that the regular expression matches as a whole, in the syntax of Rust's `regex` crate.
    Regex(String),
    /// Text of this grammar, in llguidance's variant of Lark.
    Lark(String),
}

impl Constraint {
    /// The kind of constraint, for messages.
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

/// Adds our default for white space to a schema. Flexible white space would allow endless runs of it.
fn compact(schema: &Value) -> Result<Value, RuntimeError> {
    let mut schema = match schema {
        Value::Object(_) => schema.clone(),
        Value::Bool(true) => Value::Object(serde_json::Map::new()),
        _ => return Err(refused("JSON schema", "found neither an object nor true")),
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

/// The plan's tokens in llguidance's form, built for the first constraint.
#[derive(Default)]
pub(crate) struct Vocabulary(OnceLock<Arc<ParserFactory>>);

impl Vocabulary {
    /// Builds the factory from a `tokenizer.json`, for rows of `vocab` logits and end tokens `eos`.
    fn factory(&self, tokenizer: &[u8], vocab: usize, eos: &[u32]) -> Result<Arc<ParserFactory>, RuntimeError> {
        if let Some(factory) = self.0.get() {
            return Ok(Arc::clone(factory));
        }
        let failed = |reason: String| RuntimeError::Tokenizer { section: "tokenizer", reason };
        let json: Value = serde_json::from_slice(tokenizer).map_err(|error| failed(error.to_string()))?;
        let names = json["model"]["vocab"].as_object().into_iter().flatten().map(|(name, _)| name);
        // The library assumes that such names are bytes and does not check it.
        if let Some(name) = names.filter(|name| name.starts_with("<0x")).find(|name| byte_of(name).is_none()) {
            return Err(failed(format!("token {name:?} is not a valid byte token")));
        }
        let mut words = token_bytes_from_tokenizer_json(&json).map_err(|error| failed(error.to_string()))?;
        words.resize(vocab, Vec::new()); // rows may be padded; empty tokens are never allowed
        let eos: Vec<u32> = eos.iter().copied().filter(|&eos| (eos as usize) < vocab).collect();
        let Some(&first) = eos.first() else {
            return Err(failed("found no end token, which constraints need".to_owned()));
        };
        let trie = TokTrie::from(&TokRxInfo::new(vocab as u32, first), &words).with_eos_tokens(&eos);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment).map_err(|error| failed(error.to_string()))?;
        factory.quiet();
        Ok(Arc::clone(self.0.get_or_init(|| Arc::new(factory))))
    }
}

/// The state of a constraint after the tokens so far.
pub(crate) struct Matching {
    kind: &'static str,
    matcher: Matcher,
    eos: Vec<u32>,
}

/// The allowed next tokens.
pub(crate) struct Allowed(SimpleVob);

impl Allowed {
    pub(crate) fn contains(&self, token: u32) -> bool {
        (token as usize) < self.0.len() && self.0.is_allowed(token)
    }
}

impl Matching {
    /// The state before the first token. Fails if the constraint is invalid or matches no text.
    pub(crate) fn new(engine: &Engine, constraint: &Constraint) -> Result<Matching, RuntimeError> {
        let kind = constraint.kind();
        let texts = engine.tokenizer()?;
        // An end token of white space, such as a line break, is text where the constraint allows it.
        let is_text = |&eos: &u32| texts.decode(&[eos]).is_ok_and(|text| !text.is_empty() && text.trim().is_empty());
        let mut eos = engine.manifest().model.eos.clone();
        eos.retain(|eos| !is_text(eos));
        if eos.is_empty() {
            eos.extend(texts.eos());
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

    /// The tokens that end the text.
    pub(crate) fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// The allowed next tokens. End tokens are included only if `may_end` and the text may end here.
    pub(crate) fn allowed(&mut self, may_end: bool) -> Result<Allowed, RuntimeError> {
        let mut mask = self.matcher.compute_mask_or_eos().map_err(|error| refused(self.kind, error))?;
        if !may_end {
            let n_tokens = mask.len();
            self.eos.iter().filter(|&&eos| (eos as usize) < n_tokens).for_each(|&eos| mask.disallow_token(eos));
        }
        Ok(Allowed(mask))
    }

    /// Advances by an allowed token. Returns true if the text is complete and no token may follow.
    pub(crate) fn take(&mut self, token: u32) -> Result<bool, RuntimeError> {
        self.matcher.consume_token(token).map_err(|error| refused(self.kind, error))?;
        Ok(self.matcher.is_stopped())
    }
}
