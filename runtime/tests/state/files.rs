//! `.state` files: round trips, and rejection of damaged files.

use std::path::{Path, PathBuf};

use jamba_runtime::{RuntimeError, Snapshot};

use super::*;

/// Size of the header, before the tokens.
const HEADER: usize = 192;

/// An engine, its folder, and a state file of a sequence of these tokens.
fn saved(tokens: &[u32]) -> (tempfile::TempDir, Engine, PathBuf) {
    let (folder, mut engine) = toy();
    let id = begin(&mut engine, tokens);
    let path = folder.path().join("some.state");
    engine.snapshot(id).unwrap().save(&path).unwrap();
    engine.remove_sequence(id).unwrap();
    (folder, engine, path)
}

#[test]
fn what_was_saved_goes_on_in_another_engine() {
    for n in [1, PAGE - 1, PAGE, PAGE + 1, 50] {
        let tokens = text(n, 1);
        let (folder, engine, path) = saved(&tokens);
        let snapshot = Snapshot::load(&path, &engine).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), snapshot.bytes() + HEADER as u64);
        drop(engine);
        let options = OpenOptions { threads: Some(3), ..OpenOptions::default() };
        let mut engine = Engine::open(folder.path().join("toy.plan"), options).unwrap();
        let other = begin(&mut engine, &text(33, 2)); // slot and pages are other ones than they were
        let id = engine.restore(&Snapshot::load(&path, &engine).unwrap()).unwrap();
        assert_eq!(engine.tokens(id).unwrap(), tokens);
        go_on(&mut engine, id, &text(20, 3));
        go_on(&mut engine, other, &text(20, 4));
        // The same state gives the same file, and no temporary file is left.
        let again = folder.path().join("again.state");
        Snapshot::load(&path, &engine).unwrap().save(&again).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&again).unwrap());
        let names = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(names.into_iter().all(|name| !name.to_string_lossy().starts_with('.')));
    }
}

