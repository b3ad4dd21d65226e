//! Moved state, on plans with real kernels: a sequence that was forked, restored, loaded, rolled back, or started from a cached
//! prefix continues with the bits of an unmoved one. All unused state is NaN.

use std::path::Path;

use jamba_runtime::{DebugOptions, Engine, Feed, OpenOptions, Outputs, PrefixCache, SequenceId, Snapshot};
use jambac::compile::{Progress, Request, build};
use jambac::manifest::{ModelFile, targets};

use crate::fixtures::{Fixture, max_difference};
use crate::oracle::{logits, open, plan};

/// Positions at which sequences are moved: on page boundaries (16 tokens), next to them and far from them.
const PLACES: [usize; 7] = [1, 7, 15, 16, 17, 64, 100];

/// An engine that fills unused slots and pages with NaN.
fn poisoned(path: &Path) -> Engine {
    Engine::open(path, OpenOptions { threads: Some(2), debug: DebugOptions::CHECK, ..OpenOptions::default() }).unwrap()
}

fn begin(engine: &mut Engine, tokens: &[u32]) -> SequenceId {
    let id = engine.add_sequence().unwrap();
    engine.prefill(id, tokens, Some(24), None).unwrap();
    id
}

/// Feeds tokens and returns the logits of each.
fn rows(engine: &mut Engine, sequence: SequenceId, tokens: &[u32]) -> Vec<Vec<f32>> {
    let logits = engine.step(&[Feed { sequence, tokens, outputs: Outputs::All }]).unwrap();
    logits.rows().map(<[f32]>::to_vec).collect()
}

/// Prefills `tokens` into a sequence and moves it; other sequences may remain in the engine.
type Moved = fn(&mut Engine, &[u32]) -> SequenceId;

fn forked(engine: &mut Engine, tokens: &[u32]) -> SequenceId {
    let first = begin(engine, tokens);
    let fork = engine.fork(first).unwrap();
    rows(engine, first, &[5, 6, 7]);
    fork
}

fn restored(engine: &mut Engine, tokens: &[u32]) -> SequenceId {
    let first = begin(engine, tokens);
    let snapshot = engine.snapshot(first).unwrap();
    rows(engine, first, &[5, 6, 7]);
    engine.remove_sequence(first).unwrap();
    begin(engine, &[9; 20]);
    engine.restore(&snapshot).unwrap()
}

fn loaded(engine: &mut Engine, tokens: &[u32]) -> SequenceId {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.state");
    let mut other = open(engine.path(), 1);
    begin(&mut other, &[9; 20]);
    let first = begin(&mut other, tokens);
    other.snapshot(first).unwrap().save(&path).unwrap();
    engine.restore(&Snapshot::load(&path, engine).unwrap()).unwrap()
}

fn rolled_back(engine: &mut Engine, tokens: &[u32]) -> SequenceId {
    let (before, after) = tokens.split_at(tokens.len() - tokens.len() / 3);
    let id = begin(engine, before);
    engine.checkpoint(id).unwrap();
    rows(engine, id, &[after, &[5; 19]].concat());
    engine.rollback(id, 19).unwrap();
    id
}

fn cached(engine: &mut Engine, tokens: &[u32]) -> SequenceId {
    let mut cache = PrefixCache::new(1 << 30).with_interval(8);
    let (first, _) = engine.prefill_cached(&mut cache, &[tokens, &[5, 6, 7]].concat(), None, None).unwrap();
    engine.remove_sequence(first).unwrap();
    let (id, _) = engine.prefill_cached(&mut cache, tokens, None, None).unwrap();
    assert_eq!(cache.counters().hits, u64::from(tokens.len() > 8));
    id
}

