//! Plans in memory behave like files; invalid ones are rejected.

use std::ops::ControlFlow;

use jamba_plan::PlanError;
use jamba_runtime::{Engine, GenerateOptions, OpenOptions, PlanFile, RuntimeError, Verify, include_plan};

use crate::generate::open;

static PLAN: &[u8] = include_plan!("../../examples/toy.plan");

fn refused(bytes: &'static [u8]) -> RuntimeError {
    let opened = PlanFile::from_memory(bytes).and_then(|plan| Engine::open(plan, OpenOptions::default()));
    opened.map(|_| ()).unwrap_err()
}

/// A page-aligned copy of bytes.
fn on_a_page(bytes: &[u8]) -> &'static [u8] {
    let memory = vec![0; bytes.len() + 4096].leak();
    let begin = memory.as_ptr().align_offset(4096);
    memory[begin..begin + bytes.len()].copy_from_slice(bytes);
    &memory[begin..begin + bytes.len()]
}

#[test]
fn a_plan_in_memory_is_the_plan() {
    assert_eq!(PLAN.as_ptr().addr() % 4096, 0);
    let (mut mapped, mut embedded) =
        (open(), Engine::open(PlanFile::from_memory(PLAN).unwrap(), OpenOptions::default()).unwrap());
    let options = GenerateOptions { max_new: 30, ..GenerateOptions::default() };
    let answer = |engine: &mut Engine| engine.generate(&[1, 20], &options, |_| ControlFlow::Continue(())).unwrap().text;
    assert_eq!(answer(&mut mapped), answer(&mut embedded));
    assert_eq!((mapped.plan_digest(), embedded.path().to_str()), (embedded.plan_digest(), Some("plan in memory")));
    // A snapshot of one is restored by the other.
    let sequence = mapped.add_sequence().unwrap();
    mapped.prefill(sequence, &[1, 20, 30], None, None).unwrap();
    let snapshot = mapped.snapshot(sequence).unwrap();
    let prefaulted = OpenOptions { prefault: true, ..OpenOptions::default() };
    Engine::open(PlanFile::from_memory(PLAN).unwrap(), prefaulted).unwrap().restore(&snapshot).unwrap();
}

#[test]
fn unaligned_short_and_damaged_memory_is_refused() {
    assert!(matches!(refused(&on_a_page(&[&[0], PLAN].concat())[1..]), RuntimeError::Unaligned { off: 1 }));
    for length in [0, 1, 4095, 4096, 20_000, PLAN.len() - 1] {
        let RuntimeError::Plan { source, .. } = refused(&on_a_page(PLAN)[..length]) else { panic!("{length}") };
        assert!(matches!(source, PlanError::Truncated { .. } | PlanError::NotAPlan { .. }), "{length}: {source}");
    }
    let longer = refused(on_a_page(&[PLAN, &[0]].concat())).to_string();
    assert!(longer.starts_with("plan in memory: ") && longer.contains("file length"), "{longer}");
    let mut damaged = PLAN.to_vec();
    damaged[20_000] ^= 1;
    let RuntimeError::Plan { source, .. } = refused(on_a_page(&damaged)) else { panic!("a damaged plan") };
    assert!(matches!(source, PlanError::Digest { .. }), "{source}");
    let file = PlanFile::from_memory(PLAN).unwrap();
    assert_eq!(file.plan(Verify::Everything, &mut |_, _| ()).unwrap().manifest().model.vocab, 300);
}
