//! Events of a batch, and the memory that C reads them from.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char};

use jamba_runtime::{Event, PromptToken, RequestId, Usage};

use crate::generate::{JAMBA_NO_TOKEN, finish_of, jamba_finish, jamba_logprob};
use crate::snapshot::{self, jamba_snapshot};

/// A token of a prompt and its probability.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_prompt_token {
    /// The token.
    pub token: u32,
    /// Log softmax of the model's logits after the tokens before it; 0 for the first token.
    pub logprob: f32,
    /// The most likely tokens in its place, most likely first; none for the first token.
    pub top: *const jamba_logprob,
    /// Number of entries of `top`.
    pub n_top: usize,
}

/// A result of a step for one answer of a request: a token, the end of the answer, tokens of the prompt, or several of these.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_event {
    /// The request, as jamba_batch_submit numbered it.
    pub request: u64,
    /// Which of the request's answers, from 0.
    pub choice: usize,
    /// The new token; JAMBA_NO_TOKEN if there is none.
    pub token: u32,
    /// Its log probability, if requested.
    pub logprob: f32,
    /// The most likely tokens, most likely first, if requested.
    pub top: *const jamba_logprob,
    /// Number of entries of `top`.
    pub n_top: usize,
    /// The text that became final, zero-terminated UTF-8: whole characters, no part of a stop string. In the last event of an
    /// answer also the text that was held back.
    pub text: *const c_char,
    /// Size of the text in bytes.
    pub text_length: usize,
    /// The reason why the answer ended, a jamba_finish; JAMBA_FINISH_NONE if it goes on.
    pub finish: i32,
    /// The message of an answer that failed, otherwise null.
    pub error: *const c_char,
    /// Tokens of the prompt that were read in this step, if the request asks for their probabilities.
    pub prompt: *const jamba_prompt_token,
    /// Number of entries of `prompt`.
    pub n_prompt: usize,
    /// The state that the request keeps, in the last event of answer 0, or 0. The caller closes it.
    pub state: jamba_snapshot,
    /// The seed of the answer's draws.
    pub seed: u64,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Prompt tokens that were not read for this answer: they came from the cache or, for answers after the first, from that
    /// one.
    pub cached_tokens: usize,
    /// Tokens of the answer so far.
    pub new_tokens: usize,
    /// How often the answer gave way to others.
    pub preemptions: u32,
    /// Time before the request had a sequence, in seconds.
    pub queue_seconds: f64,
    /// Time from then to the first new token, in seconds.
    pub prefill_seconds: f64,
    /// Time from then to the last new token, in seconds.
    pub decode_seconds: f64,
}

/// The events of a step, and what they point to.
#[derive(Default)]
pub(crate) struct Told {
    events: Vec<jamba_event>,
    texts: Vec<CString>,
    tops: Vec<Box<[jamba_logprob]>>,
    prompts: Vec<Box<[jamba_prompt_token]>>,
}

// SAFETY: the pointers are to heap memory that the same value owns; this crate never dereferences them, and passes them to C
// only while the engine's lock is held.
unsafe impl Send for Told {}

impl Told {
    /// Keeps the events of a step. `requests` has the number of each request.
    pub(crate) fn keep(&mut self, events: &[Event], requests: &BTreeMap<RequestId, u64>) {
        *self = Told::default();
        for event in events {
            let event = self.told(event, requests);
            self.events.push(event);
        }
    }

    /// The events, valid until the next ones are kept.
    pub(crate) fn events(&self) -> &[jamba_event] {
        &self.events
    }

    fn told(&mut self, event: &Event, requests: &BTreeMap<RequestId, u64>) -> jamba_event {
        let token = event.token.as_ref();
        let text = token.map_or("", |token| &token.text).to_owned() + &event.rest;
        let (text, text_length) = self.text(&text);
        let (top, n_top) = self.top(token.map_or(&[], |token| &token.top));
        let (prompt, n_prompt) = self.prompt(&event.prompt);
        let error = event.error.as_ref().map_or(std::ptr::null(), |error| self.text(&error.to_string()).0);
        let Usage { prompt_tokens, cached_tokens, new_tokens, preemptions, queue, prefill, decode } = event.usage;
        jamba_event {
            request: requests.get(&event.request).copied().unwrap_or_default(),
            choice: event.choice,
            token: token.map_or(JAMBA_NO_TOKEN, |token| token.token),
            logprob: token.and_then(|token| token.logprob).unwrap_or(0.0),
            top,
            n_top,
            text,
            text_length,
            finish: event.finish.map_or(jamba_finish::JAMBA_FINISH_NONE, finish_of) as i32,
            error,
            prompt,
            n_prompt,
            state: event.state.clone().map_or(jamba_snapshot { id: 0 }, snapshot::keep),
            seed: event.seed,
            prompt_tokens,
            cached_tokens,
            new_tokens,
            preemptions,
            queue_seconds: queue.as_secs_f64(),
            prefill_seconds: prefill.as_secs_f64(),
            decode_seconds: decode.as_secs_f64(),
        }
    }

    fn text(&mut self, text: &str) -> (*const c_char, usize) {
        let text = CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default();
        let told = (text.as_ptr(), text.as_bytes().len());
        self.texts.push(text); // moves the pointer to the bytes, not the bytes
        told
    }

    fn top(&mut self, top: &[(u32, f32)]) -> (*const jamba_logprob, usize) {
        let top: Box<[jamba_logprob]> = top.iter().map(|&(token, logprob)| jamba_logprob { token, logprob }).collect();
        let told = (top.as_ptr(), top.len());
        self.tops.push(top);
        told
    }

    fn prompt(&mut self, tokens: &[PromptToken]) -> (*const jamba_prompt_token, usize) {
        let tokens: Box<[jamba_prompt_token]> = tokens
            .iter()
            .map(|told| {
                let (top, n_top) = self.top(&told.top);
                jamba_prompt_token { token: told.token, logprob: told.logprob.unwrap_or(0.0), top, n_top }
            })
            .collect();
        let told = (tokens.as_ptr(), tokens.len());
        self.prompts.push(tokens);
        told
    }
}
