//! A whole plan on the simulator: the tiny model's sm_90a program, run by the runtime, compared with its CPU program and with
//! Hugging Face transformers. `gpu-bench` runs the same checks on a device.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use gpu_bench::checks::{self, Check, FEW, Subject, Tolerance};
use gpu_bench::times;
use jamba_plan::format::Pick;
use jamba_plan::graphs;
use jamba_runtime::{DebugOptions, Engine, Feed, OpenOptions, Outputs};
use jambac::compile::{Progress, Request, build};
use jambac::manifest::{ModelFile, targets};
use ptxsim::driver::{Counters, Device, Downloads, Simulated};

use crate::fixtures::Fixture;

/// For logits with a standard deviation of about 3: activations and weights are bf16 through eight layers.
pub const TOLERANCE: Tolerance = Tolerance { of_a_row: 0.15, rows_beyond: 0.02 };

/// The plan for both kinds of target.
pub(super) fn plan() -> &'static Path {
    static PLAN: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = PLAN.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let output = tiny(folder.path(), "all");
        (folder, output)
    });
    path
}

/// Builds a plan of the tiny model for both kinds of target, with the given fusions.
pub fn tiny(folder: &Path, fusion: &str) -> PathBuf {
    let mut model = ModelFile::open(&Fixture::open("tiny").checkpoint).unwrap();
    model.build.targets = targets(&["x86-64-v3", "sm_90a"]).unwrap();
    model.build.fusion = fusion.parse().unwrap();
    model.limits.max_context = 512;
    model.limits.max_sequences = FEW as u64 + 2;
    model.limits.kv_tokens = None;
    model.limits.prefill_chunk = 150;
    model.limits.max_outputs = 150;
    let output = folder.join("tiny.plan");
    let request = Request::new(model, output.clone());
    build(&request, &Progress::hidden()).unwrap();
    output
}

/// A simulated device with few multiprocessors: the grid size does not affect the bits, and idle blocks take time.
pub(super) fn open(seed: u64, options: OpenOptions<'_>) -> (Engine, Counters) {
    let device = Simulated::new(&Device { seed, n_sms: 3, downloads: Downloads::Anything, ..Device::default() });
    let counters = device.counters();
    (Engine::open(plan(), OpenOptions { driver: Some(Box::new(device)), ..options }).unwrap(), counters)
}

pub(super) fn check(seed: u64, check: Check) {
    let text = Fixture::open("tiny").prompt(300).ids;
    let on_gpu = |options: OpenOptions<'_>| Ok(open(seed, options).0);
    let subject = Subject { plan: plan(), on_gpu: &on_gpu, text: &text, tolerance: TOLERANCE };
    let found = check(&subject).unwrap_or_else(|error| panic!("{error:#}"));
    println!("{found:?}");
}

#[test]
fn three_hundred_tokens_in_chunks() {
    check(1, checks::chunks);
}

#[test]
fn sixty_four_greedy_tokens() {
    check(2, checks::greedy);
}

#[test]
fn a_ragged_batch() {
    check(3, checks::ragged_batch);
}

#[test]
fn more_sequences_than_few() {
    check(4, checks::many_sequences);
}

#[test]
fn state_that_moves() {
    check(5, checks::moved_state);
}

#[test]
fn prompts_have_the_logits_of_transformers() {
    let fixture = Fixture::open("tiny");
    for length in [1, 17, 128] {
        let prompt = fixture.prompt(length);
        let found = checks::logits(&mut open(6, OpenOptions::default()).0, &prompt.ids, 150).unwrap();
        let rows: Vec<Vec<f32>> = prompt.rows.iter().map(|&row| found[row].clone()).collect();
        let golden: Vec<Vec<f32>> = prompt.logits.chunks(rows[0].len()).map(<[f32]>::to_vec).collect();
        let difference = TOLERANCE.compare("transformers", &rows, &golden).unwrap_or_else(|error| panic!("{error:#}"));
        println!("prompt {length}: {difference:?}");
    }
}

/// Graphs are recorded when the plan is opened and change neither the bits nor the launches.
#[test]
fn graphs_are_recorded_once() {
    check(7, checks::graphs);
    let ids = Fixture::open("tiny").prompt(4).ids;
    let run = |launch_each: bool| {
        let (mut engine, counters) = open(
            7,
            OpenOptions { debug: DebugOptions { launch_each, ..DebugOptions::default() }, ..OpenOptions::default() },
        );
        checks::logits(&mut engine, &ids, 4).unwrap();
        checks::logits(&mut engine, &ids, 1).unwrap();
        let id = engine.add_sequence().unwrap();
        for &token in &ids {
            engine.step(&[Feed { sequence: id, tokens: &[token], outputs: Outputs::Last }]).unwrap();
        }
        let recorded = graphs::all(&engine.program().entries).len() as u64;
        (counters.read(), recorded)
    };
    let ((graphs, recorded), (each, _)) = (run(false), run(true));
    assert_eq!((graphs.launches, each.graphs, each.replays), (each.launches, 0, 0));
    // Steps of one token replay, of a prompt or not; the prompt's four tokens at once are launched.
    assert_eq!((graphs.graphs, graphs.replays), (recorded, 2 * ids.len() as u64));
    println!("{}", graphs.table());
}

/// Whole steps are timed, and each of their kernels.
#[test]
fn steps_and_kernels_are_timed() {
    let (mut engine, _) = open(8, OpenOptions::default());
    let times = times::time(&mut engine, 2, 9, 1).unwrap_or_else(|error| panic!("{error:#}"));
    assert!(times.prefill_tokens_per_s > 0.0 && times.decode_tokens_per_s > 0.0, "{times:?}");
    let launches = |entry: &str| -> usize {
        times.kernels.iter().filter(|kernel| kernel.entry == entry).map(|kernel| kernel.launches).sum()
    };
    // Tokens are picked after decoding; the prompt's last logits are requested.
    let entries = &engine.program().entries;
    let steps = [entries[0].steps_of(None).count(), entries[1].steps_of(Some(Pick::Likeliest)).count()];
    assert_eq!([launches("prefill"), launches("decode")], steps);
    assert!(times.kernels.iter().all(|kernel| kernel.seconds >= times.overhead_s && kernel.bytes > 0.0), "{times:?}");
}
