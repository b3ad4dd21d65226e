//! An answer as an iterator.

use super::{Generated, Generation, NewToken};
use crate::{Engine, GenerateOptions, RuntimeError, SequenceId};

/// What a [`Stream`] yields.
#[derive(Clone, Debug)]
pub enum StreamEvent {
    /// The next token.
    Token(NewToken),
    /// The end, with all there was; the last event.
    Done(Generated),
}

/// An answer, token by token. Nothing runs but when the next one is asked for; dropping it ends the answer.
pub struct Stream<'e> {
    engine: &'e mut Engine,
    /// None after the last event.
    generation: Option<Generation>,
    /// The sequence that ends with the stream.
    own: Option<SequenceId>,
}

impl Engine {
    /// Generates from a prompt in a sequence of its own, which ends with the stream.
    ///
    /// ```
    /// use jamba_runtime::{Engine, GenerateOptions, OpenOptions, StreamEvent};
    ///
    /// let mut engine = Engine::open("examples/toy.plan".as_ref(), OpenOptions::default())?;
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

    /// Generates in a sequence that goes on afterwards: a chat. The last new token was not fed to it yet.
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
    /// Wants no more tokens: the next event is the last.
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
            // The sequence exists: only the stream could have removed it.
            let _ = self.engine.remove_sequence(sequence);
        }
    }
}
