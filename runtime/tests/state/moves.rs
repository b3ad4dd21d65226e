//! Fork, snapshot, restore and rollback: use of the pools, bit-identical continuation, and errors.

use jamba_runtime::{Pool, RuntimeError};

use super::*;

/// Lengths at, before and after page boundaries.
const LENGTHS: [usize; 8] = [1, 7, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 2 * PAGE + 3, 3 * PAGE - 1];

#[test]
fn a_fork_shares_pages_until_it_writes() {
    for n in LENGTHS {
        let (_folder, mut engine) = toy();
        let tokens = text(n, 1);
        let first = begin(&mut engine, &tokens);
        let held = n.div_ceil(PAGE) as u64;
        let second = engine.fork(first).unwrap();
        assert_eq!((engine.free(), engine.tokens(second).unwrap()), ((1, 10 - held), &tokens[..]));
        let third = engine.fork(second).unwrap();
        assert_eq!(engine.free(), (0, 10 - held));
        // All three write in one step. The last one writes to the shared page in place, if it is not full.
        let more = [text(3, 2), text(5, 3), text(4, 4)];
        let feeds = [last(first, &more[0]), last(second, &more[1]), last(third, &more[2])];
        let found: Vec<f32> = engine.step(&feeds).unwrap().rows().map(|row| row[0]).collect();
        assert_eq!(found, more.each_ref().map(|more| expected(&[&tokens[..], more].concat())), "{n} tokens");
        let full = n / PAGE;
        let own: usize = more.iter().map(|more| (n + more.len()).div_ceil(PAGE) - full).sum();
        assert_eq!(engine.free(), (0, (10 - full - own) as u64), "{n} tokens");
        // The sequences that share pages may be removed in any order.
        for (leaving, staying) in [(second, third), (first, third)] {
            engine.remove_sequence(leaving).unwrap();
            go_on(&mut engine, staying, &[9]);
        }
        engine.remove_sequence(third).unwrap();
        assert_eq!(engine.free(), (3, 10));
    }
}

#[test]
fn a_fork_wants_a_slot_and_pages_only_to_diverge() {
    let (_folder, mut engine) = toy();
    let first = begin(&mut engine, &text(9 * PAGE - 10 - PAGE * 3, 1)); // 86 tokens: 6 pages
    let second = begin(&mut engine, &text(3 * PAGE + 1, 2)); // 4 pages: none is left
    let third = engine.fork(second).unwrap();
    let refused = engine.fork(second).unwrap_err();
    assert!(matches!(refused, RuntimeError::PoolExhausted { pool: Pool::State, wanted: 1, free: 0 }), "{refused}");
    // There is no page for a copy; after one sequence is removed, the other writes in place.
    let refused = engine.step(&[last(second, &[1]), last(third, &[2])]).map(|_| ()).unwrap_err();
    assert!(matches!(refused, RuntimeError::PoolExhausted { pool: Pool::Kv, wanted: 1, free: 0 }), "{refused}");
    let refused = engine.prefill(third, &[2], None, None).map(|_| ()).unwrap_err();
    assert!(matches!(refused, RuntimeError::PoolExhausted { pool: Pool::Kv, wanted: 1, free: 0 }), "{refused}");
    engine.remove_sequence(second).unwrap();
    go_on(&mut engine, third, &text(PAGE - 1, 5));
    go_on(&mut engine, first, &text(4, 6));
    let refused = engine.fork(second).unwrap_err();
    assert!(matches!(refused, RuntimeError::UnknownSequence(id) if id == second), "{refused}");
}

#[test]
fn a_snapshot_comes_back_in_any_engine_of_the_plan() {
    for n in LENGTHS {
        let (folder, mut engine) = toy();
        let tokens = text(n, 1);
        let first = begin(&mut engine, &tokens);
        let free = engine.free();
        let snapshot = engine.snapshot(first).unwrap();
        assert_eq!((engine.free(), snapshot.tokens()), (free, &tokens[..]));
        assert_eq!(snapshot.bytes() as usize, 64 + n.div_ceil(PAGE) * 64 + n * 4);
        assert_eq!((snapshot.plan(), snapshot.target()), (engine.plan_digest(), engine.target()));
        go_on(&mut engine, first, &text(20, 2));
        engine.remove_sequence(first).unwrap();
        let others = begin(&mut engine, &text(30, 3)); // takes the slot and the pages
        let again = engine.restore(&snapshot).unwrap();
        go_on(&mut engine, again, &text(20, 4));
        go_on(&mut engine, others, &text(5, 5));

        let options = OpenOptions { threads: Some(2), ..OpenOptions::default() };
        let mut other = Engine::open(folder.path().join("toy.plan"), options).unwrap();
        begin(&mut other, &text(40, 6));
        let elsewhere = other.restore(&snapshot).unwrap();
        go_on(&mut other, elsewhere, &text(20, 2));
    }
}

