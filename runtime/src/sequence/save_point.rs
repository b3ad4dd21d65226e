//! Save points: places in a sequence that it can return to.

use std::sync::Arc;

use crate::device::Piece;
use crate::{Engine, RuntimeError, SequenceId};

/// The conv and SSM state of a sequence after its first tokens, in host memory. Clones share their bytes.
///
/// Keys and values are not copied: a sequence keeps them while it has the tokens. A sequence can have any number of save
/// points, one per turn of a chat for example; [`Engine::checkpoint`] keeps one.
#[derive(Clone, Debug)]
pub struct SavePoint {
    plan: blake3::Hash,
    target: Arc<str>,
    n_tokens: u64,
    /// Digest of the tokens.
    tokens: blake3::Hash,
    state: Arc<[u8]>,
}

impl SavePoint {
    pub(crate) fn new(plan: blake3::Hash, target: &Arc<str>, tokens: &[u32], state: Arc<[u8]>) -> SavePoint {
        SavePoint { plan, target: target.clone(), n_tokens: tokens.len() as u64, tokens: digest(tokens), state }
    }

    /// True if a sequence with these tokens has the point.
    pub(crate) fn is_of(&self, (plan, target): (blake3::Hash, &str), tokens: &[u32]) -> bool {
        let begin = tokens.get(..self.n_tokens as usize);
        self.plan == plan && *self.target == *target && begin.is_some_and(|begin| digest(begin) == self.tokens)
    }

    /// The state slot.
    pub(crate) fn state(&self) -> &[u8] {
        &self.state
    }

    /// Number of tokens of the sequence at this point.
    pub fn n_tokens(&self) -> u64 {
        self.n_tokens
    }

    /// Host memory in bytes.
    pub fn bytes(&self) -> u64 {
        self.state.len() as u64
    }
}

fn digest(tokens: &[u32]) -> blake3::Hash {
    blake3::hash(bytemuck::cast_slice(tokens))
}

impl Engine {
    /// Copies the conv and SSM state of a sequence to host memory, one state slot.
    pub fn save_point(&self, id: SequenceId) -> Result<SavePoint, RuntimeError> {
        self.device.health()?;
        let slot = self.sequences.slot_of(id)?;
        let tokens = self.tokens(id)?;
        let mut state = vec![0; self.memory().state_slot as usize];
        self.device.read(Piece::Slot(slot), &mut state);
        self.device.health()?;
        Ok(SavePoint::new(self.plan_digest(), &self.target().into(), tokens, state.into()))
    }

    /// True if [`Engine::rewind`] can return to this point: the sequence starts with the point's tokens.
    pub fn can_rewind(&self, id: SequenceId, point: &SavePoint) -> Result<bool, RuntimeError> {
        Ok(point.is_of((self.plan_digest(), self.target()), self.tokens(id)?))
    }

    /// Returns a sequence to a save point: removes all later tokens, frees their pages and restores the state. It then
    /// continues bit-identically.
    ///
    /// # Errors
    /// Fails, without changing anything, if the sequence does not start with the tokens of the save point.
    ///
    /// ```
    /// # #[path = "../../tests/fixture/mod.rs"] mod fixture;
    /// # use jamba_runtime::{Engine, OpenOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let plan = fixture::Toy::new().write(folder.path(), "jamba.plan");
    /// # let mut engine = Engine::open(&plan, OpenOptions::default())?;
    /// let sequence = engine.add_sequence()?;
    /// engine.prefill(sequence, &[1, 20, 30], None, None)?;
    /// let point = engine.save_point(sequence)?;
    /// let first = engine.prefill(sequence, &[40, 50], None, None)?.row(0).to_vec();
    ///
    /// engine.rewind(sequence, &point)?;
    /// assert_eq!(engine.tokens(sequence)?, [1, 20, 30]);
    /// assert_eq!(engine.prefill(sequence, &[40, 50], None, None)?.row(0), first);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn rewind(&mut self, id: SequenceId, point: &SavePoint) -> Result<(), RuntimeError> {
        self.device.health()?;
        self.check_plan("save point", point.plan)?;
        if *point.target != *self.target() {
            let (found, expected) = (point.target.to_string(), self.target().to_owned());
            return Err(RuntimeError::OtherTarget { what: "save point", found, expected });
        }
        if !self.can_rewind(id, point)? {
            return Err(RuntimeError::OtherTokens { n_tokens: point.n_tokens, len: self.len(id)? });
        }
        let slot = self.sequences.rewind(id, point.n_tokens, &mut *self.device)?;
        self.device.write(Piece::Slot(slot), &point.state);
        self.device.health()
    }
}
