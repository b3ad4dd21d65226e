//! Plans with synthetic weights on the simulator: the device draws the same values as the host and uploads no weights.

use std::path::{Path, PathBuf};

use gpu_bench::checks::logits;
use gpu_bench::draws::draw;
use jamba_runtime::{DebugOptions, Engine, OpenOptions, Progress as Told};
use jambac::compile::{Progress, Request, build};
use jambac::manifest::{ModelFile, targets, weight_format};
use jambac_models::tiny::Tiny;
use ptxsim::driver::{Counts, Device, Simulated};

/// Builds a plan with synthetic weights for sm_90a only.
fn plan(folder: &Path, tiny: &Tiny, format: Option<&str>) -> PathBuf {
    std::fs::write(folder.join("config.json"), tiny.config_json()).unwrap();
    let mut model = ModelFile::open(folder).unwrap();
    model.build.targets = targets(&["sm_90a"]).unwrap();
    model.weights.default = format.map(|format| weight_format("weights.default", format).unwrap());
    (model.limits.max_context, model.limits.max_sequences, model.limits.prefill_chunk) = (64, 2, 16);
    let output = folder.join("drawn.plan");
    let request = Request { synthetic_seed: Some(11), ..Request::new(model, output.clone()) };
    build(&request, &Progress::hidden()).unwrap();
    output
}

fn device() -> Simulated {
    Simulated::new(&Device { seed: 9, n_sms: 3, ..Device::default() })
}

/// Logits of a few tokens, and the device's operation counts.
fn run(plan: &Path, options: OpenOptions<'_>) -> (Vec<Vec<f32>>, Counts) {
    let device = device();
    let counters = device.counters();
    let mut engine = Engine::open(plan, OpenOptions { driver: Some(Box::new(device)), ..options }).unwrap();
    let vocab = engine.manifest().model.vocab as u32;
    let ids: Vec<u32> = (0..20).map(|i| (i * 37 + 5) % vocab).collect();
    (logits(&mut engine, &ids, 16).unwrap(), counters.read())
}

#[test]
fn weights_drawn_on_the_device_are_those_of_the_host() {
    for (tiny, format) in [
        (Tiny::base(), None),
        (Tiny::odd(), Some("int8")),
        (Tiny::odd(), Some("fp8")),
        (Tiny::dense_tied(), Some("int8")),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let plan = plan(folder.path(), &tiny, format);
        let drawn = draw(&plan, Box::new(device())).unwrap_or_else(|error| panic!("{error:#}"));
        println!("{drawn:?}");
        assert_eq!(drawn.compared_bytes, drawn.bytes, "all of it is compared");

        let (expected, host) = run(&plan, OpenOptions { debug: DebugOptions::DRAW_ON_HOST, ..OpenOptions::default() });
        let (found, device) = run(&plan, OpenOptions::default());
        assert_eq!(found, expected, "the bits of logits");
        assert!(expected.iter().flatten().any(|&logit| logit != expected[0][0]), "logits say something");
        // The difference in uploaded bytes is the size of the weights.
        assert_eq!(host.uploaded_bytes - device.uploaded_bytes, drawn.bytes);
        let draws = |counts: &Counts| -> u64 {
            let kernels = counts.kernels.iter().filter(|(symbol, _)| symbol.starts_with("synthetic_weight_"));
            kernels.map(|(_, kernel)| kernel.launches).sum()
        };
        assert_eq!((draws(&host), draws(&device)), (0, drawn.launches as u64));
    }
}

#[test]
fn drawing_tells_how_far_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path(), &Tiny::base(), None);
    let told = std::sync::Mutex::new(Vec::new());
    let listen = |progress: Told| {
        if progress.what == "drawing weights" {
            told.lock().unwrap().push((progress.done, progress.total));
        }
    };
    run(&plan, OpenOptions { progress: Some(&listen), ..OpenOptions::default() });
    let told = told.into_inner().unwrap();
    assert!(told.last().is_some_and(|&(done, total)| done == total && total > 0), "{told:?}");
}
