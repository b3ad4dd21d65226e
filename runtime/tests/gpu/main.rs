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

/// An engine over a driver, whose calls are noted.
fn open_with(toy: Toy, fake: Fake, options: OpenOptions<'_>) -> Result<(Engine, Calls), RuntimeError> {
    let folder = tempfile::tempdir().unwrap();
    let file = PlanFile::open(&toy.write(folder.path())).unwrap();
    let calls = fake.calls();
    Ok((Engine::open_file_on(file, options, Box::new(fake))?, calls))
}

/// An engine of the toy model whose calls so far are forgotten.
fn toy(options: OpenOptions<'_>) -> (Engine, Calls) {
    let (engine, calls) = open_with(Toy::new(), Fake::new(), options).unwrap();
    calls.take();
    (engine, calls)
}

/// Tokens that differ by sequence.
fn prompt(n: usize, salt: u32) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 37 + salt * 101 + i * i) % VOCAB as u32).collect()
}

fn feed(sequence: SequenceId, tokens: &[u32], outputs: Outputs) -> Feed<'_> {
    Feed { sequence, tokens, outputs }
}

/// The first logit of every row: the toy model's answer.
fn answer(engine: &mut Engine, feeds: &[Feed<'_>]) -> Vec<f32> {
    engine.step(feeds).unwrap().rows().map(|row| row[0]).collect()
}
