//! `jambac build --for-serving MEMORY`: limits for a server, whose sequences share the memory.
//!
//! Clients seldom use the whole context at the same time, so each sequence gets the keys and values of a quarter of it, and all of
//! them those of one whole context at least. Where that leaves too few sequences, the context is halved. Limits that model.toml or
//! an option chose stay.

use std::fmt;

use anyhow::{Result, bail};
use jamba_plan::format::{KV_PAGE_TOKENS, TargetKind};

use crate::doctor::size;
use crate::fit::{Fitter, most, shortage};
use crate::manifest::{Limits, ModelFile};

/// Numbers of sequences that are tried, the best first.
const SEQUENCES: [u64; 7] = [64, 32, 16, 8, 4, 2, 1];

/// The context is halved until this many sequences fit.
const ENOUGH: u64 = 4;

/// The longest context that is chosen, and the shortest that halving ends at.
const CONTEXT: (u64, u64) = (32_768, 1024);

/// A sequence's share of the keys and values of a whole context.
const SHARE: u64 = 4;

/// Memory for the prefix cache and the server: an eighth, but at most this. On a GPU they are not in its memory.
const BESIDE: u64 = 2 << 30;

/// Part of that for the prefix cache.
const CACHE_SHARE: (u64, u64) = (3, 4);

/// What was chosen, and how to serve it.
#[derive(Debug, PartialEq, Eq)]
pub struct Chosen {
    context: u64,
    sequences: u64,
    kv_tokens: u64,
    bytes: u64,
    memory: u64,
    /// Memory of the prefix cache, if it shares that of the plan.
    cache_mib: Option<u64>,
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Chosen { context, sequences, kv_tokens, bytes, memory, cache_mib } = self;
        let s = if *sequences == 1 { "" } else { "s" };
        write!(
            f,
            "limits: context of {context} tokens, {sequences} sequence{s}, {kv_tokens} tokens of keys and values: {} of the {} of \
             --for-serving",
            size(*bytes),
            size(*memory)
        )?;
        match cache_mib {
            Some(mib) => write!(f, "; serve it with --cache-mib {mib}"),
            None => Ok(()),
        }
    }
}

/// Sets the limits for a server that has `memory` bytes.
///
/// # Errors
/// Nothing fits.
pub fn choose(model: &mut ModelFile, memory: u64) -> Result<Chosen> {
    let fitter = Fitter::new(model)?;
    let shares_memory = model.build.targets.iter().all(|target| target.kind() == TargetKind::Cpu);
    let beside = if shares_memory { (memory / 8).min(BESIDE) } else { 0 };
    let budget = memory - beside;
    let contexts = contexts(model, fitter.max_positions());
    let mut best: Option<Limits> = None;
    for &context in &contexts {
        let Some(limits) = with_context(model, &fitter, budget, context)? else { continue };
        let is_enough = limits.max_sequences >= ENOUGH || !model.unset.sequences;
        // Of contexts with too few sequences, the longest.
        if is_enough || best.is_none() {
            best = Some(limits);
        }
        if is_enough {
            break;
        }
    }
    let Some(limits) = best else {
        let sequences = if model.unset.sequences { 1 } else { model.limits.max_sequences };
        let shortest = contexts.last().copied().unwrap_or(model.limits.max_context);
        let kv_tokens = model.limits.kv_tokens.unwrap_or(least(shortest, sequences));
        let asked = fitter.need(|model| {
            (model.limits.max_context, model.limits.max_sequences) = (shortest, sequences);
            model.limits.kv_tokens = Some(kv_tokens);
        })?;
        bail!("--for-serving: {}", shortage(&fitter, &asked, budget)?);
    };
    model.limits = limits;
    model.check()?;
    let bytes = fitter.total(&model.limits)?;
    let (part, whole) = CACHE_SHARE;
    Ok(Chosen {
        context: model.limits.max_context,
        sequences: model.limits.max_sequences,
        kv_tokens: model.kv_tokens(),
        bytes,
        memory,
        cache_mib: shares_memory.then_some((beside / whole * part) >> 20),
    })
}

