//! The runtime on a GPU, over a driver that is none: it notes every call, keeps memory in host memory, and runs the kernels
//! of a toy model.

mod fake;
mod faults;
mod kernels;
mod moves;
mod open;
mod picks;
mod plan;
mod steps;

use jamba_runtime::{Engine, Feed, OpenOptions, Outputs, PlanFile, RuntimeError, SequenceId};

use fake::{Calls, Fake};
use plan::{Toy, VOCAB};

/// An engine with a fake driver, and its recorded calls.
fn open_with(toy: Toy, fake: Fake, options: OpenOptions<'_>) -> Result<(Engine, Calls), RuntimeError> {
    let folder = tempfile::tempdir().unwrap();
    let file = PlanFile::open(&toy.write(folder.path())).unwrap();
    let calls = fake.calls();
    Ok((Engine::open(file, OpenOptions { driver: Some(Box::new(fake)), ..options })?, calls))
}

/// An engine of the toy model; the calls for opening are discarded.
fn toy(options: OpenOptions<'_>) -> (Engine, Calls) {
    let (engine, calls) = open_with(Toy::new(), Fake::new(), options).unwrap();
    calls.take();
    (engine, calls)
}

/// `n` tokens that depend on `salt`.
fn prompt(n: usize, salt: u32) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 37 + salt * 101 + i * i) % VOCAB as u32).collect()
}

fn feed(sequence: SequenceId, tokens: &[u32], outputs: Outputs) -> Feed<'_> {
    Feed { sequence, tokens, outputs }
}

/// The first logit of every row, which is the toy model's result.
fn answer(engine: &mut Engine, feeds: &[Feed<'_>]) -> Vec<f32> {
    engine.step(feeds).unwrap().rows().map(|row| row[0]).collect()
}
