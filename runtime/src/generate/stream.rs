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
    /// None after the last event.
    generation: Option<Generation>,
    /// A temporary sequence, removed on drop.
    own: Option<SequenceId>,
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
            Ok(generation) => Ok(Stream { engine: self, generation: Some(generation), own: Some(sequence) }),
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
        let generation = Generation::new(self, sequence, prompt.to_vec(), options.clone())?;
        Ok(Stream { engine: self, generation: Some(generation), own: None })
    }
}

impl Stream<'_> {
    /// Stops the generation: the next event is [`StreamEvent::Done`].
    pub fn stop(&mut self) {
        if let Some(generation) = &mut self.generation {
            generation.stop();
        }
    }
}

impl Iterator for Stream<'_> {
    type Item = Result<StreamEvent, RuntimeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let generation = self.generation.as_mut()?;
        match generation.next(self.engine) {
            Ok(Some(token)) => Some(Ok(StreamEvent::Token(token))),
            Ok(None) => self.generation.take().map(|generation| generation.finish().map(StreamEvent::Done)),
            Err(error) => {
                self.generation = None;
                Some(Err(error))
            }
        }
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
