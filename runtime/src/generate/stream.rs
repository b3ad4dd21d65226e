//! Generation as an iterator.

use super::{Generated, Generation, NewToken};
use crate::{Engine, GenerateOptions, RuntimeError, SequenceId};

/// An item of a [`Stream`].
#[derive(Clone, Debug)]
pub enum StreamEvent {
    /// A new token.
    Token(NewToken),
    /// The end, with the complete result. This is the last event.
    Done(Generated),
}

/// An iterator over the tokens of an answer. Each call of `next` runs one step. Dropping it ends the generation.
pub struct Stream<'e> {
    engine: &'e mut Engine,
    turn: Turn,
    /// A temporary sequence, removed on drop.
    own: Option<SequenceId>,
}

/// An answer in an existing sequence that borrows the engine for one token at a time, so that other steps can run in between.
///
/// ```
/// use jamba_runtime::{Engine, GenerateOptions, OpenOptions, StreamEvent};
///
/// let mut engine = Engine::open("examples/toy.plan", OpenOptions::default())?;
/// let options = GenerateOptions { max_new: 5, ..GenerateOptions::default() };
/// let (first, second) = (engine.add_sequence()?, engine.add_sequence()?);
/// let mut turns = [engine.turn(first, &[1, 20, 30], &options)?, engine.turn(second, &[1, 40], &options)?];
/// let mut n_tokens = 0;
/// while let [Some(first), Some(second)] = turns.each_mut().map(|turn| turn.next(&mut engine)) {
///     n_tokens += [first?, second?].iter().filter(|event| matches!(event, StreamEvent::Token(_))).count();
/// }
/// assert_eq!(n_tokens, 10);
/// # Ok::<(), jamba_runtime::RuntimeError>(())
/// ```
pub struct Turn {
    /// None after the last event.
    generation: Option<Generation>,
}

impl Engine {
    /// Generates from a prompt in a temporary sequence, which is removed with the stream.
    ///
    /// # Errors
    /// Fails if the options are invalid or there is no free state slot. Errors of the prompt are the stream's first item.
    ///
    /// ```
    /// use jamba_runtime::{Engine, GenerateOptions, OpenOptions, StreamEvent};
    ///
    /// let mut engine = Engine::open("examples/toy.plan", OpenOptions::default())?;
    /// let options = GenerateOptions { max_new: 5, logprobs: Some(2), ..GenerateOptions::default() };
    /// for event in engine.stream(&[1, 20, 30], &options)? {
    ///     match event? {
    ///         StreamEvent::Token(token) => println!("{:?} {:?} {:?}", token.text, token.logprob, token.top),
    ///         StreamEvent::Done(generated) => assert_eq!(generated.tokens.len(), 5),
    ///     }
    /// }
    /// # Ok::<(), jamba_runtime::RuntimeError>(())
    /// ```
    pub fn stream(&mut self, prompt: &[u32], options: &GenerateOptions) -> Result<Stream<'_>, RuntimeError> {
        let sequence = self.add_sequence()?;
        match Generation::new(self, sequence, prompt.to_vec(), options.clone()) {
            Ok(generation) => Ok(Stream { engine: self, turn: Turn::of(generation), own: Some(sequence) }),
            Err(error) => {
                self.remove_sequence(sequence)?;
                Err(error)
            }
        }
    }

    /// Generates in an existing sequence that can be continued, for example a chat. The last new token is not yet part of the
    /// sequence.
    pub fn stream_in(
        &mut self,
        sequence: SequenceId,
        prompt: &[u32],
        options: &GenerateOptions,
    ) -> Result<Stream<'_>, RuntimeError> {
        let turn = self.turn(sequence, prompt, options)?;
        Ok(Stream { engine: self, turn, own: None })
    }

    /// As [`Engine::stream_in`], without borrowing the engine until the end. The caller feeds the sequence nothing meanwhile.
    ///
    /// # Errors
    /// Fails if the options are invalid or the sequence does not exist. Errors of the prompt are the first event.
    pub fn turn(&self, sequence: SequenceId, prompt: &[u32], options: &GenerateOptions) -> Result<Turn, RuntimeError> {
        Ok(Turn::of(Generation::new(self, sequence, prompt.to_vec(), options.clone())?))
    }
}

impl Turn {
    fn of(generation: Generation) -> Turn {
        Turn { generation: Some(generation) }
    }

    /// Stops the generation: the next event is [`StreamEvent::Done`].
    pub fn stop(&mut self) {
        if let Some(generation) = &mut self.generation {
            generation.stop();
        }
    }

    /// True if the next event is [`StreamEvent::Done`], or there is none.
    pub fn has_ended(&self) -> bool {
        self.generation.as_ref().is_none_or(|generation| generation.finish.is_some())
    }

    /// Runs a step on the engine that made the turn, the whole prompt at first. None after the last event.
    pub fn next(&mut self, engine: &mut Engine) -> Option<Result<StreamEvent, RuntimeError>> {
        let generation = self.generation.as_mut()?;
        match generation.next(engine) {
            Ok(Some(token)) => Some(Ok(StreamEvent::Token(token))),
            Ok(None) => self.generation.take().map(|generation| generation.finish().map(StreamEvent::Done)),
            Err(error) => {
                self.generation = None;
                Some(Err(error))
            }
        }
    }
}

impl Stream<'_> {
    /// Stops the generation: the next event is [`StreamEvent::Done`].
    pub fn stop(&mut self) {
        self.turn.stop();
    }
}

impl Iterator for Stream<'_> {
    type Item = Result<StreamEvent, RuntimeError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.turn.next(self.engine)
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        if let Some(sequence) = self.own {
            // Cannot fail with an unknown sequence: the stream borrows the engine.
            let _ = self.engine.remove_sequence(sequence);
        }
    }
}
