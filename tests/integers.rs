//! Plans with integer weights match the interpreter on the dequantized values, unfused and fused, whole prompts and token by
//! token. `quality.rs` checks what quantization costs.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use jamba_plan::format::WeightFormat;
use jamba_plan::quantize;
use jamba_runtime::Engine;
use jambac::compile::{Progress, Request, build};
use jambac::manifest::ModelFile;
use jambac::source::Source;
use jambac_checkpoint::Checkpoint;
use jambac_graph::DType;
use jambac_models::jamba;
use jambac_reference::{Batch, Interpreter, Parameters, State};

use crate::fixtures::{Fixture, max_difference};
use crate::oracle::{logits, open};

/// Length of the prompt.
const LENGTH: usize = 17;

/// A checkpoint whose linear layers were quantized and dequantized.
struct Rounded<'a, 'c> {
    source: Source<'a, 'c>,
    format: WeightFormat,
    /// Number of inputs of each rounded parameter.
    inputs: BTreeMap<String, usize>,
}

impl<'a, 'c> Rounded<'a, 'c> {
    fn new(parameters: &'a jamba::Parameters<'c>, format: WeightFormat) -> Rounded<'a, 'c> {
        let kept = ["embed_tokens", "router", "dt_proj", "conv1d", "A_log"];
        let inputs = jamba::table(parameters.config())
            .into_iter()
            .filter(|spec| spec.shape.len() > 1 && !kept.iter().any(|part| spec.name.contains(part)))
            .map(|spec| (spec.name, spec.shape[spec.shape.len() - 1]))
            .collect();
        Rounded { source: Source::new(parameters), format, inputs }
    }

    fn round(&self, name: &str, row: &mut [f32]) {
        // The head of int4 and int3 is int8.
        let format = if name == "lm_head.weight" { WeightFormat::Int8 } else { self.format };
        let scales = quantize::row_scales(format, row);
        let mut q = vec![0; row.len()];
        quantize::row(format, row, &scales, &mut q);
        let group = if scales.len() == 1 { row.len() } else { quantize::GROUP };
        row.iter_mut().zip(q).enumerate().for_each(|(i, (value, q))| *value = f32::from(q) * scales[i / group]);
    }
}

impl Parameters for Rounded<'_, '_> {
    fn parameter(&self, name: &str) -> Option<Cow<'_, [f32]>> {
        let mut values = self.source.parameter(name)?.into_owned();
        if let Some(&inputs) = self.inputs.get(name) {
            values.chunks_exact_mut(inputs).for_each(|row| self.round(name, row));
        }
        Some(Cow::Owned(values))
    }
}

fn plan(checkpoint: &Path, folder: &Path, fusion: &str, format: WeightFormat) -> Engine {
    let mut model = ModelFile::open(checkpoint).unwrap();
    model.build.fusion = fusion.parse().unwrap();
    model.weights.default = Some(format);
    model.limits.max_context = 64;
    model.limits.max_outputs = LENGTH as u64;
    let output = folder.join("integers.plan");
    let request = Request::new(model, output.clone());
    build(&request, &Progress::hidden()).unwrap();
    open(&output, 2)
}

/// The plan holds the same integers as [`Rounded`]. Two things differ: integer kernels round activations to 16 bits (at most
/// 2⁻¹⁶ of a group's largest element, in about twenty consecutive linear layers), and f32 sums run in another order. The
/// tolerance is a hundredth of the effect of rounding weights to int8.
fn check(name: &'static str, format: WeightFormat) {
    let fixture = Fixture::open(name);
    let checkpoint = Checkpoint::open(&fixture.checkpoint).unwrap();
    let parameters = jamba::bind(&checkpoint).unwrap();
    let options = jamba::Options { kv_dtype: DType::F32 };
    let graph = jamba::prefill(parameters.config(), &|name| parameters.dtype(name), &options);
    let prompt = fixture.prompt(LENGTH);
    let outputs_of = |parameters: &dyn Parameters| {
        let interpreter = Interpreter::new(&graph, parameters).unwrap();
        let outputs = interpreter.run(&Batch::one(&prompt.ids), &mut State::new(1)).unwrap();
        outputs["logits"].as_f32().expect("logits are f32").to_vec()
    };
    let expected = outputs_of(&Rounded::new(&parameters, format));
    let (rounding, _) = max_difference(&outputs_of(&Source::new(&parameters)), &expected);

    let folder = tempfile::tempdir().unwrap();
    let mut kernels = BTreeSet::new();
    for fusion in ["none", "all"] {
        let mut engine = plan(&fixture.checkpoint, folder.path(), fusion, format);
        kernels.extend(engine.program().kernels.iter().map(|kernel| kernel.op.clone()));
        for chunk in [LENGTH, 1] {
            let found = logits(&mut engine, &prompt.ids, chunk).concat();
            let (difference, at) = max_difference(&found, &expected);
            let allowed = 2e-3 * prompt.logits_std.max(1.0);
            println!(
                "{name} {} fusion {fusion:<4} chunks of {chunk:>2}: max |Δlogit| {difference:.1e}, allowed {allowed:.1e}, \
                 weights' rounding {rounding:.1e}",
                format.name()
            );
            assert!(rounding > 50.0 * allowed, "the weights' rounding, {rounding:e}, hides in the tolerance");
            assert!(
                difference <= allowed,
                "{name} {}, fusion {fusion}, chunks of {chunk}: |Δlogit| {difference:e} at {at}, allowed {allowed:e}",
                format.name()
            );
        }
    }
    for kernel in ["split_linear", "linear_swiglu", "grouped_swiglu", "grouped_combine"] {
        assert!(kernels.contains(kernel), "no plan of {name} has {kernel}: {kernels:?}");
    }
}

#[test]
fn int8_plans_compute_what_their_integers_say() {
    check("odd", WeightFormat::Int8);
}

#[test]
fn int4_plans_compute_what_their_integers_say() {
    check("sharded_moe", WeightFormat::Int4);
}

#[test]
fn int3_plans_compute_what_their_integers_say() {
    check("odd", WeightFormat::Int3);
}