#[test]
fn a_chain_of_snapshots_holds_each_page_once() {
    let (_folder, mut engine) = toy();
    let id = begin(&mut engine, &text(PAGE + 3, 1));
    let first = engine.snapshot(id).unwrap();
    go_on(&mut engine, id, &text(PAGE, 2));
    let second = engine.snapshot_after(id, &first).unwrap();
    assert_eq!(second.bytes(), engine.snapshot(id).unwrap().bytes());
    engine.remove_sequence(id).unwrap();
    let again = engine.restore(&second).unwrap();
    go_on(&mut engine, again, &text(7, 3));
    // A snapshot that is not a prefix of the sequence shares no pages.
    let other = begin(&mut engine, &text(PAGE * 2, 9));
    let snapshot = engine.snapshot_after(other, &first).unwrap();
    let other = engine.restore(&snapshot).unwrap();
    go_on(&mut engine, other, &text(7, 3));
}

#[test]
fn snapshots_are_refused_by_name() {
    let (_folder, mut engine) = toy();
    let folder = tempfile::tempdir().unwrap();
    let mut foreign = Toy::new();
    foreign.manifest.model.name = "another".to_owned();
    let path = foreign.write(folder.path(), "another.plan");
    let mut another = Engine::open(&path, OpenOptions::default()).unwrap();
    let theirs = begin(&mut another, &text(20, 1));
    let snapshot = another.snapshot(theirs).unwrap();
    let refused = engine.restore(&snapshot).unwrap_err();
    assert!(
        matches!(refused, RuntimeError::OtherPlan { what: "snapshot", found, expected }
            if found == another.plan_digest() && expected == engine.plan_digest()),
        "{refused}"
    );
    // A sequence of another engine is rejected even if this one has the same slot.
    let ours = begin(&mut engine, &text(20, 2));
    for refused in [
        engine.snapshot(theirs).map(|_| ()),
        engine.remove_sequence(theirs),
        engine.fork(theirs).map(|_| ()),
        engine.checkpoint(theirs),
        engine.rollback(theirs, 0),
        engine.tokens(theirs).map(|_| ()),
        engine.step(&[last(theirs, &[1])]).map(|_| ()),
    ] {
        assert!(matches!(refused, Err(RuntimeError::UnknownSequence(id)) if id == theirs), "{refused:?}");
    }
    // First there are no pages, then no slot.
    let large = engine.snapshot(ours).unwrap();
    let full = begin(&mut engine, &text(100, 3)); // 7 + 2 of 10 pages
    let refused = engine.restore(&large).unwrap_err();
    assert!(matches!(refused, RuntimeError::PoolExhausted { pool: Pool::Kv, wanted: 2, free: 1 }), "{refused}");
    assert_eq!(engine.free(), (1, 1));
    engine.remove_sequence(full).unwrap();
    let ids = [engine.restore(&large).unwrap(), engine.restore(&large).unwrap()];
    let refused = engine.restore(&large).unwrap_err();
    assert!(matches!(refused, RuntimeError::PoolExhausted { pool: Pool::State, wanted: 1, free: 0 }), "{refused}");
    ids.into_iter().chain([ours]).for_each(|id| go_on(&mut engine, id, &text(10, 4)));
}

