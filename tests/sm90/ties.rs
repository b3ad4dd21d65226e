//! Differences between a plan's GPU and CPU programs: they occur for tokens for which a router rates two experts almost
//! equally. bf16 then selects another expert than f32, and the logits of that token differ accordingly.

use jamba_runtime::{Engine, OpenOptions};
use jambac::source::Source;
use jambac_checkpoint::Checkpoint;
use jambac_graph::{DType, Op};
use jambac_models::jamba;
use jambac_reference::{Batch, Interpreter, State};

use super::plan::{TOLERANCE, open, plan, tiny};
use super::unfused;
use crate::fixtures::{Fixture, max_difference};
use gpu_bench::checks::logits;

/// Log ratio of the probabilities of the last selected and the first rejected expert; the minimum over all layers, per token.
fn gaps(fixture: &Fixture, ids: &[u32]) -> Vec<f32> {
    let checkpoint = Checkpoint::open(&fixture.checkpoint).unwrap();
    let parameters = jamba::bind(&checkpoint).unwrap();
    let options = jamba::Options { kv_dtype: DType::F32 };
    let graph = jamba::prefill(parameters.config(), &|name| parameters.dtype(name), &options);
    let interpreter = Interpreter::new(&graph, &Source::new(&parameters)).unwrap();
    let values = interpreter.run_all(&Batch::one(ids), &mut State::new(1)).unwrap();
    let mut least = vec![f32::INFINITY; ids.len()];
    for node in graph.order() {
        let Op::TopK { k } = *graph.op(node) else { continue };
        let probabilities = values[&graph.operands(node)[0]].tensor().and_then(|tensor| tensor.as_f32()).unwrap();
        for (row, least) in probabilities.chunks(probabilities.len() / ids.len()).zip(&mut least) {
            let mut row = row.to_vec();
            row.sort_by(|a, b| b.total_cmp(a));
            *least = least.min((row[k - 1] / row[k]).ln());
        }
    }
    least
}

/// Counts the GPU's rows with an error above `far` and checks that each has an expert gap below `tie`.
fn explain(gpu: &mut Engine, n_tokens: usize, (far, tie): (f32, f32)) -> usize {
    let fixture = Fixture::open("tiny");
    let ids = &fixture.prompt(300).ids[..n_tokens];
    let mut cpu = Engine::open(plan(), OpenOptions::default()).unwrap();
    let [found, expected] = [gpu, &mut cpu].map(|engine| logits(engine, ids, 150).unwrap());
    let gaps = gaps(&fixture, ids);
    let mut beyond = 0;
    for (row, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let (difference, _) = max_difference(found, expected);
        if difference > far {
            let rank = gaps.iter().filter(|&&gap| gap < gaps[row]).count();
            println!("token {row}: max |Δlogit| {difference:.2}, gap {:.1e}, {rank} of {n_tokens} smaller", gaps[row]);
            assert!(gaps[row] < tie, "token {row} differs by {difference}, and its experts do not tie: {}", gaps[row]);
            beyond += 1;
        }
    }
    beyond
}

#[test]
fn rows_that_differ_are_those_whose_experts_tie() {
    let beyond = explain(&mut open(1, OpenOptions::default()).0, 300, (TOLERANCE.of_a_row, 0.01));
    assert!(beyond > 0, "no row differs: this test has nothing to explain any more");
}

/// More values are rounded to bf16, so rows without a tie have larger errors, and wider gaps count as ties.
#[test]
fn rows_that_differ_without_fusions_are_ties_too() {
    let folder = tempfile::tempdir().unwrap();
    let beyond = explain(
        &mut unfused::open(&tiny(folder.path(), "none"), OpenOptions::default()),
        110,
        (2.0 * TOLERANCE.of_a_row, 0.03),
    );
    assert!(beyond > 0, "no row differs: this test has nothing to explain any more");
}
