//! Forks, snapshots, rollbacks, and initialization of memory.

use jamba_plan::format::KV_PAGE_TOKENS;
use jamba_runtime::{DebugOptions, Engine, OpenOptions, Outputs, SequenceId, Snapshot};

use crate::fake::{Call, Fake};
use crate::plan::{PAGE_BYTES, STATE_BYTES, Toy, WEIGHT, answers};
use crate::{answer, feed, open_with, prompt, toy};

const W: u32 = WEIGHT as u32;

fn last(engine: &mut Engine, id: SequenceId, tokens: &[u32]) -> f32 {
    answer(engine, &[feed(id, tokens, Outputs::Last)])[0]
}

fn expected(parts: &[&[u32]]) -> f32 {
    answers(&parts.concat(), W).pop().unwrap()
}

#[test]
fn a_fork_copies_a_slot_and_the_page_that_both_write() {
    let (mut engine, calls) = toy(OpenOptions::default());
    let (begin, a, b) = (prompt(20, 1), prompt(5, 2), prompt(7, 3));
    let first = engine.add_sequence().unwrap();
    last(&mut engine, first, &begin);
    let (kv, state) = (calls.region("KV pool").0, calls.region("state pool").0);
    calls.take();
    let fork = engine.fork(first).unwrap();
    assert_eq!(calls.take(), [Call::Copy(state, state + STATE_BYTES, STATE_BYTES)]);
    assert_eq!(last(&mut engine, first, &a), expected(&[&begin, &a]));
    // The second page is partially filled and shared: the first writer copies it to the third.
    assert_eq!(calls.take()[0], Call::Copy(kv + PAGE_BYTES, kv + 2 * PAGE_BYTES, PAGE_BYTES));
    assert_eq!(last(&mut engine, fork, &b), expected(&[&begin, &b]));
    assert!(calls.take().iter().all(|call| call.name() != "copy"));
}

#[test]
fn a_snapshot_goes_on_in_another_engine() {
    let folder = tempfile::tempdir().unwrap();
    let path = Toy::new().write(folder.path());
    let fake = Fake::new();
    let calls = fake.calls();
    let mut engine =
        Engine::open(&path, OpenOptions { driver: Some(Box::new(fake)), ..OpenOptions::default() }).unwrap();
    let (begin, more) = (prompt(37, 1), prompt(4, 2));
    let id = engine.add_sequence().unwrap();
    last(&mut engine, id, &begin);
    calls.take();
    let snapshot = engine.snapshot(id).unwrap();
    assert_eq!(calls.take_names(), ["download"; 4]); // three pages and a slot
    assert_eq!(snapshot.bytes(), STATE_BYTES + 37_u64.div_ceil(KV_PAGE_TOKENS) * PAGE_BYTES + 37 * 4);
    let file = folder.path().join("jamba.state");
    snapshot.save(&file).unwrap();

    let fake = Fake::new();
    let mut other =
        Engine::open(&path, OpenOptions { driver: Some(Box::new(fake)), ..OpenOptions::default() }).unwrap();
    let snapshot = Snapshot::load(&file, &other).unwrap();
    let restored = other.restore(&snapshot).unwrap();
    assert_eq!(last(&mut other, restored, &more), expected(&[&begin, &more]));
    assert_eq!(last(&mut engine, id, &more), expected(&[&begin, &more]));
}

#[test]
fn a_rollback_reads_again_what_stays() {
    for options in [OpenOptions::default(), OpenOptions { debug: DebugOptions::CHECK, ..OpenOptions::default() }] {
        let (mut engine, _) = toy(options);
        let (begin, draft) = (prompt(30, 1), prompt(6, 2));
        let id = engine.add_sequence().unwrap();
        last(&mut engine, id, &begin);
        engine.checkpoint(id).unwrap();
        last(&mut engine, id, &draft);
        engine.rollback(id, 4).unwrap();
        assert_eq!(last(&mut engine, id, &[8]), expected(&[&begin, &draft[..2], &[8]]));
        engine.rollback(id, 3).unwrap();
        assert_eq!(last(&mut engine, id, &[9]), expected(&[&begin, &[9]]));
    }
}

#[test]
fn checks_fill_what_nobody_may_read() {
    let options = OpenOptions { debug: DebugOptions::CHECK, ..OpenOptions::default() };
    let (mut engine, calls) = open_with(Toy::new(), Fake::new(), options).unwrap();
    const GUARD: usize = 4096;
    let inside = |what: &str| {
        let (_, content) = calls.region(what);
        content[GUARD..content.len() - GUARD].to_vec()
    };
    assert!(inside("state pool").iter().chain(&inside("KV pool")).all(|&byte| byte == 0xff));
    let id = engine.add_sequence().unwrap();
    assert_eq!(inside("state pool")[..STATE_BYTES as usize], [0; STATE_BYTES as usize]);
    last(&mut engine, id, &prompt(20, 1));
    let page = |index: usize| inside("KV pool")[index * PAGE_BYTES as usize..][..PAGE_BYTES as usize].to_vec();
    assert!(page(1)[..16] != [0xff; 16] && page(1)[16..] == [0xff; PAGE_BYTES as usize - 16]);
    engine.remove_sequence(id).unwrap();
    assert!(inside("state pool").iter().chain(&inside("KV pool")).all(|&byte| byte == 0xff));
}
