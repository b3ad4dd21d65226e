//! The prefix cache: hits, memory, and identical results.

use jamba_runtime::{Pool, PrefixCache, PrefixCounters, RuntimeError};

use super::*;

/// Sizes of the toy model's state slot and of a page, in bytes.
const PIECE: u64 = 64;

#[track_caller]
fn ask(engine: &mut Engine, cache: &mut PrefixCache, tokens: &[u32]) -> SequenceId {
    let (id, logits) = engine.prefill_cached(cache, tokens, None, None).unwrap();
    assert_eq!((logits.len(), logits.row(0)[0]), (1, expected(tokens)));
    assert_eq!(engine.tokens(id).unwrap(), tokens);
    id
}

#[test]
fn hits_answer_as_misses_do() {
    for interval in [0, 1, 5, PAGE, 20] {
        let (_folder, mut engine) = toy();
        let mut cache = PrefixCache::new(1 << 20).with_interval(interval);
        let shared = text(37, 1);
        for (n, salt) in [(0, 1), (5, 2), (5, 2), (20, 3), (5, 2), (30, 2)] {
            for cut in [37, 36, 18, 37] {
                let tokens = [&shared[..cut], &text(n, salt)].concat();
                let id = ask(&mut engine, &mut cache, &tokens);
                go_on(&mut engine, id, &text(6, 9));
                engine.remove_sequence(id).unwrap();
            }
        }
        let PrefixCounters { prompts, hits, tokens_saved, tokens_read, .. } = cache.counters();
        assert!(prompts == 24 && hits > 16 && tokens_saved > tokens_read, "{:?}", cache.counters());
        assert_eq!(engine.free(), (3, 10));
    }
}

#[test]
fn counters_say_what_was_saved_and_what_is_held() {
    let (_folder, mut engine) = toy();
    let mut cache = PrefixCache::new(1 << 20).with_interval(PAGE);
    let tokens = text(40, 1);
    let first = ask(&mut engine, &mut cache, &tokens);
    // Snapshots at 16, 32 and 39 tokens: three slots and three shared pages.
    let bytes = 3 * PIECE + 3 * PIECE + 4 * (16 + 32 + 39);
    let counters = PrefixCounters { prompts: 1, tokens_read: 40, snapshots: 3, bytes, ..PrefixCounters::default() };
    assert_eq!(cache.counters(), counters);
    let second = ask(&mut engine, &mut cache, &tokens);
    let counters = PrefixCounters { prompts: 2, hits: 1, tokens_saved: 39, tokens_read: 41, ..counters };
    assert_eq!(cache.counters(), counters);
    // A prompt that differs after 33 tokens starts from the snapshot at 32. There is another one where it parts.
    let other = [&tokens[..33], &[7, 8, 9, 10]].concat();
    let third = ask(&mut engine, &mut cache, &other);
    let bytes = bytes + 2 * (PIECE + PIECE) + 4 * (33 + 36);
    let counters =
        PrefixCounters { prompts: 3, hits: 2, tokens_saved: 71, tokens_read: 46, snapshots: 5, bytes, ..counters };
    assert_eq!(cache.counters(), counters);
    for id in [first, second, third] {
        go_on(&mut engine, id, &[3]);
    }
}

#[test]
fn the_budget_is_kept() {
    for budget in [0, 100, 200, 400, 1000, 3000] {
        let (_folder, mut engine) = toy();
        let mut cache = PrefixCache::new(budget).with_interval(8);
        for salt in 0..12 {
            let tokens = text(10 + 7 * salt as usize, salt % 4);
            let id = ask(&mut engine, &mut cache, &tokens);
            assert!(cache.counters().bytes <= budget, "{budget}: {:?}", cache.counters());
            engine.remove_sequence(id).unwrap();
        }
        let PrefixCounters { snapshots, evictions, hits, .. } = cache.counters();
        assert_eq!((snapshots > 0, evictions > 0), (budget >= 200, budget >= 200), "{budget}");
        assert!(hits > 0 || budget < 3000, "{budget}");
    }
}

#[test]
fn what_cannot_be_begun_changes_nothing() {
    let (folder, mut engine) = toy();
    let mut cache = PrefixCache::new(1 << 20).with_interval(8);
    let id = ask(&mut engine, &mut cache, &text(60, 1)); // 4 pages
    let before = (engine.free(), cache.counters());
    let mut refused = |engine: &mut Engine, tokens: &[u32]| {
        let error = engine.prefill_cached(&mut cache, tokens, None, None).map(|_| ()).unwrap_err();
        assert_eq!((engine.free(), cache.counters()), before);
        error
    };
    assert!(matches!(refused(&mut engine, &[]), RuntimeError::NoTokens));
    assert!(matches!(refused(&mut engine, &[1, 300]), RuntimeError::TokenOutOfRange { token: 300, .. }));
    assert!(matches!(refused(&mut engine, &[1; 101]), RuntimeError::ContextFull { wanted: 101, .. }));
    let long = refused(&mut engine, &[&text(60, 1)[..], &[1; 40]].concat());
    assert!(matches!(long, RuntimeError::PoolExhausted { pool: Pool::Kv, wanted: 7, free: 6 }), "{long}");
    let fork = engine.fork(id).unwrap();
    let third = engine.add_sequence().unwrap();
    let full = engine.prefill_cached(&mut cache, &[1, 2], None, None).map(|_| ()).unwrap_err();
    assert!(matches!(full, RuntimeError::PoolExhausted { pool: Pool::State, wanted: 1, free: 0 }), "{full}");
    [fork, third, id].into_iter().for_each(|id| go_on(&mut engine, id, &[5]));

    let mut foreign = Toy::new();
    foreign.manifest.model.name = "another".to_owned();
    let path = foreign.write(folder.path(), "another.plan");
    let mut another = Engine::open(&path, OpenOptions::default()).unwrap();
    let error = another.prefill_cached(&mut cache, &[1, 2], None, None).map(|_| ()).unwrap_err();
    assert!(matches!(error, RuntimeError::OtherPlan { what: "prefix cache", .. }), "{error}");
}

#[test]
fn what_one_target_computed_is_not_given_to_another() {
    let (folder, mut engine) = toy();
    let mut cache = PrefixCache::new(1 << 20);
    ask(&mut engine, &mut cache, &text(20, 1));
    let options = OpenOptions { isa: Some("x86-64".to_owned()), ..OpenOptions::default() };
    let mut baseline = Engine::open(folder.path().join("toy.plan"), options).unwrap();
    let error = baseline.prefill_cached(&mut cache, &text(20, 1), None, None).map(|_| ()).unwrap_err();
    assert!(matches!(error, RuntimeError::OtherTarget { .. }) && error.to_string().contains("x86-64-v"), "{error}");
    // Snapshots can be moved between targets.
    let snapshot = cache.longest(&text(20, 1)).unwrap();
    let id = baseline.restore(&snapshot).unwrap();
    go_on(&mut baseline, id, &text(9, 2));
}
