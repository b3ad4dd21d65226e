//! Limits that neither model.toml nor an option chose: from the model's positions and the memory of this machine.
//!
//! A sequence gets as many of the model's positions as fit. Up to four sequences share the keys and values of what memory is left.

use std::fmt;

use anyhow::Result;
use jamba_plan::format::{KV_PAGE_TOKENS, TargetKind};

use crate::doctor::size;
use crate::fit::{Fitter, most};
use crate::manifest::{Limits, ModelFile};

/// The number of sequences, if they fit.
const SEQUENCES: u64 = 4;

/// The memory of the smallest GPU that runs sm_90a plans. The machine that builds a plan need not have the GPU.
const GPU_BYTES: u64 = 80_000_000_000;

/// Limits are rounded down to multiples of this.
const ROUND: u64 = 1024;

/// Chosen limits, for a message.
#[derive(Debug)]
pub struct Chosen {
    context: u64,
    sequences: u64,
    kv_tokens: u64,
    memory: u64,
    place: &'static str,
    fits: bool,
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Chosen { context, sequences, kv_tokens, memory, place, fits } = self;
        let s = if *sequences == 1 { "" } else { "s" };
        write!(
            f,
            "limits: context of {context} tokens, {sequences} sequence{s}, {kv_tokens} tokens of keys and values"
        )?;
        match fits {
            true => write!(f, ", chosen for the {} of {place} (--max-context, --max-sequences)", size(*memory)),
            false => write!(
                f,
                ", which three quarters of the {} of {place} cannot hold: `jambac fit MODEL --memory SIZE` lists what fits",
                size(*memory)
            ),
        }
    }
}

/// Sets the limits that were not chosen. Returns `None` if both were, or if this machine's memory is unknown.
pub fn choose(model: &mut ModelFile) -> Result<Option<Chosen>> {
    if !model.unset.context && !model.unset.sequences {
        return Ok(None);
    }
    let Some((memory, place)) = memory(model) else { return Ok(None) };
    choose_for(model, share_of(memory)).map(|chosen| Some(Chosen { memory, place, ..chosen }))
}

/// The memory of the machine that runs a model's plans, as far as it is known, and what has it.
pub(crate) fn memory(model: &ModelFile) -> Option<(u64, &'static str)> {
    let has = |kind: TargetKind| model.build.targets.iter().any(|target| target.kind() == kind);
    let ours = jamba_runtime::machine::memory().map(|memory| memory.most());
    let ours = ours.filter(|_| has(TargetKind::Cpu)).map(|bytes| (bytes, "this machine"));
    let gpu = has(TargetKind::Sm90a).then_some((GPU_BYTES, "an H100"));
    ours.into_iter().chain(gpu).min()
}

/// What a plan takes of a memory: a quarter stays free for other programs and for the system.
pub(crate) fn share_of(memory: u64) -> u64 {
    memory / 4 * 3
}

fn choose_for(model: &mut ModelFile, budget: u64) -> Result<Chosen> {
    let fitter = Fitter::new(model)?;
    if model.unset.context {
        let sequences = if model.unset.sequences { 1 } else { model.limits.max_sequences };
        let least = model.limits.max_context.min(fitter.max_positions());
        let longest = Some(rounded(fitter.longest(sequences, budget)?.0)).filter(|&context| context > 0);
        // Keys and values that were chosen hold at least one sequence.
        let most = model.limits.kv_tokens.unwrap_or(u64::MAX);
        model.limits.max_context = longest.unwrap_or(least).min(most);
    }
    if model.unset.sequences {
        share(&mut model.limits, &fitter, budget)?;
    }
    model.check()?;
    let fits = fitter.total(&model.limits)? <= budget;
    let (context, sequences, kv_tokens) = (model.limits.max_context, model.limits.max_sequences, model.kv_tokens());
    Ok(Chosen { context, sequences, kv_tokens, memory: budget, place: "", fits })
}

