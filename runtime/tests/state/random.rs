//! Random operations on sequences, compared with a model that tracks tokens and page holders.

use std::collections::{BTreeMap, BTreeSet};

use jamba_runtime::{RuntimeError, Snapshot};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::*;
use crate::fixture::LIMITS;

const N_PAGES: usize = (LIMITS.kv_tokens / PAGE as u64) as usize;

/// An operation. Sequences and snapshots are indices into the live ones.
#[derive(Clone, Debug)]
enum Deed {
    Add,
    Remove(usize),
    Fork(usize),
    /// A step: pairs of sequence and number of tokens.
    Step(Vec<(usize, usize)>),
    Checkpoint(usize),
    Rollback(usize, usize),
    Snapshot(usize),
    Restore(usize),
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let which = || 0..3usize;
    let deed = prop_oneof![
        2 => Just(Deed::Add),
        1 => which().prop_map(Deed::Remove),
        2 => which().prop_map(Deed::Fork),
        5 => vec((which(), 1..14usize), 1..4).prop_map(Deed::Step),
        1 => which().prop_map(Deed::Checkpoint),
        2 => (which(), 0..16usize).prop_map(|(id, n)| Deed::Rollback(id, n)),
        1 => which().prop_map(Deed::Snapshot),
        1 => which().prop_map(Deed::Restore),
    ];
    vec(deed, 1..60)
}

/// The model of a sequence.
#[derive(Clone)]
struct Known {
    tokens: Vec<u32>,
    /// Page numbers; shared pages have the same number.
    pages: Vec<usize>,
    checkpoint: Option<usize>,
}

/// An engine and its model.
#[derive(Clone, Default)]
struct Model {
    live: BTreeMap<SequenceId, Known>,
    n_named: usize,
}

impl Model {
    fn name_page(&mut self) -> usize {
        self.n_named += 1;
        self.n_named
    }

    fn used(&self) -> usize {
        self.live.values().flat_map(|known| &known.pages).collect::<BTreeSet<_>>().len()
    }

    fn nth(&self, index: usize) -> Option<SequenceId> {
        self.live.keys().nth(index % self.live.len().max(1)).copied()
    }

    /// Appends tokens to a sequence of the model, without checking for room.
    fn read(&mut self, id: SequenceId, tokens: &[u32]) {
        let past = self.live[&id].tokens.len();
        if !past.is_multiple_of(PAGE) {
            let page = self.live[&id].pages[past / PAGE];
            if self.live.iter().any(|(other, known)| *other != id && known.pages.contains(&page)) {
                let copy = self.name_page();
                self.live.get_mut(&id).unwrap().pages[past / PAGE] = copy;
            }
        }
        while self.live[&id].pages.len() < (past + tokens.len()).div_ceil(PAGE) {
            let page = self.name_page();
            self.live.get_mut(&id).unwrap().pages.push(page);
        }
        self.live.get_mut(&id).unwrap().tokens.extend(tokens);
    }

    fn cut(&mut self, id: SequenceId, n_tokens: usize) {
        let known = self.live.get_mut(&id).unwrap();
        known.tokens.truncate(n_tokens);
        known.pages.truncate(n_tokens.div_ceil(PAGE));
    }
}

struct Test {
    engine: Engine,
    model: Model,
    snapshots: Vec<Snapshot>,
    n_fed: u32,
}

impl Test {
    /// Applies an operation to engine and model, which must agree on success and results.
    fn perform(&mut self, deed: &Deed) -> Result<(), TestCaseError> {
        let has_slot = self.model.live.len() < LIMITS.max_sequences as usize;
        match deed {
            Deed::Add => {
                let added = self.engine.add_sequence();
                prop_assert_eq!(added.is_ok(), has_slot);
                if let Ok(id) = added {
                    self.model.live.insert(id, Known { tokens: vec![], pages: vec![], checkpoint: None });
                }
            }
            Deed::Remove(index) => {
                let Some(id) = self.model.nth(*index) else { return Ok(()) };
                self.engine.remove_sequence(id).unwrap();
                self.model.live.remove(&id);
                prop_assert!(matches!(self.engine.tokens(id), Err(RuntimeError::UnknownSequence(_))));
            }
            Deed::Fork(index) => {
                let Some(id) = self.model.nth(*index) else { return Ok(()) };
                let forked = self.engine.fork(id);
                prop_assert_eq!(forked.is_ok(), has_slot);
                if let Ok(fork) = forked {
                    let known = Known { checkpoint: None, ..self.model.live[&id].clone() };
                    self.model.live.insert(fork, known);
                }
            }
            Deed::Step(feeds) => self.step(feeds)?,
            Deed::Checkpoint(index) => {
                let Some(id) = self.model.nth(*index) else { return Ok(()) };
                self.engine.checkpoint(id).unwrap();
                let known = self.model.live.get_mut(&id).unwrap();
                known.checkpoint = Some(known.tokens.len());
            }
            Deed::Rollback(index, n) => self.rollback(*index, *n)?,
            Deed::Snapshot(index) => {
                let Some(id) = self.model.nth(*index) else { return Ok(()) };
                let snapshot = match self.snapshots.last() {
                    Some(earlier) => self.engine.snapshot_after(id, earlier),
                    None => self.engine.snapshot(id),
                };
                self.snapshots.push(snapshot.unwrap());
            }
            Deed::Restore(index) => {
                let Some(snapshot) = self.snapshots.get(*index % self.snapshots.len().max(1)) else { return Ok(()) };
                let n_pages = snapshot.tokens().len().div_ceil(PAGE);
                let restored = self.engine.restore(snapshot);
                prop_assert_eq!(restored.is_ok(), has_slot && self.model.used() + n_pages <= N_PAGES);
                if let Ok(id) = restored {
                    let tokens = snapshot.tokens().to_vec();
                    let pages = (0..n_pages).map(|_| self.model.name_page()).collect();
                    self.model.live.insert(id, Known { tokens, pages, checkpoint: None });
                }
            }
        }
        Ok(())
    }