/// The contexts to try, the best first.
fn contexts(model: &ModelFile, max_positions: u64) -> Vec<u64> {
    if !model.unset.context {
        return vec![model.limits.max_context];
    }
    let (longest, shortest) = CONTEXT;
    // Keys and values that were chosen hold at least one sequence.
    let longest = longest.min(max_positions).min(model.limits.kv_tokens.unwrap_or(u64::MAX));
    let halves = std::iter::successors(Some(longest), |context| Some(context / 2));
    halves.take_while(|&context| context >= shortest.min(longest)).collect()
}

/// The fewest tokens of keys and values for this many sequences: a quarter of the context each, and at least one whole context.
fn least(context: u64, sequences: u64) -> u64 {
    (context / SHARE * sequences).max(context).next_multiple_of(KV_PAGE_TOKENS)
}

/// The limits with the most sequences of this context, and all the keys and values that they can use; `None` if not one fits.
fn with_context(model: &ModelFile, fitter: &Fitter, budget: u64, context: u64) -> Result<Option<Limits>> {
    let given = model.limits.kv_tokens;
    let with = |sequences: u64, kv_tokens: u64| Limits {
        max_context: context,
        max_sequences: sequences,
        kv_tokens: Some(given.unwrap_or(kv_tokens)),
        ..model.limits.clone()
    };
    let own = [model.limits.max_sequences];
    for &sequences in if model.unset.sequences { &SEQUENCES[..] } else { &own } {
        let least = least(context, sequences);
        if fitter.total(&with(sequences, least))? > budget {
            continue;
        }
        let all = context.next_multiple_of(KV_PAGE_TOKENS) * sequences;
        let more = most(all.saturating_sub(least) / KV_PAGE_TOKENS, |pages| {
            Ok(fitter.total(&with(sequences, least + pages * KV_PAGE_TOKENS))? <= budget)
        })?;
        return Ok(Some(with(sequences, least + more * KV_PAGE_TOKENS)));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A model without limits of its own: the folder's config.json alone.
    fn bare(name: &str) -> (tempfile::TempDir, ModelFile) {
        let folder = tempfile::tempdir().unwrap();
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
        std::fs::copy(models.join(name).join("config.json"), folder.path().join("config.json")).unwrap();
        let model = ModelFile::open(folder.path()).unwrap();
        (folder, model)
    }

    #[test]
    fn more_memory_serves_more_sequences() {
        let (_folder, model) = bare("jamba-3b");
        let mut before = (0, 0, 0);
        for gib in [8, 16, 64, 1024] {
            let mut model = model.clone();
            let chosen = choose(&mut model, gib << 30).unwrap();
            let now = (chosen.sequences, chosen.context, chosen.kv_tokens);
            assert!(now >= before, "{gib} GiB: {now:?} after {before:?}");
            assert!(chosen.bytes + chosen.cache_mib.unwrap() * (1 << 20) <= gib << 30, "{chosen:?}");
            assert!(chosen.kv_tokens >= chosen.context && chosen.kv_tokens <= chosen.context * chosen.sequences);
            assert_eq!(Fitter::new(&model).unwrap().need(|_| ()).unwrap().total(), chosen.bytes);
            before = now;
        }
        assert_eq!(before, (64, 32_768, 64 * 32_768));
    }

    #[test]
    fn what_was_chosen_stays_and_what_cannot_fit_is_refused() {
        let (_folder, mut model) = bare("jamba-3b");
        let error = choose(&mut model.clone(), 1 << 30).unwrap_err().to_string();
        assert!(
            error.starts_with("--for-serving: ") && error.contains("too few for") && error.contains("int8"),
            "{error}"
        );
        model.unset.sequences = false;
        model.limits.max_sequences = 3;
        let chosen = choose(&mut model.clone(), 1 << 40).unwrap();
        assert_eq!((chosen.sequences, chosen.context), (3, 32_768));
        model.unset.context = false;
        model.limits.max_context = 5000;
        model.limits.kv_tokens = Some(6000);
        let chosen = choose(&mut model, 1 << 40).unwrap();
        assert_eq!((chosen.sequences, chosen.context, chosen.kv_tokens), (3, 5000, 6000));
        assert!(chosen.to_string().contains("--cache-mib 1536"), "{chosen}");
    }
}