/// Sets the number of sequences and, unless they were chosen, the tokens of keys and values that they share: at least one full
/// context.
fn share(limits: &mut Limits, fitter: &Fitter, budget: u64) -> Result<()> {
    let one = limits.max_context.next_multiple_of(KV_PAGE_TOKENS);
    let given = limits.kv_tokens;
    let with = |sequences: u64, kv_tokens: u64| Limits {
        max_sequences: sequences,
        kv_tokens: Some(kv_tokens),
        ..limits.clone()
    };
    let least = with(SEQUENCES, given.unwrap_or(one));
    let sequences = if fitter.total(&least)? <= budget { SEQUENCES } else { 1 };
    let pages = one / KV_PAGE_TOKENS;
    let more = most(pages * (sequences - 1), |more| {
        Ok(fitter.total(&with(sequences, (pages + more) * KV_PAGE_TOKENS))? <= budget)
    })?;
    let all = (pages + more) * KV_PAGE_TOKENS;
    let shared = if all == one * sequences { all } else { rounded(all).max(one) };
    let kv_tokens = given.unwrap_or(shared);
    *limits = with(sequences, kv_tokens);
    Ok(())
}

/// Rounds down to a number that is easy to read.
fn rounded(tokens: u64) -> u64 {
    if tokens < ROUND { tokens } else { tokens / ROUND * ROUND }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::manifest::Unset;

    /// A model without limits of its own: the folder's config.json alone.
    fn bare(name: &str) -> (tempfile::TempDir, ModelFile) {
        let folder = tempfile::tempdir().unwrap();
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
        std::fs::copy(models.join(name).join("config.json"), folder.path().join("config.json")).unwrap();
        let model = ModelFile::open(folder.path()).unwrap();
        (folder, model)
    }

    fn chosen(model: &ModelFile, budget: u64) -> (u64, u64, u64) {
        let mut model = model.clone();
        let chosen = choose_for(&mut model, budget).unwrap();
        assert!(!chosen.fits || Fitter::new(&model).unwrap().need(|_| ()).unwrap().total() <= budget);
        (chosen.context, chosen.sequences, chosen.kv_tokens)
    }

    #[test]
    fn the_context_grows_with_the_memory() {
        let (_folder, model) = bare("jamba-3b");
        let all = Fitter::new(&model).unwrap().max_positions();
        let (context, sequences, kv_tokens) = chosen(&model, 1 << 40);
        assert_eq!((context, sequences, kv_tokens), (all, 4, 4 * all));
        let weights = Fitter::new(&model).unwrap().need(|_| ()).unwrap().total();
        let (context, sequences, kv_tokens) = chosen(&model, weights + (1 << 28));
        assert!((4096..all).contains(&context) && context % 1024 == 0, "{context}");
        assert!(kv_tokens >= context && kv_tokens < 2 * context && [1, 4].contains(&sequences));
        // Weights alone do not fit: the old defaults, and the message says so.
        let mut small = model.clone();
        let chosen = choose_for(&mut small, 1 << 20).unwrap();
        assert!(!chosen.fits && chosen.to_string().contains("cannot hold"));
        assert_eq!((chosen.context, chosen.sequences), (4096, 1));
    }

    #[test]
    fn what_was_chosen_stays() {
        let (_folder, mut model) = bare("jamba-3b");
        model.unset.context = false;
        model.limits.max_context = 5000;
        assert_eq!(chosen(&model, 1 << 40), (5000, 4, 4 * 5008));
        let kv = ModelFile { unset: Unset { context: true, sequences: false }, ..model.clone() };
        let kv = ModelFile { limits: Limits { kv_tokens: Some(6000), ..kv.limits.clone() }, ..kv };
        assert_eq!(chosen(&kv, 1 << 40), (6000, 1, 6000));
        model.unset.sequences = false;
        assert!(choose(&mut model).unwrap().is_none());
        assert_eq!((model.limits.max_context, model.limits.max_sequences), (5000, 1));
    }
}
