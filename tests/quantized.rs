//! Checkpoints whose weights are stored in 8 bits: their plans hold the same integers and scales, or the values that floats of
//! 8 bits stand for, and compute what the interpreter computes over them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jamba_plan::format::{Transform, Weight, WeightFormat};
use jamba_plan::{Plan, quantize};
use jambac::build::{Progress, Request, build};
use jambac::manifest::ModelFile;
use jambac::source::Source;
use jambac_checkpoint::Checkpoint;
use jambac_graph::DType;
use jambac_models::jamba;
use jambac_models::tiny::{Arrangement, Storage, Tiny};
use jambac_reference::{Batch, Interpreter, State};

use crate::fixtures::max_difference;
use crate::oracle::{logits, open};

const PROMPT: [u32; 11] = [1, 17, 99, 30, 4, 160, 71, 8, 12, 55, 140];

/// A miniature whose linears are stored so, in a folder.
fn checkpoint(arrangement: Arrangement, folder: &Path) -> PathBuf {
    let dir = folder.join("checkpoint");
    let storage = Storage::All(jambac_checkpoint::DType::Bf16);
    Tiny { quantized: Some(arrangement), storage, ..Tiny::odd() }.write(&dir, 5).unwrap();
    dir
}

fn plan(checkpoint: &Path, format: Option<&str>) -> PathBuf {
    let mut model = ModelFile::open(checkpoint).unwrap();
    model.weights.default = format.map(str::to_owned);
    model.limits.max_context = 64;
    let output = checkpoint.join("8bits.plan");
    build(&Request { model, output: output.clone(), synthetic_seed: None, dump_dir: None }, &Progress::hidden())
        .unwrap();
    output
}

/// Logits of the prompt by the interpreter, over the values that the checkpoint's elements stand for.
fn expected(parameters: &jamba::Parameters<'_>) -> Vec<f32> {
    let options = jamba::Options { kv_dtype: DType::F32 };
    let graph = jamba::prefill(parameters.config(), &|name| parameters.dtype(name), &options);
    let source = Source(parameters);
    let interpreter = Interpreter::new(&graph, &source).unwrap();
    let outputs = interpreter.run(&Batch::one(&PROMPT), &mut State::new(1)).unwrap();
    outputs["logits"].as_f32().expect("logits are f32").to_vec()
}

/// A plan's integers and scales of one part of a weight, row by row, each expert after the other.
fn integers(plan: &Plan<'_>, weights: &[Weight], index: usize, part: usize) -> Vec<(Vec<i8>, f32)> {
    let bytes = plan.section(jamba_plan::sections::SectionKind::Weights).expect("weights");
    let (scales, weight) = (&weights[index - 1], &weights[index]);
    assert_eq!(scales.transform, Transform::Scale(WeightFormat::Int8));
    let slice = |weight: &Weight| &bytes[weight.offset as usize..][..weight.bytes as usize];
    let (scales, q) = (slice(scales), slice(weight));
    let (lanes, k) = (weight.layout.lanes as usize, weight.layout.k as usize);
    let panel_bytes = weight.layout.panel_bytes(WeightFormat::Int8);
    let mut rows = Vec::new();
    for group in 0..weight.layout.groups {
        for panel in 0..weight.layout.panels() {
            let (of, first) = weight.panel(panel);
            let at = (group * weight.layout.panels() + panel) as usize;
            for lane in 0..lanes.min(of.rows.saturating_sub(first) as usize) {
                if of.parameter != weight.parts[part].parameter {
                    continue;
                }
                let panel = &q[at * panel_bytes..][..panel_bytes];
                let row = (0..k).map(|j| quantize::integer_at(WeightFormat::Int8, panel, lane, lanes, j)).collect();
                let scale = scales[(at * lanes + lane) * 4..][..4].try_into().unwrap();
                rows.push((row, f32::from_le_bytes(scale)));
            }
        }
    }
    rows
}