#[test]
fn a_note_stays_with_its_state() {
    let (_folder, engine, path) = saved(&text(20, 1));
    let snapshot = Snapshot::load(&path, &engine).unwrap();
    assert_eq!(snapshot.note(), "");
    let noted = snapshot.clone().with_note("how it began: \u{e9}t\u{e9}");
    assert_eq!(noted.bytes(), snapshot.bytes() + 19);
    noted.save(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    assert_eq!(whole.len() as u64, noted.bytes() + HEADER as u64);
    assert_eq!(Snapshot::load(&path, &engine).unwrap().note(), noted.note());
    let last = whole.len() - 1;
    assert_eq!(refused(&path, &with(&whole, last, &[0xff]), &engine), "note");
    assert_eq!(refused(&path, &whole[..last], &engine), "length");
}

#[test]
fn tokens_to_read_next_stay_with_their_state() {
    for (read, next) in [(text(20, 1), text(1, 2)), (text(PAGE, 1), text(40, 2)), (text(50, 1), text(3, 2))] {
        let (_folder, mut engine, path) = saved(&read);
        let old = Snapshot::load(&path, &engine).unwrap();
        assert!(old.next().is_empty());
        let state = old.clone().with_next(&next);
        state.save(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        assert_eq!((whole[8], whole.len() as u64), (2, state.bytes() + HEADER as u64));
        assert_eq!(state.to_bytes(), whole);
        for state in [Snapshot::load(&path, &engine).unwrap(), Snapshot::from_bytes(&whole, &engine).unwrap()] {
            assert_eq!((state.tokens(), state.next(), state.note()), (&read[..], &next[..], ""));
            let id = engine.restore(&state).unwrap();
            assert_eq!(engine.tokens(id).unwrap(), read);
            go_on(&mut engine, id, &next);
            engine.remove_sequence(id).unwrap();
        }
        // Without them it is the file that older programs write and read.
        let plain = state.with_next(&[]).to_bytes();
        assert_eq!((plain[8], &plain), (1, &old.to_bytes()));
    }
}

#[test]
fn a_restored_sequence_returns_to_the_save_points_of_its_file() {
    let (_folder, mut engine, path) = saved(&text(20, 1));
    let id = begin(&mut engine, &text(5, 1));
    let first = engine.save_point(id).unwrap();
    let rest = text(40, 1)[5..].to_vec();
    go_on(&mut engine, id, &rest[..15]);
    let second = engine.save_point(id).unwrap();
    go_on(&mut engine, id, &rest[15..]);
    let foreign = begin(&mut engine, &text(5, 2));
    let others = engine.save_point(foreign).unwrap();
    let state = engine.snapshot(id).unwrap().with_points([first, others, second]).with_note("a note");
    engine.remove_sequence(foreign).unwrap();
    assert_eq!(state.points().len(), 2, "a point of another sequence is left out");
    state.save(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    assert_eq!((whole[8], whole.len() as u64), (3, state.bytes() + (HEADER + 2 * 8) as u64));
    assert_eq!(state.to_bytes(), whole);
    engine.remove_sequence(id).unwrap();
    for (place, n_tokens) in [(0, 5), (1, 20)] {
        let state = Snapshot::load(&path, &engine).unwrap();
        assert_eq!((state.tokens(), state.note()), (&text(40, 1)[..], "a note"));
        let id = engine.restore(&state).unwrap();
        engine.rewind(id, &state.points()[place]).unwrap();
        assert_eq!(engine.tokens(id).unwrap(), &text(40, 1)[..n_tokens]);
        go_on(&mut engine, id, &text(40, 1)[n_tokens..]);
        engine.remove_sequence(id).unwrap();
    }
    // Points that are not the sequence's, more than a file may have, and more than it has.
    let at = HEADER + 40 * 4 + (state.bytes() as usize - 40 * 4 - "a note".len()) - 2 * slot(&engine);
    assert_eq!(whole[at..at + 8], 5u64.to_le_bytes());
    for n in [41, u64::MAX] {
        assert_eq!(refused(&path, &with(&whole, at, &n.to_le_bytes()), &engine), "save point");
    }
    assert_eq!(refused(&path, &with(&whole, 92, &65u32.to_le_bytes()), &engine), "save points");
    assert_eq!(refused(&path, &with(&whole, 92, &3u32.to_le_bytes()), &engine), "length");
}

/// Bytes of a state slot.
fn slot(engine: &Engine) -> usize {
    engine.state_format().bytes(0) as usize
}

#[test]
fn damaged_bytes_are_refused_by_their_field() {
    let (_folder, mut engine, path) = saved(&text(20, 1));
    let id = begin(&mut engine, &text(3, 1));
    let point = engine.save_point(id).unwrap();
    let state = Snapshot::load(&path, &engine).unwrap().with_next(&[7, 8]).with_points([point]);
    assert_eq!(state.points().len(), 1);
    let whole = state.to_bytes();
    let field = |bytes: &[u8]| match Snapshot::from_bytes(bytes, &engine) {
        Err(RuntimeError::StateBytes { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        let expected = match at {
            0..8 => "magic",
            8..12 => "version",
            12..HEADER => "header digest",
            _ => "content digest",
        };
        assert_eq!(field(&bytes), expected, "byte {at}");
    }
    for n in 0..whole.len() {
        assert_eq!(field(&whole[..n]), if n < 8 { "magic" } else { "length" }, "{n} bytes");
    }
    assert_eq!(field(&[&whole[..], &[0]].concat()), "length");
    assert_eq!(field(&with(&whole, 76, &[0xff; 4])), "tokens to read next");
    assert_eq!(field(&with(&whole, 76, &3u32.to_le_bytes())), "length");
    assert_eq!(field(&with(&whole, HEADER + 80, &300u32.to_le_bytes())), "tokens");
}

/// The field that the error of loading a file names.
#[track_caller]
fn refused(path: &Path, bytes: &[u8], engine: &Engine) -> &'static str {
    std::fs::write(path, bytes).unwrap();
    match Snapshot::load(path, engine).map(|_| ()) {
        Err(error @ RuntimeError::StateFile { field, .. }) => {
            let text = error.to_string();
            assert!(text.contains("some.state") && text.contains(field) && !error.is_ours(), "{text}");
            field
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_byte_of_a_file_can_change_unnoticed() {
    let (_folder, mut engine, path) = saved(&text(20, 1));
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        let expected = match at {
            0..8 => "magic",
            8..12 => "version",
            12..HEADER => "header digest",
            _ => "content digest",
        };
        assert_eq!(refused(&path, &bytes, &engine), expected, "byte {at}");
    }
    for n in 0..whole.len() {
        let expected = if n < 8 { "magic" } else { "length" };
        assert_eq!(refused(&path, &whole[..n], &engine), expected, "{n} bytes");
    }
    assert_eq!(refused(&path, &[&whole[..], &[0]].concat(), &engine), "length");
    let id = begin(&mut engine, &text(30, 2));
    go_on(&mut engine, id, &[1]);
}

/// A header with changed numbers and a valid digest.
fn with(whole: &[u8], at: usize, field: &[u8]) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    bytes[at..at + field.len()].copy_from_slice(field);
    let content = blake3::hash(&bytes[HEADER..]);
    bytes[128..160].copy_from_slice(content.as_bytes());
    let digest = blake3::hash(&bytes[..160]);
    bytes[160..HEADER].copy_from_slice(digest.as_bytes());
    bytes
}

#[test]
fn files_that_lie_are_refused_by_their_field() {
    let (_folder, engine, path) = saved(&text(20, 1));
    let whole = std::fs::read(&path).unwrap();
    let huge = u64::MAX.to_le_bytes();
    for (at, field) in
        [(24, "plan"), (64, "max_context"), (72, "vocabulary"), (80, "state slot bytes"), (88, "KV page bytes")]
    {
        assert_eq!(refused(&path, &with(&whole, at, &huge), &engine), field);
    }
    assert_eq!(refused(&path, &with(&whole, 8, &4u32.to_le_bytes()), &engine), "version");
    assert_eq!(refused(&path, &with(&whole, 16, &huge), &engine), "length");
    assert_eq!(refused(&path, &with(&whole, 56, &huge), &engine), "tokens");
    assert_eq!(refused(&path, &with(&whole, 56, &100u64.to_le_bytes()), &engine), "length");
    assert_eq!(refused(&path, &with(&whole, 96, b"x86-64-v9"), &engine), "target");
    assert_eq!(refused(&path, &with(&whole, HEADER, &300u32.to_le_bytes()), &engine), "tokens");
    std::fs::write(&path, with(&whole, HEADER, &299u32.to_le_bytes())).unwrap();
    assert_eq!(Snapshot::load(&path, &engine).unwrap().tokens()[0], 299);
}

#[test]
fn files_of_other_plans_and_no_files_are_refused() {
    let (folder, engine, path) = saved(&text(20, 1));
    let mut other = Toy::new();
    other.manifest.model.name = "another".to_owned();
    let other = Engine::open(other.write(folder.path(), "another.plan"), OpenOptions::default()).unwrap();
    let refused = Snapshot::load(&path, &other).unwrap_err().to_string();
    let digests = [engine.plan_digest(), other.plan_digest()].map(|digest| digest.to_string());
    assert!(refused.contains("plan: found") && digests.iter().all(|digest| refused.contains(digest)), "{refused}");
    for missing in [folder.path().join("no.state"), folder.path().to_path_buf()] {
        assert!(matches!(Snapshot::load(&missing, &engine), Err(RuntimeError::Io { .. })));
    }
    let snapshot = Snapshot::load(&path, &engine).unwrap();
    let nowhere = folder.path().join("no folder").join("a.state");
    assert!(
        matches!(snapshot.save(&nowhere), Err(RuntimeError::Output(error)) if error.to_string().contains("mkdir -p"))
    );
}