#[test]
fn moved_sequences_go_on_with_the_bits_of_a_fresh_run() {
    let moves: [(&str, Moved); 5] = [
        ("forked", forked),
        ("restored", restored),
        ("loaded", loaded),
        ("rolled back", rolled_back),
        ("cached", cached),
    ];
    for name in ["tiny", "odd", "sharded_moe"] {
        let fixture = Fixture::open(name);
        let folder = tempfile::tempdir().unwrap();
        let path = plan(&fixture.checkpoint, folder.path(), "all", "x86-64-v3");
        let ids = fixture.prompt(128).ids;
        let fresh = logits(&mut open(&path, 2), &ids, 128);
        for place in PLACES {
            for (how, moved) in moves {
                let mut engine = poisoned(&path);
                let id = moved(&mut engine, &ids[..place]);
                assert!(rows(&mut engine, id, &ids[place..]) == fresh[place..], "{name}, {how} at {place}");
                assert_eq!(engine.tokens(id).unwrap(), ids);
            }
        }
    }
}

#[test]
fn forks_diverge_in_one_step_and_each_gets_its_own_bits() {
    let fixture = Fixture::open("tiny");
    let folder = tempfile::tempdir().unwrap();
    let path = plan(&fixture.checkpoint, folder.path(), "all", "x86-64-v3");
    let ids = fixture.prompt(128).ids;
    let mut engine = poisoned(&path);
    for place in PLACES {
        let first = begin(&mut engine, &ids[..place]);
        let forks = [first, engine.fork(first).unwrap(), engine.fork(first).unwrap()];
        let tails = [&ids[place..place + 20], &ids[40..45], &ids[3..20]];
        let feeds = [0, 1, 2].map(|i| Feed { sequence: forks[i], tokens: tails[i], outputs: Outputs::All });
        let mut found: Vec<Vec<f32>> = engine.step(&feeds).unwrap().rows().map(<[f32]>::to_vec).collect();
        forks.iter().for_each(|&fork| engine.remove_sequence(fork).unwrap());
        for tail in tails {
            let alone = begin(&mut engine, &ids[..place]);
            let rest = found.split_off(tail.len());
            assert!(rows(&mut engine, alone, tail) == found, "forked at {place}");
            found = rest;
            engine.remove_sequence(alone).unwrap();
        }
    }
}

/// Another instruction set level continues from the same state, with its own rounding.
#[test]
fn state_moves_between_levels_of_one_plan() {
    let fixture = Fixture::open("dense_tied");
    let folder = tempfile::tempdir().unwrap();
    let mut model = ModelFile::open(&fixture.checkpoint).unwrap();
    model.build.targets = targets(&["x86-64-v2", "x86-64-v3"]).unwrap();
    model.limits.max_context = 256;
    model.limits.max_outputs = 128;
    let path = folder.path().join("levels.plan");
    build(&Request::new(model, path.clone()), &Progress::hidden()).unwrap();
    let prompt = fixture.prompt(128);
    let with = |isa: &str| {
        let options = OpenOptions { isa: Some(isa.to_owned()), threads: Some(1), ..OpenOptions::default() };
        Engine::open(&path, options).unwrap()
    };
    for (from, to) in [("x86-64-v3", "x86-64-v2"), ("x86-64-v2", "x86-64-v3")] {
        let (mut first, mut second) = (with(from), with(to));
        let id = begin(&mut first, &prompt.ids[..50]);
        let snapshot = first.snapshot(id).unwrap();
        assert_eq!(snapshot.target(), from);
        let id = second.restore(&snapshot).unwrap();
        let found = rows(&mut second, id, &prompt.ids[50..]);
        let behind = prompt.rows.iter().zip(prompt.logits.chunks(found[0].len())).filter(|(row, _)| **row >= 50);
        let mut compared = 0;
        for (&row, expected) in behind {
            let (difference, at) = max_difference(&found[row - 50], expected);
            assert!(difference <= prompt.tolerance(), "{from} to {to}, row {row}: {difference:e} at {at}");
            compared += 1;
        }
        assert!(compared > 0);
    }
}
