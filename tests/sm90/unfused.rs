//! Whole plans without fusions.

use std::path::PathBuf;

use gpu_bench::checks::{self, Check, Subject, Tolerance as Logits};
use jamba_runtime::{Engine, OpenOptions};
use jambac::compile::{Progress, Request, build};
use jambac::manifest::{ModelFile, targets};
use jambac_models::tiny::Tiny;
use ptxsim::driver::{Device, Downloads, Simulated};

use super::plan::{TOLERANCE, tiny};
use crate::fixtures::Fixture;

pub(super) fn open(plan: &std::path::Path, options: OpenOptions<'_>) -> Engine {
    let device = Simulated::new(&Device { seed: 4, n_sms: 3, downloads: Downloads::Anything, ..Device::default() });
    Engine::open(plan, OpenOptions { driver: Some(Box::new(device)), ..options }).unwrap()
}

/// A plan without fusions computes the same results and keeps the same guarantees.
#[test]
fn a_plan_without_fusions() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (unfused, fused) = (tiny(folder.path(), "none"), tiny(other.path(), "all"));
    let text = Fixture::open("tiny").prompt(300).ids;
    let on_gpu = |options: OpenOptions<'_>| Ok(open(&unfused, options));
    let subject = Subject { plan: &unfused, on_gpu: &on_gpu, text: &text[..110], tolerance: TOLERANCE };
    let all: [Check; 4] = [checks::chunks, checks::ragged_batch, checks::many_sequences, checks::graphs];
    for check in all {
        println!("{:?}", check(&subject).unwrap_or_else(|error| panic!("{error:#}")));
    }
    let logits = |plan: &std::path::Path| {
        let mut engine = open(plan, OpenOptions::default());
        let steps = engine.program().entries[0].steps.len();
        (checks::logits(&mut engine, &text[..60], 60).unwrap(), steps)
    };
    let ((found, steps), (expected, fewer)) = (logits(&unfused), logits(&fused));
    let difference = TOLERANCE.compare("unfused", &found, &expected).unwrap_or_else(|error| panic!("{error:#}"));
    println!("{difference:?}, {steps} steps against {fewer}");
    assert!(steps > 2 * fewer, "{steps} steps without fusions, {fewer} with them");
}

/// Projections with biases are not split, so slices remain even with all fusions.
#[test]
fn a_model_with_biases() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), Tiny::with_biases().config_json()).unwrap();
    let mut model = ModelFile::open(folder.path()).unwrap();
    model.build.targets = targets(&["x86-64-v3", "sm_90a"]).unwrap();
    (model.limits.max_context, model.limits.max_sequences, model.limits.prefill_chunk) = (64, 2, 32);
    model.limits.max_outputs = 32;
    let output: PathBuf = folder.path().join("biases.plan");
    let request = Request { synthetic_seed: Some(5), ..Request::new(model, output.clone()) };
    build(&request, &Progress::hidden()).unwrap();
    let mut cpu = Engine::open(&output, OpenOptions::default()).unwrap();
    let mut gpu = open(&output, OpenOptions::default());
    assert!(gpu.program().kernels.iter().any(|kernel| kernel.op == "slice"), "the model has slices left");
    let ids: Vec<u32> = (0..40).map(|i| (i * 37 + 5) % cpu.manifest().model.vocab as u32).collect();
    let [found, expected] = [&mut gpu, &mut cpu].map(|engine| checks::logits(engine, &ids, 32).unwrap());
    let flat: Vec<f32> = expected.concat();
    let std = jambac_reference::compare::standard_deviation(&flat) as f32;
    let tolerance = Logits { of_a_row: 0.1 * std, rows_beyond: 0.1 };
    let difference = tolerance.compare("biases", &found, &expected).unwrap_or_else(|error| panic!("{error:#}"));
    println!("{difference:?}, standard deviation {std}");
}
