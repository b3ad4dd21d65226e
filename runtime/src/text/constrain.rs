//! Constrained decoding by a JSON schema, a regular expression or a grammar. llguidance computes the allowed tokens before
//! each token is picked.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory, token_bytes_from_tokenizer_json};
use serde_json::Value;

use super::timeout::{Threads, Unfinished};
use super::tokenizer::byte_of;
use super::tokenizer_json::without_mark;
use crate::contain::contained;
use crate::{Cancel, ConstraintLimits, Engine, RuntimeError};

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
    /// Longest schema as JSON, regular expression or grammar, in bytes. The time for a schema's parts is quadratic: 3000 patterns in
    /// 180 kB take a second.
    pub const MAX_BYTES: usize = 128 << 10;

    /// The kind of constraint, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Constraint::JsonSchema(_) => "JSON schema",
            Constraint::Regex(_) => "regular expression",
            Constraint::Lark(_) => "grammar",
        }
    }

    fn grammar(&self) -> Result<TopLevelGrammar, RuntimeError> {
        let bytes = match self {
            Constraint::JsonSchema(schema) => schema.to_string().len(),
            Constraint::Regex(text) | Constraint::Lark(text) => text.len(),
        };
        if bytes > Constraint::MAX_BYTES {
            let found = format!("found {bytes} bytes, expected at most {}", Constraint::MAX_BYTES);
            return Err(refused(self.kind(), found));
        }
        let mut divisors = BTreeSet::new();
        match self {
            Constraint::JsonSchema(schema) => find_divisors(schema, &mut divisors),
            Constraint::Regex(_) => {}
            // Schemas in a grammar, which may have the word in their texts. A text that is no JSON is none of them.
            Constraint::Lark(text) => text.match_indices("%json").for_each(|(at, word)| {
                let rest = &text[at + word.len()..];
                if let Some(Ok(schema)) = serde_json::Deserializer::from_str(rest).into_iter().next() {
                    find_divisors(&schema, &mut divisors);
                }
            }),
        }
        let product = divisors.iter().fold(1_u64, |product, divisor| product.saturating_mul(*divisor));
        if product > MAX_DIVISOR {
            let found = format!("multipleOf: found a product of {product}, expected at most {MAX_DIVISOR}");
            return Err(refused(self.kind(), found));
        }
        match self {
            Constraint::JsonSchema(schema) => Ok(TopLevelGrammar::from_json_schema(compact(schema)?)),
            Constraint::Regex(text) => Ok(TopLevelGrammar::from_regex(text)),
            Constraint::Lark(text) => Ok(TopLevelGrammar::from_lark(text.clone())),
        }
    }
}

/// Largest product of the different `multipleOf` of a schema, each without its decimal point. The automaton of a number has a state for each
/// remainder, and the library makes all of them when it compiles.
const MAX_DIVISOR: u64 = 10_000;

/// Collects each `multipleOf`.
fn find_divisors(schema: &Value, divisors: &mut BTreeSet<u64>) {
    match schema {
        Value::Array(items) => items.iter().for_each(|item| find_divisors(item, divisors)),
        Value::Object(entries) => entries.iter().for_each(|(key, value)| match (key.as_str(), value.as_f64()) {
            ("multipleOf", Some(number)) => {
                let mut digits = number.abs();
                while digits.fract() != 0.0 {
                    digits *= 10.0;
                }
                divisors.insert((digits as u64).max(1));
            }
            _ => find_divisors(value, divisors),
        }),
        _ => {}
    }
}

/// Stack of the thread that compiles a constraint. A chain of rules takes 3 kB for each, and a grammar has at most 16,384.
const STACK_BYTES: usize = 96 << 20;

