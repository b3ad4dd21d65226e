//! Log probabilities of tokens, in the two forms that OpenAI's API has.

use std::collections::BTreeMap;

use jamba_runtime::{NewToken, Tokenizer};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A token in the form of chats.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChatToken {
    #[serde(flatten)]
    token: Candidate,
    top_logprobs: Vec<Candidate>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Candidate {
    token: String,
    logprob: f64,
    bytes: Vec<u8>,
}

impl Candidate {
    fn new(tokenizer: &Tokenizer, token: u32, logprob: f32) -> Candidate {
        let bytes = tokenizer.token_bytes(token).unwrap_or_default();
        Candidate { token: String::from_utf8_lossy(&bytes).into_owned(), logprob: logprob.into(), bytes }
    }
}

impl ChatToken {
    pub(super) fn new(tokenizer: &Tokenizer, token: &NewToken) -> Option<ChatToken> {
        let logprob = token.logprob?;
        Some(ChatToken {
            token: Candidate::new(tokenizer, token.token, logprob),
            top_logprobs: token.top.iter().map(|&(token, logprob)| Candidate::new(tokenizer, token, logprob)).collect(),
        })
    }
}

/// Tokens in the form of completions.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct CompletionTokens {
    tokens: Vec<String>,
    /// f64, so that they are printed with the same digits as in `top_logprobs`: clients compare the two.
    token_logprobs: Vec<Option<f64>>,
    /// By the text of the token.
    #[schema(value_type = Vec<Option<Object>>)]
    top_logprobs: Vec<Option<Map<String, Value>>>,
    text_offset: Vec<usize>,
    /// Characters so far.
    #[serde(skip)]
    n_chars: usize,
}

impl CompletionTokens {
    /// Tokens that follow `n_chars` characters.
    pub(super) fn after(n_chars: usize) -> CompletionTokens {
        CompletionTokens { n_chars, ..CompletionTokens::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    pub(super) fn n_chars(&self) -> usize {
        self.n_chars
    }

    /// Appends a token. The first of a prompt has no probability.
    pub(super) fn push(&mut self, tokenizer: Option<&Tokenizer>, token: u32, logprob: Option<f32>, top: &[(u32, f32)]) {
        let text = |token: u32| match tokenizer {
            Some(tokenizer) => tokenizer.token_text(token).unwrap_or_default(),
            None => format!("token_id:{token}"),
        };
        let name = text(token);
        let top = logprob.map(|logprob| {
            // Tokens of equal text share a key: the more likely one stays. The token itself is among them, with the same number.
            let mut all: BTreeMap<String, f32> = BTreeMap::new();
            for &(token, logprob) in top {
                let known = all.entry(text(token)).or_insert(f32::NEG_INFINITY);
                *known = known.max(logprob);
            }
            let known = all.entry(name.clone()).or_insert(f32::NEG_INFINITY);
            *known = known.max(logprob);
            all.into_iter().map(|(text, logprob)| (text, f64::from(logprob).into())).collect()
        });
        self.text_offset.push(self.n_chars);
        self.n_chars += name.chars().count();
        self.tokens.push(name);
        self.token_logprobs.push(logprob.map(f64::from));
        self.top_logprobs.push(top);
    }
}
