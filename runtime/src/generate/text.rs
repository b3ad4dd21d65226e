//! The text of an answer, up to a stop string.

use crate::{Engine, GenerateOptions, RuntimeError, StopStrings, TextStream};

/// The text of an answer in progress.
pub(super) struct AnswerText {
    stream: TextStream,
    stops: StopStrings,
    /// The text that was emitted.
    text: String,
}

impl AnswerText {
    /// The answer to `before`: the tokens of the sequence, and the prompt. None if no text is requested, or if the plan has no tokenizer and the options need none.
    pub(super) fn new(
        engine: &Engine,
        options: &GenerateOptions,
        before: [&[u32]; 2],
    ) -> Result<Option<AnswerText>, RuntimeError> {
        let is_needed = needs_text(options);
        if options.tokens_only && !is_needed {
            return Ok(None);
        }
        let tokenizer = match engine.tokenizer() {
            Ok(tokenizer) => tokenizer,
            Err(RuntimeError::NoSection(_)) if !is_needed => return Ok(None),
            Err(error) => return Err(error),
        };
        let stops = StopStrings::new(options.stop.clone())?;
        let stops = if options.include_stop { stops.keep_match() } else { stops };
        let stream = tokenizer.answer_stream(&before.concat(), options.special_tokens, &options.stop);
        Ok(Some(AnswerText { stream, stops, text: String::new() }))
    }

    /// Appends a token and returns the text that became final.
    pub(super) fn push(&mut self, token: u32) -> Result<String, RuntimeError> {
        let news = self.stops.push(&self.stream.push(token)?);
        self.text += &news;
        Ok(news)
    }

    /// Appends a token whose text cannot stop the answer.
    pub(super) fn push_early(&mut self, token: u32) -> Result<String, RuntimeError> {
        let news = self.stream.push(token)?;
        self.text += &news;
        Ok(news)
    }

    /// True if a stop string was found.
    pub(super) fn is_stopped(&self) -> bool {
        self.stops.is_stopped()
    }

    /// The whole text, and its held back end.
    pub(super) fn finish(mut self) -> Result<(String, String), RuntimeError> {
        let mut rest = self.stops.push(&self.stream.finish()?);
        rest += &self.stops.finish();
        self.text += &rest;
        Ok((self.text, rest))
    }
}

/// True if the options depend on the text.
fn needs_text(options: &GenerateOptions) -> bool {
    #[cfg(feature = "constrain")]
    if options.constraint.is_some() || options.compiled.is_some() {
        return true;
    }
    !options.stop.is_empty()
}
