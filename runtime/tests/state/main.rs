//! Forks, snapshots, state files, prefix caches and rollbacks, with a toy model whose results the tests
//! compute.

#[path = "../fixture/mod.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod fixture;

mod files;
mod moves;
mod prefix;
mod random;

use fixture::{Toy, VOCAB, WEIGHT, answers};
use jamba_runtime::{DebugOptions, Engine, Feed, OpenOptions, Outputs, SequenceId};

/// Tokens per page.
const PAGE: usize = jamba_plan::format::KV_PAGE_TOKENS as usize;

/// An engine that fills unused state with NaN, and the folder of its plan.
fn toy() -> (tempfile::TempDir, Engine) {
    let folder = tempfile::tempdir().unwrap();
    let path = Toy::new().write(folder.path(), "toy.plan");
    let options = OpenOptions { threads: Some(1), debug: DebugOptions::CHECK, ..OpenOptions::default() };
    let engine = Engine::open(&path, options).unwrap();
    (folder, engine)
}

/// `n` tokens that depend on `salt`.
fn text(n: usize, salt: u32) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 37 + salt * 101 + i * i) % VOCAB as u32).collect()
}

/// The toy model's result after the last token.
fn expected(tokens: &[u32]) -> f32 {
    *answers(tokens, WEIGHT as u32).last().unwrap()
}

/// Adds a sequence with these tokens.
fn begin(engine: &mut Engine, tokens: &[u32]) -> SequenceId {
    let id = engine.add_sequence().unwrap();
    assert_eq!(engine.prefill(id, tokens, None, None).unwrap().row(0)[0], expected(tokens));
    id
}

/// Feeds more tokens and checks the result of the last one.
#[track_caller]
fn go_on(engine: &mut Engine, id: SequenceId, more: &[u32]) {
    let all = [engine.tokens(id).unwrap(), more].concat();
    assert_eq!(engine.prefill(id, more, None, None).unwrap().row(0)[0], expected(&all));
    assert_eq!(engine.tokens(id).unwrap(), all);
}

fn last(sequence: SequenceId, tokens: &[u32]) -> Feed<'_> {
    Feed { sequence, tokens, outputs: Outputs::Last }
}