#[test]
fn rollback_is_exact() {
    for n in LENGTHS {
        for draft in [1, 4, PAGE, PAGE + 5] {
            for back in [0, 1, draft / 2, draft] {
                let (_folder, mut engine) = toy();
                let (tokens, drafted) = (text(n, 1), text(draft, 2));
                let id = begin(&mut engine, &tokens);
                engine.checkpoint(id).unwrap();
                go_on(&mut engine, id, &drafted);
                engine.rollback(id, back as u64).unwrap();
                let kept = n + draft - back;
                assert_eq!(engine.tokens(id).unwrap(), &[tokens, drafted].concat()[..kept]);
                assert_eq!(engine.free(), (2, 10 - kept.div_ceil(PAGE) as u64));
                go_on(&mut engine, id, &text(9, 3));
                // The checkpoint stays.
                engine.rollback(id, (kept + 9 - n) as u64).unwrap();
                assert_eq!(engine.len(id).unwrap(), n as u64);
                go_on(&mut engine, id, &text(9, 4));
                assert_eq!(engine.checkpoint_bytes(), 64);
                engine.remove_sequence(id).unwrap();
                assert_eq!((engine.checkpoint_bytes(), engine.free()), (0, (3, 10)));
            }
        }
    }
}

#[test]
fn forks_and_rollbacks_do_not_disturb_each_other() {
    let (_folder, mut engine) = toy();
    let id = begin(&mut engine, &text(PAGE + 4, 1));
    engine.checkpoint(id).unwrap();
    go_on(&mut engine, id, &text(PAGE, 2));
    let fork = engine.fork(id).unwrap(); // shares what the rollback gives up
    engine.rollback(id, PAGE as u64 - 2).unwrap();
    go_on(&mut engine, id, &text(12, 3));
    go_on(&mut engine, fork, &text(12, 4));
    // A fork does not inherit the checkpoint.
    let refused = engine.rollback(fork, 1).unwrap_err();
    assert!(matches!(refused, RuntimeError::TooFarBack { wanted: 1, len: 48, checkpoint: None }), "{refused}");
}

#[test]
fn rollbacks_are_refused_before_anything_changes() {
    let (_folder, mut engine) = toy();
    let id = begin(&mut engine, &text(2 * PAGE + 4, 1));
    engine.checkpoint(id).unwrap();
    go_on(&mut engine, id, &text(6, 2));
    for wanted in [7, 42, 43, u64::MAX] {
        let refused = engine.rollback(id, wanted).unwrap_err();
        assert!(
            matches!(refused, RuntimeError::TooFarBack { len: 42, checkpoint: Some(36), .. }),
            "{wanted}: {refused}"
        );
        assert!(refused.to_string().contains("the checkpoint is at 36"), "{refused}");
    }
    // A fork holds the page that must be copied, and no page is free.
    let fork = engine.fork(id).unwrap();
    let rest = begin(&mut engine, &text(100, 3)); // 7 pages
    assert_eq!(engine.free(), (0, 0));
    let refused = engine.rollback(id, 3).unwrap_err();
    assert!(matches!(refused, RuntimeError::PoolExhausted { pool: Pool::Kv, wanted: 1, free: 0 }), "{refused}");
    assert_eq!(engine.len(id).unwrap(), 42);
    // A rollback to the checkpoint itself replays and copies nothing.
    engine.rollback(id, 6).unwrap();
    engine.remove_sequence(rest).unwrap();
    go_on(&mut engine, id, &text(3, 5));
    go_on(&mut engine, fork, &text(3, 6));
}

#[test]
fn a_pool_smaller_than_one_sequence_holds_what_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let mut small = Toy::new();
    small.manifest.limits.kv_tokens = 2 * PAGE as u64;
    let path = small.write(folder.path(), "small.plan");
    let mut engine = Engine::open(&path, OpenOptions::default()).unwrap();
    let id = engine.add_sequence().unwrap();
    assert!(matches!(engine.prefill(id, &[], None, None), Err(RuntimeError::NoTokens)));
    let refused = engine.prefill(id, &text(33, 1), None, None).map(|_| ()).unwrap_err();
    assert!(matches!(refused, RuntimeError::PoolExhausted { pool: Pool::Kv, wanted: 3, free: 2 }), "{refused}");
    go_on(&mut engine, id, &text(32, 1));
    assert!(engine.prefill(id, &[1], None, None).is_err());
    let fork = engine.fork(id).unwrap(); // full pages only: nothing to copy
    assert!(engine.restore(&engine.snapshot(id).unwrap()).is_err());
    engine.remove_sequence(id).unwrap();
    assert_eq!((engine.free(), engine.len(fork).unwrap()), ((2, 0), 32));
}
