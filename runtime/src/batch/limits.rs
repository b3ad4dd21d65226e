//! Limits of the engine that a batch keeps to.

use jamba_plan::format::KV_PAGE_TOKENS;

use crate::{Engine, RuntimeError};

/// Limits of an engine.
pub(super) struct Limits {
    pub(super) max_context: u64,
    pub(super) max_sequences: usize,
    /// Total number of KV pages; None for models without attention.
    n_pages: Option<u64>,
    pub(super) vocab: usize,
    pub(super) step_tokens: usize,
    pub(super) step_outputs: usize,
}

impl Limits {
    pub(super) fn new(engine: &Engine) -> Limits {
        let manifest = engine.manifest();
        Limits {
            max_context: manifest.limits.max_context,
            max_sequences: manifest.limits.max_sequences as usize,
            n_pages: (engine.memory().kv_page > 0).then_some(manifest.limits.kv_tokens / KV_PAGE_TOKENS),
            vocab: manifest.model.vocab as usize,
            step_tokens: engine.max_step_tokens(),
            step_outputs: engine.max_step_outputs(),
        }
    }

    /// Number of KV pages of a sequence of `n_tokens` tokens.
    pub(super) fn pages(&self, n_tokens: usize) -> u64 {
        self.n_pages.map_or(0, |_| (n_tokens as u64).div_ceil(KV_PAGE_TOKENS))
    }

    /// Fails for a prompt that can never run.
    pub(super) fn check_prompt(&self, prompt: &[u32]) -> Result<(), RuntimeError> {
        if prompt.is_empty() {
            return Err(RuntimeError::NoTokens);
        }
        if let Some(&token) = prompt.iter().find(|&&token| token as usize >= self.vocab) {
            return Err(RuntimeError::TokenOutOfRange { token, vocab: self.vocab as u64 });
        }
        let (wanted, max_context) = (prompt.len() as u64, self.max_context);
        if wanted > max_context {
            return Err(RuntimeError::ContextFull { wanted, max_context });
        }
        match (self.pages(prompt.len()), self.n_pages) {
            (wanted, Some(most)) if wanted > most => Err(RuntimeError::PoolTooSmall { wanted, most }),
            _ => Ok(()),
        }
    }
}
