//! Synthetic weights: a plan with a seed matches the interpreter on the weights drawn from that seed.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jamba_plan::format::{Init, Transform};
use jamba_plan::synthetic::{Draw, init_for, parameter_hash};
use jamba_runtime::{Engine, OpenOptions};
use jambac::compile::{Progress, Request, build};
use jambac::manifest::{ModelFile, weight_format};
use jambac_graph::DType;
use jambac_models::jamba;
use jambac_models::tiny::{Storage, Tiny};
use jambac_reference::{Batch, Interpreter, Parameters, State};

use crate::fixtures::max_difference;
use crate::oracle::logits;

const SEED: u64 = 7;

/// The parameters drawn from a seed, in checkpoint form.
struct Drawn(BTreeMap<String, Vec<f32>>);

impl Drawn {
    fn new(config: &jamba::JambaConfig) -> Drawn {
        let draw = |spec: jamba::ParameterSpec| {
            let shape: Vec<u64> = spec.shape.iter().map(|&n| n as u64).collect();
            let (transform, init): (Transform, Init) = init_for(&spec.name, &shape);
            let draw = Draw::new(SEED, parameter_hash(&spec.name), init);
            let linear = spec.shape.len() > 1 && !spec.name.contains("conv1d") && !spec.name.ends_with("A_log");
            let values = (0..spec.n_elements() as u64).map(|index| {
                let value = draw.value(index);
                match transform {
                    Transform::None if linear => jambac_reference::round_to(DType::Bf16, value),
                    Transform::None | Transform::Scale(_) => value,
                    // The plan holds −exp(A_log) · log₂ e.
                    Transform::DecayRate => (-f64::from(value) / std::f64::consts::LOG2_E).ln() as f32,
                }
            });
            (spec.name.clone(), values.collect())
        };
        Drawn(jamba::table(config).into_iter().map(draw).collect())
    }
}

impl Parameters for Drawn {
    fn parameter(&self, name: &str) -> Option<Cow<'_, [f32]>> {
        self.0.get(name).map(|values| Cow::Borrowed(values.as_slice()))
    }
}

#[test]
fn a_seeded_plan_computes_what_the_interpreter_computes() {
    for preset in [Tiny::odd(), Tiny::dense_tied(), Tiny::with_biases()] {
        let tiny = Tiny { storage: Storage::All(jambac_checkpoint::DType::Bf16), ..preset };
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), tiny.config_json()).unwrap();
        let mut model = ModelFile::open(folder.path()).unwrap();
        model.limits.max_context = 64;
        let output = folder.path().join("seeded.plan");
        let request = Request { synthetic_seed: Some(SEED), ..Request::new(model, output.clone()) };
        build(&request, &Progress::hidden()).unwrap();
        let config = tiny.config().unwrap();
        let packed = jamba::n_parameters(&config) as u64 * 2;
        let length = std::fs::metadata(&output).unwrap().len();
        let mut engine = Engine::open(&output, OpenOptions::default()).unwrap();
        assert!(engine.program().weights.iter().map(|weight| weight.bytes).sum::<u64>() > packed);
        assert!(length < 2_000_000, "{length} bytes: the plan holds no weights");

        let ids: Vec<u32> = (0..16).map(|i| (i * 37 + 5) % config.vocab as u32).collect();
        let found: Vec<f32> = logits(&mut engine, &ids, 16).concat();
        let graph = jamba::prefill(&config, &|_| DType::Bf16, &jamba::Options { kv_dtype: DType::F32 });
        let interpreter = Interpreter::new(&graph, &Drawn::new(&config)).unwrap();
        let outputs = interpreter.run(&Batch::one(&ids), &mut State::new(1)).unwrap();
        let expected = outputs["logits"].as_f32().unwrap();
        let std = jambac_reference::compare::standard_deviation(expected) as f32;
        let (difference, at) = max_difference(&found, expected);
        assert!(std > 0.1, "logits of {std} say nothing");
        assert!(difference <= 1e-4 * std.max(1.0), "|Δlogit| {difference:e} at {at}, standard deviation {std}");
    }
}

/// Weights that the fused plan packs together and the unfused plan packs apart have the same values and give the same sums.
#[test]
fn fused_linears_give_the_bits_of_their_parts() {
    let floats = [(Tiny::base(), "bf16"), (Tiny::odd(), "bf16"), (Tiny::dense_tied(), "bf16")];
    let integers = [(Tiny::odd(), "int8"), (Tiny::odd(), "int4"), (Tiny::odd(), "int3")];
    for (preset, format) in floats.into_iter().chain(integers) {
        let tiny = Tiny { storage: Storage::All(jambac_checkpoint::DType::Bf16), ..preset };
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), tiny.config_json()).unwrap();
        let logits_of = |fusion: &str| {
            let mut model = ModelFile::open(folder.path()).unwrap();
            model.weights.default = Some(weight_format("weights.default", format).unwrap());
            model.limits.max_context = 64;
            model.build.fusion = fusion.parse().unwrap();
            let output = folder.path().join(format!("{fusion}.plan"));
            let request = Request { synthetic_seed: Some(SEED), ..Request::new(model, output.clone()) };
            let n_steps = build(&request, &Progress::hidden()).unwrap().summary.n_steps;
            let mut engine = Engine::open(&output, OpenOptions::default()).unwrap();
            let ids: Vec<u32> = (0..16).map(|i| (i * 37 + 5) % tiny.config().unwrap().vocab as u32).collect();
            // Whole, then token by token.
            (n_steps, [16, 1].map(|chunk| logits(&mut engine, &ids, chunk)))
        };
        let (n_apart, apart) = logits_of("fuse-swiglu");
        let (n_together, together) = logits_of("fuse-in-proj,fuse-qkv,fuse-swiglu,fuse-gate-up");
        assert!(n_together < n_apart, "{n_together} steps fused, {n_apart} unfused");
        assert!(together == apart, "{format}: other bits than unfused");
    }
}
