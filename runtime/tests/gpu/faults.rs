//! Device faults: messages name the operation, later calls report the same fault, dropping the engine frees everything.

use jamba_runtime::gpu::DriverError;
use jamba_runtime::{DebugOptions, Engine, OpenOptions, Outputs, RuntimeError, SequenceId, Snapshot};

use crate::fake::{Call, Calls, Fake};
use crate::plan::Toy;
use crate::{feed, open_with, prompt, toy};

/// Checks that every call that uses the device returns the same error without calling the driver.
fn expect_dead(engine: &mut Engine, id: SequenceId, snapshot: &Snapshot, calls: &Calls, expected: &str) {
    calls.take();
    let errors: [Result<(), RuntimeError>; 9] = [
        engine.step(&[feed(id, &[1], Outputs::Last)]).map(|_| ()),
        engine.prefill(id, &[1, 2], None, None).map(|_| ()),
        engine.add_sequence().map(|_| ()),
        engine.fork(id).map(|_| ()),
        engine.snapshot(id).map(|_| ()),
        engine.restore(snapshot).map(|_| ()),
        engine.checkpoint(id),
        engine.rollback(id, 1),
        engine.remove_sequence(id),
    ];
    for error in errors {
        assert_eq!(error.unwrap_err().to_string(), expected);
    }
    assert_eq!(calls.take(), []);
}

/// An engine with a sequence of three tokens, its checkpoint, and a snapshot of it.
fn with_sequence(options: OpenOptions<'_>) -> (Engine, Calls, SequenceId, Snapshot) {
    let (mut engine, calls) = toy(options);
    let id = engine.add_sequence().unwrap();
    engine.step(&[feed(id, &[1, 2, 3], Outputs::Last)]).unwrap();
    engine.checkpoint(id).unwrap();
    let snapshot = engine.snapshot(id).unwrap();
    calls.take();
    (engine, calls, id, snapshot)
}

#[test]
fn a_kernel_that_faults_ends_the_engine_and_nothing_else() {
    let (mut engine, calls, id, snapshot) = with_sequence(OpenOptions::default());
    calls.spoil("attend");
    let error = engine.step(&[feed(id, &[1], Outputs::Last)]).map(|_| ()).unwrap_err();
    let text = "Fake H100: some step of decode: an illegal address; checking every step (--check) tells which";
    assert!(matches!(error, RuntimeError::DeviceFault { .. }) && error.is_ours());
    assert_eq!(error.to_string(), text);
    expect_dead(&mut engine, id, &snapshot, &calls, text);
    drop(engine);
    assert_eq!(calls.take(), [Call::Drop]);
}

#[test]
fn checks_name_the_step_that_faults() {
    let (mut engine, calls, id, snapshot) =
        with_sequence(OpenOptions { debug: DebugOptions::CHECK, ..OpenOptions::default() });
    calls.spoil("attend");
    let error = engine.step(&[feed(id, &prompt(20, 1), Outputs::Last)]).map(|_| ()).unwrap_err();
    let text = "Fake H100: prefill step 3 (attend, layers.3): an illegal address";
    assert_eq!(error.to_string(), text);
    let launches = calls.take_launches();
    assert_eq!(launches.len(), 4, "nothing is launched after it");
    expect_dead(&mut engine, id, &snapshot, &calls, text);
}

#[test]
fn a_fault_that_nobody_waited_for_is_found_by_the_next_step() {
    let (mut engine, calls, id, _) =
        with_sequence(OpenOptions { debug: DebugOptions::LAUNCH_EACH, ..OpenOptions::default() });
    calls.spoil("recur");
    engine.step(&[feed(id, &prompt(20, 1), Outputs::None)]).unwrap();
    let error = engine.step(&[feed(id, &prompt(20, 1), Outputs::None)]).map(|_| ()).unwrap_err().to_string();
    assert!(
        error.starts_with("Fake H100: some step, found while copying the step tables: an illegal address"),
        "{error}"
    );
}