/// Every integer and scale of the checkpoint stands in the plan, in the plan's format by default.
fn check_integers(arrangement: Arrangement) {
    let folder = tempfile::tempdir().unwrap();
    let dir = checkpoint(arrangement, folder.path());
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let parameters = jamba::bind(&checkpoint).unwrap();
    let file = std::fs::read(plan(&dir, None)).unwrap();
    let plan = Plan::parse(&file).unwrap();
    let (_, program) = plan.first();
    let (mut compared, mut least) = (BTreeSet::new(), 0);
    for (index, weight) in program.weights.iter().enumerate() {
        if weight.format != WeightFormat::Int8 {
            continue;
        }
        for (part_idx, part) in weight.parts.iter().enumerate() {
            let parameter = parameters.get(&part.parameter).unwrap();
            let mut stored = Vec::new();
            for tensor in &parameter.tensors {
                let scales = checkpoint.tensor(&format!("{}_scale", tensor.elements.info.name)).unwrap().to_f32_vec();
                for row in part.first_row as usize..(part.first_row + part.rows) as usize {
                    stored.push((tensor.elements.row_i8(row).unwrap().collect::<Vec<i8>>(), scales[row]));
                }
            }
            least = least.min(*stored.iter().flat_map(|(q, _)| q).min().unwrap());
            assert!(integers(&plan, &program.weights, index, part_idx) == stored, "{arrangement:?} {}", part.parameter);
            compared.insert(part.parameter.clone());
        }
    }
    assert_eq!(least, -128, "the miniature has a −128");
    let table = jamba::table(parameters.config());
    let announced = table.iter().filter(|spec| parameters.dtype(&spec.name) == DType::I8);
    assert_eq!(announced.map(|spec| spec.name.clone()).collect::<BTreeSet<_>>(), compared);
    assert!(compared.len() > 3, "{compared:?}");
}

#[test]
fn integers_of_a_checkpoint_are_those_of_its_plan() {
    check_integers(Arrangement::Int8Experts);
    check_integers(Arrangement::Int8Rows);
}

/// What plans compute; the second allowance is for formats that round the values again.
#[test]
fn plans_compute_what_8_bits_stand_for() {
    for arrangement in Arrangement::ALL {
        let folder = tempfile::tempdir().unwrap();
        let dir = checkpoint(arrangement, folder.path());
        let checkpoint = Checkpoint::open(&dir).unwrap();
        let expected = expected(&jamba::bind(&checkpoint).unwrap());
        let is_integers = matches!(arrangement, Arrangement::Int8Experts | Arrangement::Int8Rows);
        // f32 holds all values; integers meet activations of 16 bits; bf16 rounds floats of 8 bits times their scales.
        let cases = if is_integers {
            [(None, 4e-3), (Some("f32"), 1e-4), (Some("int8"), 0.5)]
        } else {
            [(None, 5e-2), (Some("f32"), 1e-4), (Some("int8"), 0.5)]
        };
        for (format, allowed) in cases {
            let mut engine = open(&plan(&dir, format), 2);
            let found = logits(&mut engine, &PROMPT, PROMPT.len()).concat();
            let (difference, at) = max_difference(&found, &expected);
            println!("{arrangement:?} as {}: max |Δlogit| {difference:.1e}", format.unwrap_or("stored"));
            assert!(difference <= allowed, "{arrangement:?} as {format:?}: |Δlogit| {difference:e} at {at}");
        }
    }
}

/// vLLM's `experts_int8` stores nothing: it asks for experts of int8.
#[test]
fn experts_int8_asks_for_experts_of_int8() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = Tiny { storage: Storage::All(jambac_checkpoint::DType::Bf16), ..Tiny::odd() };
    tiny.write(folder.path(), 5).unwrap();
    let path = folder.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["quantization_config"] = serde_json::json!({"quant_method": "experts_int8"});
    std::fs::write(&path, config.to_string()).unwrap();
    for (format, expected) in [(None, WeightFormat::Int8), (Some("bf16"), WeightFormat::Bf16)] {
        let file = std::fs::read(plan(folder.path(), format)).unwrap();
        let plan = Plan::parse(&file).unwrap();
        for weight in &plan.first().1.weights {
            let experts = weight.parts[0].parameter.contains('*') && weight.transform == Transform::None;
            let of_integers = weight.format == WeightFormat::Int8;
            assert_eq!(of_integers, experts && expected == WeightFormat::Int8, "{}", weight.parts[0].parameter);
        }
    }
}