/// The library's own limits allow a constraint 500 MB.
fn limits(of: &ConstraintLimits) -> ParserLimits {
    ParserLimits {
        initial_lexer_fuel: of.fuel,
        // 1 to 2 kB each.
        max_lexer_states: of.states,
        max_grammar_size: of.symbols,
        // The library's states and its copy of the grammar are of no use in a message.
        verbose_errors: false,
        ..ParserLimits::default()
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
    RuntimeError::Constraint { kind, reason: sentence(&reason.to_string()) }
}

/// The library's message in one sentence, without what it appends: its state, the grammar, a backtrace.
fn sentence(message: &str) -> String {
    /// Most characters.
    const LONGEST: usize = 300;
    // A regular expression's error ends with its reason, after lines with the expression.
    let reason = message.lines().find_map(|line| line.strip_prefix("error: "));
    let first = reason.or_else(|| message.lines().find(|line| !line.trim().is_empty())).unwrap_or("it is refused");
    let text = match first.trim().trim_start_matches("lexer error: ").trim_start_matches("Parser Error: ") {
        // The library's names of states in which no token is allowed and the text may not end.
        "NoExtension" | "NoExtensionBias" => "no text satisfies it, or none from here on",
        text if text.starts_with("fuel exhausted") || text.starts_with("initial lexer configuration") => {
            "it takes too much work to compile"
        }
        "too many expressions constructed" => "it is too complex: too many states are needed",
        other => other,
    };
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Compiles a constraint.
///
/// # Errors
/// The constraint is invalid or too large; it takes longer than `time`, or `cancel` is set meanwhile.
pub(super) fn compile(
    factory: &Arc<ParserFactory>,
    threads: &Threads,
    constraint: &Constraint,
    (time, cancel): (Duration, &Cancel),
) -> Result<Matcher, RuntimeError> {
    let kind = constraint.kind();
    let grammar = constraint.grammar()?;
    let factory = Arc::clone(factory);
    let compiled = threads.run(STACK_BYTES, (time, cancel), move || Matcher::new(factory.create_parser(grammar)));
    let matcher = compiled.map_err(|unfinished| match unfinished {
        Unfinished::Cancelled => RuntimeError::Cancelled,
        Unfinished::TimedOut => refused(kind, format!("it takes longer to compile than {time:?}")),
        Unfinished::Busy => refused(kind, "too many others are being compiled: try again later"),
        Unfinished::Failed(reason) => refused(kind, reason),
    })?;
    match matcher.get_error() {
        Some(reason) => Err(refused(kind, reason)),
        None => Ok(matcher),
    }
}

/// The plan's tokens in llguidance's form, built for the first constraint.
#[derive(Default)]
pub(crate) struct Vocabulary {
    factory: OnceLock<Arc<ParserFactory>>,
    /// Threads that compile constraints.
    pub(super) threads: Threads,
}

impl Vocabulary {
    /// Builds the factory from a `tokenizer.json`, for rows of `vocab` logits and end tokens `eos`. Constraints have the limits of the first call.
    pub(super) fn factory(
        &self,
        tokenizer: &[u8],
        (vocab, eos): (usize, &[u32]),
        within: &ConstraintLimits,
    ) -> Result<Arc<ParserFactory>, RuntimeError> {
        if let Some(factory) = self.factory.get() {
            return Ok(Arc::clone(factory));
        }
        let failed = |reason: String| RuntimeError::Tokenizer { section: "tokenizer", reason };
        let mut json: Value =
            serde_json::from_slice(without_mark(tokenizer)).map_err(|error| failed(error.to_string()))?;
        let names = json["model"]["vocab"].as_object().into_iter().flatten().map(|(name, _)| name);
        // The library assumes that such names are bytes and does not check it.
        if let Some(name) = names.filter(|name| name.starts_with("<0x")).find(|name| byte_of(name).is_none()) {
            return Err(failed(format!("token {name:?} is not a valid byte token")));
        }
        // The library makes an entry for each id up to the largest. Ids outside of the rows of logits are never picked.
        let is_row = |id: &Value| id.as_u64().is_some_and(|id| id < vocab as u64);
        if let Some(words) = json["model"]["vocab"].as_object_mut() {
            words.retain(|_, id| is_row(id));
        }
        if let Some(added) = json["added_tokens"].as_array_mut() {
            added.retain(|token| is_row(&token["id"]));
        }
        let words = contained(|| token_bytes_from_tokenizer_json(&json)).map_err(failed)?;
        let mut words = words.map_err(|error| failed(error.to_string()))?;
        words.resize(vocab, Vec::new()); // rows may be padded; empty tokens are never allowed
        let eos: Vec<u32> = eos.iter().copied().filter(|&eos| (eos as usize) < vocab).collect();
        let Some(&first) = eos.first() else {
            return Err(failed("found no end token, which constraints need".to_owned()));
        };
        let trie = TokTrie::from(&TokRxInfo::new(vocab as u32, first), &words).with_eos_tokens(&eos);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment).map_err(|error| failed(error.to_string()))?;
        factory.quiet();
        *factory.limits_mut() = limits(within);
        Ok(Arc::clone(self.factory.get_or_init(|| Arc::new(factory))))
    }
}

/// The tokens that end a constrained text.
pub(super) fn end_tokens(engine: &Engine) -> Result<Vec<u32>, RuntimeError> {
    let texts = engine.tokenizer()?;
    // An end token of white space, such as a line break, is text where the constraint allows it.
    let is_text = |&eos: &u32| texts.decode(&[eos]).is_ok_and(|text| !text.is_empty() && text.trim().is_empty());
    let mut eos = engine.manifest().model.eos.clone();
    eos.retain(|eos| !is_text(eos));
    if eos.is_empty() {
        eos.extend(texts.eos());
    }
    Ok(eos)
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
    /// The state before the first token.
    pub(super) fn begin(kind: &'static str, matcher: Matcher, eos: &[u32]) -> Matching {
        Matching { kind, matcher, eos: eos.to_vec() }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TINY: &str = include_str!("../../../models/tiny/tokenizer.json");

    /// The error of a constraint when it is compiled, or when its first tokens are picked.
    fn error(constraint: &Constraint) -> Option<String> {
        // On a busy machine, a thread may not run for seconds.
        error_within(constraint, &ConstraintLimits { time: Duration::MAX, ..ConstraintLimits::default() })
    }

    fn error_within(constraint: &Constraint, within: &ConstraintLimits) -> Option<String> {
        let factory = Vocabulary::default().factory(TINY.as_bytes(), (512, &[2]), within).unwrap();
        let matcher = match compile(&factory, &Threads::default(), constraint, (within.time, &Cancel::new())) {
            Ok(matcher) => matcher,
            Err(error) => return Some(error.to_string()),
        };
        let mut matching = Matching { kind: constraint.kind(), matcher, eos: vec![2] };
        for _ in 0..50 {
            let allowed = match matching.allowed(true) {
                Ok(allowed) => allowed,
                Err(error) => return Some(error.to_string()),
            };
            let token = (0..512).find(|&token| token != 2 && allowed.contains(token)).unwrap_or(2);
            if matching.take(token).unwrap() {
                break;
            }
        }
        None
    }

    #[test]
    fn an_error_is_a_sentence() {
        let schema = Constraint::JsonSchema;
        let lark = |text: &str| Constraint::Lark(text.to_owned());
        let regex = |text: &str| Constraint::Regex(text.to_owned());
        let nothing = "no text satisfies it, or none from here on";
        for (constraint, expected) in [
            (schema(json!({"$ref": "#"})), format!("JSON schema: {nothing}")),
            (lark("start: start"), format!("grammar: {nothing}")),
            (schema(json!({"type": "strin"})), "JSON schema: Invalid type: strin".to_owned()),
            (
                schema(json!({"type": "integer", "minimum": 3, "maximum": 2})),
                "JSON schema: Unsatisfiable schema: minimum (3) is greater than maximum (2)".to_owned(),
            ),
            (regex("(a"), "regular expression: unclosed group".to_owned()),
            (lark("start: foo\n"), "grammar: at 1(8): unknown name: \"foo\"".to_owned()),
            (lark("start: /(a/\n"), "grammar: unclosed group".to_owned()),
            (lark(""), "grammar: no start rule found".to_owned()),
        ] {
            assert_eq!(error(&constraint), Some(expected));
        }
    }

    #[test]
    fn numbers_that_divide_by_much_are_refused() {
        let schema = |schema: Value| error(&Constraint::JsonSchema(schema));
        let refused =
            |found: Option<String>| found.is_some_and(|error| error.contains("multipleOf: found a product of"));
        let all = json!({"allOf": [{"type": "integer", "multipleOf": 9973}, {"multipleOf": 9967}]});
        assert!(refused(schema(json!({"type": "integer", "multipleOf": 99_999_989}))));
        assert!(refused(schema(json!({"type": "number", "multipleOf": 9_999.999_1}))));
        assert!(refused(schema(all.clone())));
        let worded = json!({"description": "%json", "allOf": all["allOf"]});
        for text in [all.to_string(), all.to_string().replace("multipleOf", "multiple\\u004ff"), worded.to_string()] {
            assert!(refused(error(&Constraint::Lark(format!("start: \"%json\" | %json {text}\n")))), "{text}");
        }
        for harmless in [json!(1), json!(0.01), json!(2.5), json!(5000)] {
            assert!(!refused(schema(json!({"type": "number", "multipleOf": harmless}))), "{harmless}");
        }
        let property = json!({"type": "object", "properties": {"multipleOf": {"enum": [1]}}});
        assert_eq!(schema(property), None);
    }

    #[test]
    fn work_beyond_the_limits_is_refused() {
        let constraint = Constraint::Lark("start: T\nT: /(a|b)*a(a|b){9}/ & /(a|b)*b(a|b){9}/\n".to_owned());
        let within = |limits| error_within(&constraint, &limits);
        let none = ConstraintLimits { fuel: 0, ..ConstraintLimits::default() };
        assert_eq!(within(none).as_deref(), Some("grammar: it takes too much work to compile"));
        let few = ConstraintLimits { states: 10, ..ConstraintLimits::default() };
        assert!(within(few).is_some_and(|error| error.starts_with("grammar: ")));
    }

    #[test]
    fn tokens_outside_of_the_logits_take_no_memory() {
        let mut tokenizer: Value = serde_json::from_str(TINY).unwrap();
        tokenizer["model"]["vocab"]["far"] = u32::MAX.into();
        tokenizer["added_tokens"][0]["id"] = 4_000_000_000_u32.into();
        let within = ConstraintLimits::default();
        let factory = Vocabulary::default().factory(tokenizer.to_string().as_bytes(), (512, &[2]), &within);
        assert!(factory.is_ok());
    }

    #[test]
    fn bombs_are_refused_in_a_sentence_or_harmless() {
        let schema = Constraint::JsonSchema;
        let values: Vec<Value> = (0..50_000).map(|i| format!("value number {i}").into()).collect();
        let properties: serde_json::Map<String, Value> = (0..3000)
            .map(|i| (format!("key{i}"), json!({"type": "string", "pattern": format!("a{i}[0-9]+")})))
            .collect();
        let chain: String = (0..20_000).map(|i| format!("r{i}: r{}\n", i + 1)).collect();
        let short_chain: String = (0..9000).map(|i| format!("r{i}: r{}\n", i + 1)).collect();
        let lark_both = |one: &str, other: &str| Constraint::Lark(format!("start: T\nT: /{one}/ & /{other}/\n"));
        let parentheses = |n: usize| format!("{}a{}", "(".repeat(n), ")".repeat(n));
        for (constraint, is_refused) in [
            (schema(json!({"enum": values})), true),
            (schema(json!({"type": "object", "properties": properties})), true),
            (schema(json!({"type": "string", "minLength": 100_000})), false),
            (schema(json!({"type": "array", "items": {"type": "integer"}, "minItems": 1_000_000})), false),
            (Constraint::Regex("(a?){2000}a{2000}".to_owned()), false),
            (Constraint::Regex("((a{1,100}){1,100}){1,100}".to_owned()), true),
            (Constraint::Regex("[ab]*a[ab]{22}".to_owned()), false),
            // Texts that both expressions match: there is none, and 2^25 states to find that out.
            (lark_both("(a|b)*a(a|b){25}", "(a|b)*b(a|b){25}"), true),
            (
                schema(json!({"allOf": [
                    {"type": "string", "pattern": "^(a|b)*a(a|b){25}$"}, {"pattern": "^(a|b)*b(a|b){25}$"},
                ]})),
                true,
            ),
            (Constraint::Regex(parentheses(100_000)), true),
            (Constraint::Regex(parentheses(10_000)), true),
            (Constraint::Lark(format!("start: {}\n", parentheses(10_000))), true),
            (Constraint::Lark(format!("{chain}r20000: \"x\"\nstart: r0\n")), true),
            (Constraint::Lark(format!("{short_chain}r9000: \"x\"\nstart: r0\n")), false),
        ] {
            let found = error(&constraint);
            assert_eq!(found.is_some(), is_refused, "{found:?}");
            let text = found.unwrap_or_default();
            assert!(text.len() < 400 && !text.contains(['\n', '<']), "{text}");
        }
    }
}