#[test]
fn a_device_that_is_lost_is_told_so() {
    let lost = || DriverError::Lost("an ECC error that cannot be corrected".to_owned());
    for (call, tokens, place) in [
        ("upload", &[1][..], "copying the step tables"),
        ("launch", &[1, 2], "prefill step 0 (embed, layers.0)"),
        ("replay", &[1], "some step of decode"),
        ("download", &[1], "some step of decode"),
    ] {
        let (mut engine, calls, id, snapshot) = with_sequence(OpenOptions::default());
        calls.fail(call, 0, lost());
        let error = engine.step(&[feed(id, tokens, Outputs::Last)]).map(|_| ()).unwrap_err();
        let text = format!("Fake H100 is lost: {place}: an ECC error that cannot be corrected");
        assert!(matches!(error, RuntimeError::DeviceLost { .. }) && !error.is_ours());
        assert_eq!(error.to_string(), text);
        expect_dead(&mut engine, id, &snapshot, &calls, &text);
        drop(engine);
        assert_eq!(calls.take(), [Call::Drop]);
    }
}

#[test]
fn a_device_that_is_lost_while_graphs_are_recorded_is_told_so() {
    for (call, place) in [
        ("begin_capture", "some step of prefill"),
        ("launch", "prefill step 0 (embed, layers.0)"),
        ("end_capture", "some step of prefill"),
    ] {
        let fake = Fake::new();
        fake.calls().fail(call, 0, DriverError::Lost("gone".to_owned()));
        let error = open_with(Toy::new(), fake, OpenOptions::default()).map(|_| ()).unwrap_err();
        assert_eq!(error.to_string(), format!("Fake H100 is lost: {place}: gone"));
    }
}

#[test]
fn state_that_cannot_move_is_told_by_the_call_that_moves_it() {
    let lost = || DriverError::Lost("gone".to_owned());
    let (mut engine, calls, id, snapshot) = with_sequence(OpenOptions::default());
    calls.fail("download", 1, lost());
    let text = "Fake H100 is lost: reading state: gone";
    assert_eq!(engine.snapshot(id).map(|_| ()).unwrap_err().to_string(), text);
    expect_dead(&mut engine, id, &snapshot, &calls, text);

    let (mut engine, calls, id, snapshot) = with_sequence(OpenOptions::default());
    calls.fail("upload", 0, lost());
    let text = "Fake H100 is lost: writing state: gone";
    assert_eq!(engine.restore(&snapshot).map(|_| ()).unwrap_err().to_string(), text);
    expect_dead(&mut engine, id, &snapshot, &calls, text);

    let (mut engine, calls, id, snapshot) = with_sequence(OpenOptions::default());
    calls.fail("copy", 0, lost());
    let text = "Fake H100 is lost: copying state: gone";
    assert_eq!(engine.fork(id).map(|_| ()).unwrap_err().to_string(), text);
    expect_dead(&mut engine, id, &snapshot, &calls, text);

    let (mut engine, calls, id, snapshot) = with_sequence(OpenOptions::default());
    calls.fail("fill", 0, lost());
    let text = "Fake H100 is lost: clearing state: gone";
    assert_eq!(engine.add_sequence().map(|_| ()).unwrap_err().to_string(), text);
    expect_dead(&mut engine, id, &snapshot, &calls, text);
}

#[test]
fn a_write_outside_the_arena_is_found_and_named() {
    let options = || OpenOptions { debug: DebugOptions::CHECK, ..OpenOptions::default() };
    let (mut engine, _) = open_with(Toy::new().overrun(), Fake::new(), options()).unwrap();
    let id = engine.add_sequence().unwrap();
    let error = engine.step(&[feed(id, &[1, 2], Outputs::Last)]).map(|_| ()).unwrap_err();
    assert!(matches!(error, RuntimeError::GuardBroken { step: 2, .. }) && error.is_ours());
    let text = error.to_string();
    assert!(text.contains("step 2 (overrun, layers.7.culprit)") && text.ends_with("the arena"), "{text}");
}