    fn step(&mut self, feeds: &[(usize, usize)]) -> Result<(), TestCaseError> {
        let mut fed: BTreeMap<SequenceId, Vec<u32>> = BTreeMap::new();
        for &(index, n) in feeds {
            let Some(id) = self.model.nth(index) else { return Ok(()) };
            self.n_fed += 1;
            fed.insert(id, text(n, self.n_fed));
        }
        let feeds: Vec<Feed<'_>> = fed.iter().map(|(&id, tokens)| last(id, tokens)).collect();
        let mut after = self.model.clone();
        fed.iter().for_each(|(&id, tokens)| after.read(id, tokens));
        let is_long = fed.keys().any(|id| after.live[id].tokens.len() > LIMITS.max_context as usize);
        let found: Result<Vec<f32>, RuntimeError> =
            self.engine.step(&feeds).map(|logits| logits.rows().map(|row| row[0]).collect());
        prop_assert_eq!(found.is_ok(), !is_long && after.used() <= N_PAGES);
        if let Ok(found) = found {
            let expected: Vec<f32> = fed.keys().map(|id| expected(&after.live[id].tokens)).collect();
            prop_assert_eq!(found, expected);
            self.model = after;
        }
        Ok(())
    }

    fn rollback(&mut self, index: usize, n: usize) -> Result<(), TestCaseError> {
        let Some(id) = self.model.nth(index) else { return Ok(()) };
        let Known { tokens, checkpoint, .. } = self.model.live[&id].clone();
        let end = tokens.len().checked_sub(n).filter(|&end| checkpoint.is_some_and(|checkpoint| checkpoint <= end));
        let mut after = self.model.clone();
        if let (Some(checkpoint), Some(end)) = (checkpoint, end)
            && n > 0
        {
            after.cut(id, checkpoint);
            if end > checkpoint {
                after.read(id, &tokens[checkpoint..end]);
            }
        }
        let done = self.engine.rollback(id, n as u64);
        prop_assert_eq!(done.is_ok(), end.is_some() && after.used() <= N_PAGES);
        if done.is_ok() {
            self.model = after;
        }
        Ok(())
    }

    /// Invariants between engine and model.
    fn compare(&self) -> Result<(), TestCaseError> {
        let Model { live, .. } = &self.model;
        let slots = LIMITS.max_sequences - live.len() as u64;
        prop_assert_eq!(self.engine.free(), (slots, (N_PAGES - self.model.used()) as u64));
        for (&id, known) in live {
            prop_assert_eq!(self.engine.tokens(id).unwrap(), &known.tokens);
        }
        Ok(())
    }

    /// Continues every sequence alone, then removes all and checks that everything is free.
    fn finish(&mut self) -> Result<(), TestCaseError> {
        let live = std::mem::take(&mut self.model.live);
        let snapshots: Vec<(SequenceId, Snapshot)> =
            live.keys().map(|&id| (id, self.engine.snapshot(id).unwrap())).collect();
        for &id in live.keys() {
            self.engine.remove_sequence(id).unwrap();
        }
        prop_assert_eq!(self.engine.free(), (LIMITS.max_sequences, N_PAGES as u64));
        for (id, snapshot) in snapshots {
            if live[&id].tokens.len() == LIMITS.max_context as usize {
                continue;
            }
            let again = self.engine.restore(&snapshot).unwrap();
            let row = self.engine.prefill(again, &[7], None, None).unwrap().row(0)[0];
            prop_assert_eq!(row, expected(&[&live[&id].tokens[..], &[7]].concat()));
            self.engine.remove_sequence(again).unwrap();
        }
        prop_assert_eq!(self.engine.free(), (LIMITS.max_sequences, N_PAGES as u64));
        Ok(())
    }
}

#[test]
fn any_life_of_sequences_is_as_the_model_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = Toy::new().write(folder.path(), "toy.plan");
    let config = ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(deeds in deeds())| {
        let options = OpenOptions { threads: Some(1), debug: DebugOptions::CHECK, ..OpenOptions::default() };
        let engine = Engine::open(&path, options).unwrap();
        let mut test = Test { engine, model: Model::default(), snapshots: Vec::new(), n_fed: 0 };
        for deed in &deeds {
            test.perform(deed)?;
            test.compare()?;
        }
        test.finish()?;
    });
}
