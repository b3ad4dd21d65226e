//! Checkpoints with 8-bit weights: plans hold the same integers and scales, or the exact values of fp8, and match the interpreter
//! on those values.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use jamba_plan::format::{Transform, Weight, WeightFormat};
use jamba_plan::{Plan, quantize};
use jamba_runtime::{Engine, OpenOptions};
use jambac::compile::{Progress, Request, build};
use jambac::losses;
use jambac::manifest::{ModelFile, targets, weight_format};
use jambac::source::Source;
use jambac_checkpoint::Checkpoint;
use jambac_codegen::pack::Measure;
use jambac_graph::DType;
use jambac_models::jamba;
use jambac_models::tiny::{Arrangement, Storage, Tiny};
use jambac_reference::{Batch, Interpreter, State};
use ptxsim::driver::{Device, Simulated};

use crate::fixtures::max_difference;
use crate::oracle::{logits, open};

const PROMPT: [u32; 11] = [1, 17, 99, 30, 4, 160, 71, 8, 12, 55, 140];

/// A miniature checkpoint whose linear layers are stored in 8 bits.
fn checkpoint(arrangement: Arrangement, folder: &Path) -> PathBuf {
    let dir = folder.join("checkpoint");
    let storage = Storage::All(jambac_checkpoint::DType::Bf16);
    Tiny { quantized: Some(arrangement), storage, ..Tiny::odd() }.write(&dir, 5).unwrap();
    dir
}

fn plan(checkpoint: &Path, format: Option<&str>) -> PathBuf {
    let mut model = ModelFile::open(checkpoint).unwrap();
    model.weights.default = format.map(|format| weight_format("weights.default", format).unwrap());
    model.limits.max_context = 64;
    let output = checkpoint.join("8bits.plan");
    build(&Request::new(model, output.clone()), &Progress::hidden()).unwrap();
    output
}

/// Logits of the prompt by the interpreter, on the dequantized values of the checkpoint.
fn expected(parameters: &jamba::Parameters<'_>) -> Vec<f32> {
    let options = jamba::Options { kv_dtype: DType::F32 };
    let graph = jamba::prefill(parameters.config(), &|name| parameters.dtype(name), &options);
    let source = Source::new(parameters);
    let interpreter = Interpreter::new(&graph, &source).unwrap();
    let outputs = interpreter.run(&Batch::one(&PROMPT), &mut State::new(1)).unwrap();
    outputs["logits"].as_f32().expect("logits are f32").to_vec()
}

/// The rows of one part of a weight, each expert's after the other's: calls with where the panel begins that holds a row, in
/// panels, and the row's lane in it.
fn each_row(weight: &Weight, part: usize, mut row: impl FnMut(usize, usize)) {
    for group in 0..weight.layout.groups {
        for panel in 0..weight.layout.panels() {
            let (of, first) = weight.panel(panel);
            if std::ptr::eq(of, &weight.parts[part]) {
                let n_lanes = weight.layout.lanes.min(of.rows.saturating_sub(first));
                (0..n_lanes as usize).for_each(|lane| row((group * weight.layout.panels() + panel) as usize, lane));
            }
        }
    }
}

fn section<'a>(plan: &Plan<'a>, weight: &Weight) -> &'a [u8] {
    let bytes = plan.section(jamba_plan::sections::SectionKind::Weights).expect("weights");
    &bytes[weight.offset as usize..][..weight.bytes as usize]
}

/// Integers and scales that the plan holds for the rows of one part of a weight.
fn integers(plan: &Plan<'_>, weights: &[Weight], index: usize, part: usize) -> Vec<(Vec<i8>, Vec<f32>)> {
    let (scales, weight) = (&weights[index - 1], &weights[index]);
    assert_eq!(scales.transform, Transform::Scale(weight.format));
    let (lanes, k, per_row) = (weight.layout.lanes as usize, weight.layout.k as usize, scales.layout.k as usize);
    let (panel_bytes, packed) = (weight.layout.panel_bytes(weight.format), section(plan, weight));
    let scale = |at: usize| floats(scales.format, section(plan, scales), at);
    let mut rows = Vec::new();
    each_row(weight, part, |panel, lane| {
        let bytes = &packed[panel * panel_bytes..][..panel_bytes];
        let q = (0..k).map(|j| quantize::integer_at(weight.format, bytes, lane, lanes, j)).collect();
        rows.push((q, (0..per_row).map(|group| scale((panel * per_row + group) * lanes + lane)).collect()));
    });
    rows
}

/// One packed floating-point number.
fn floats(format: WeightFormat, bytes: &[u8], at: usize) -> f32 {
    match format {
        WeightFormat::F32 => f32::from_le_bytes(bytes[4 * at..][..4].try_into().unwrap()),
        WeightFormat::Bf16 => half::bf16::from_le_bytes(bytes[2 * at..][..2].try_into().unwrap()).to_f32(),
        _ => panic!("{} is not read here", format.name()),
    }
}

/// The values that the plan holds for one part of a weight.
fn values(plan: &Plan<'_>, weights: &[Weight], index: usize, part: usize) -> Vec<f32> {
    let weight = &weights[index];
    if weight.format.scales().is_some() {
        let value = |(q, scales): (Vec<i8>, Vec<f32>)| -> Vec<f32> {
            let shared = quantize::shared_inputs(weight.format, q.len());
            q.iter().enumerate().map(|(j, &q)| quantize::unscaled(weight.format, q) * scales[j / shared]).collect()
        };
        return integers(plan, weights, index, part).into_iter().flat_map(value).collect();
    }
    let (lanes, k) = (weight.layout.lanes as usize, weight.layout.k as usize);
    let mut values = Vec::new();
    each_row(weight, part, |panel, lane| {
        values.extend((0..k).map(|j| floats(weight.format, section(plan, weight), (panel * k + j) * lanes + lane)));
    });
    values
}

/// Every integer and scale of the checkpoint is in the plan; int8 is the default format of such a plan.
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
                let rows = part.first_row as usize..(part.first_row + part.rows) as usize;
                let integers = |row: usize| tensor.elements.row_i8(row).unwrap().collect::<Vec<i8>>();
                stored.extend(rows.map(|row| (integers(row), vec![scales[row]])));
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

/// Every E4M3 number and scale of the checkpoint is in the plan, at one byte a weight.
#[test]
fn fp8_of_a_checkpoint_is_that_of_its_plan() {
    for arrangement in [Arrangement::Fp8Tensors, Arrangement::Fp8Rows, Arrangement::Fp8Wide] {
        let folder = tempfile::tempdir().unwrap();
        let dir = checkpoint(arrangement, folder.path());
        let checkpoint = Checkpoint::open(&dir).unwrap();
        let parameters = jamba::bind(&checkpoint).unwrap();
        let path = plan(&dir, None);
        let file = std::fs::read(&path).unwrap();
        let plan = Plan::parse(&file).unwrap();
        let weights = &plan.first().1.weights;
        let mut compared = BTreeSet::new();
        for (index, weight) in weights.iter().enumerate().filter(|(_, weight)| weight.format == WeightFormat::Fp8) {
            let padded = weight.layout.groups * weight.layout.rows() * weight.layout.k;
            assert_eq!(weight.bytes, padded, "one byte a weight");
            for (part_idx, part) in weight.parts.iter().enumerate() {
                let rows = part.first_row as usize..(part.first_row + part.rows) as usize;
                let k = weight.layout.k as usize;
                let tensors = &parameters.get(&part.parameter).unwrap().tensors;
                let codes = |tensor: &jamba::StoredTensor<'_>| {
                    rows.clone().flat_map(|row| tensor.elements.row_bytes(row).to_vec()).collect::<Vec<u8>>()
                };
                let expected: Vec<u8> = tensors.iter().flat_map(codes).collect();
                let found = integers(&plan, weights, index, part_idx);
                let bits = found.iter().flat_map(|(q, _)| q.iter().map(|&q| q as u8)).collect::<Vec<u8>>();
                assert!(bits == expected, "{arrangement:?} {}", part.parameter);
                // The values are the checkpoint's, scales and all.
                let values = values(&plan, weights, index, part_idx);
                let all = parameters.read_f32(&part.parameter).unwrap();
                let n = all.len() / tensors.len() / k;
                let of_rows = (0..tensors.len()).flat_map(|e| rows.clone().map(move |row| e * n + row));
                let expected: Vec<f32> = of_rows.flat_map(|row| all[row * k..][..k].to_vec()).collect();
                assert_eq!(values, expected, "{arrangement:?} {}", part.parameter);
                compared.insert(part.parameter.clone());
            }
        }
        let table = jamba::table(parameters.config());
        let announced = table.iter().filter(|spec| parameters.dtype(&spec.name) == DType::F8);
        assert_eq!(announced.map(|spec| spec.name.clone()).collect::<BTreeSet<_>>(), compared);
        assert!(compared.len() > 3, "{compared:?}");
        // A NaN is refused by its place.
        let tensor = checkpoint.tensors().find(|info| info.name.ends_with("down_proj.weight")).unwrap().clone();
        let file = dir.join("model.safetensors");
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[tensor.byte_range.start + tensor.shape[1] + 3] = 0xff;
        std::fs::write(&file, bytes).unwrap();
        let error = build(&Request::new(ModelFile::open(&dir).unwrap(), path), &Progress::hidden()).err().unwrap();
        let error = format!("{error:#}");
        assert!(error.contains(&tensor.name) && error.contains("NaN"), "{error}");
    }
}

#[test]
fn integers_of_a_checkpoint_are_those_of_its_plan() {
    check_integers(Arrangement::Int8Experts);
    check_integers(Arrangement::Int8Rows);
}

/// Compares plans with the interpreter; the second tolerance is for formats that round the values again.
#[test]
fn plans_compute_what_8_bits_stand_for() {
    for arrangement in Arrangement::ALL {
        let folder = tempfile::tempdir().unwrap();
        let dir = checkpoint(arrangement, folder.path());
        let checkpoint = Checkpoint::open(&dir).unwrap();
        let expected = expected(&jamba::bind(&checkpoint).unwrap());
        // f32 and fp8 hold all values; integers meet activations of 16 bits; bf16 rounds floats of 8 bits times their scales.
        let allowed = match arrangement {
            Arrangement::Int8Experts | Arrangement::Int8Rows => 4e-3,
            Arrangement::Fp8Tensors | Arrangement::Fp8Rows | Arrangement::Fp8Wide => 1e-4,
            Arrangement::Fp8Blocks => 5e-2,
        };
        let stored = (None, allowed);
        let cases = match arrangement {
            Arrangement::Int8Rows => vec![stored, (Some("f32"), 1e-4)],
            Arrangement::Fp8Blocks => vec![stored, (Some("f32"), 1e-4), (Some("int8"), 0.5)],
            _ => vec![stored],
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

/// On a GPU: E4M3 numbers stay where a row has one scale, and become bf16 where blocks have scales. The simulated device computes what
/// the interpreter does, with activations in bf16.
#[test]
fn fp8_stays_on_a_gpu_where_rows_have_one_scale() {
    for arrangement in [Arrangement::Fp8Tensors, Arrangement::Fp8Rows, Arrangement::Fp8Wide] {
        let folder = tempfile::tempdir().unwrap();
        let dir = checkpoint(arrangement, folder.path());
        let checkpoint = Checkpoint::open(&dir).unwrap();
        let parameters = jamba::bind(&checkpoint).unwrap();
        let expected = expected(&parameters);
        let mut model = ModelFile::open(&dir).unwrap();
        model.build.targets = targets(&["sm_90a"]).unwrap();
        (model.limits.max_context, model.limits.max_sequences) = (64, 1);
        let output = folder.path().join("gpu.plan");
        build(&Request::new(model, output.clone()), &Progress::hidden()).unwrap();
        let device = Simulated::new(&Device { n_sms: 3, ..Device::default() });
        let mut engine =
            Engine::open(&output, OpenOptions { driver: Some(Box::new(device)), ..OpenOptions::default() }).unwrap();
        let weights = &engine.program().weights;
        let mut n_kept = 0;
        for weight in weights.iter().filter(|weight| weight.transform == Transform::None) {
            let stored = parameters.dtype_in_rows(&weight.parts[0].parameter);
            let is_kept = weight.format == WeightFormat::Fp8;
            let name = weight.name();
            assert!(!is_kept || stored == DType::F8, "{arrangement:?} {name}");
            assert!(is_kept || stored != DType::F8 || name.contains("router") || name.contains("dt_proj"), "{name}");
            n_kept += usize::from(is_kept);
        }
        let mut scales = weights.iter().filter(|weight| weight.transform == Transform::Scale(WeightFormat::Fp8));
        assert!(scales.all(|scales| scales.layout.k == 1), "one scale for each row");
        let has_rows = parameters.iter().any(|(name, _)| parameters.dtype_in_rows(name) == DType::F8);
        assert_eq!(n_kept > 0, has_rows, "{arrangement:?}");
        assert!(has_rows || arrangement == Arrangement::Fp8Wide, "{arrangement:?}");
        let found = logits(&mut engine, &PROMPT, PROMPT.len()).concat();
        let (difference, at) = max_difference(&found, &expected);
        println!("{arrangement:?} on sm_90a: max |Δlogit| {difference:.1e}");
        assert!(difference <= 0.15, "{arrangement:?}: |Δlogit| {difference:e} at {at}");
    }
}

/// vLLM's `experts_int8` stores no integers: it requests int8 experts.
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

/// The quantization report matches the plan's bytes and names every parameter with a loss.
#[test]
fn losses_are_those_of_the_plans_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("checkpoint");
    Tiny::odd().write(&dir, 9).unwrap(); // f32
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let parameters = jamba::bind(&checkpoint).unwrap();
    let mut of_formats: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (default, experts) in [("int8", "int4"), ("bf16", "int8"), ("f32", "fp8"), ("f32", "f32")] {
        let mut model = ModelFile::open(&dir).unwrap();
        model.weights.default = Some(weight_format("weights.default", default).unwrap());
        model.weights.experts = Some(weight_format("weights.experts", experts).unwrap());
        let (output, report) = (folder.path().join("x.plan"), folder.path().join("losses.json"));
        let request = Request { measure: Measure::Loss, ..Request::new(model, output.clone()) };
        let built = build(&request, &Progress::hidden()).unwrap();
        let to = jamba_plan::output::Output::at(&report, jambac::outputs::LOSSES, Default::default()).unwrap();
        losses::write(&built.losses, to).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        let mut reported = report["losses"].as_array().unwrap().iter();

        let file = std::fs::read(&output).unwrap();
        let plan = Plan::parse(&file).unwrap();
        let weights = &plan.first().1.weights;
        for (index, weight) in weights.iter().enumerate().filter(|(_, weight)| weight.transform == Transform::None) {
            for (part_idx, part) in weight.parts.iter().enumerate() {
                if weight.format == WeightFormat::F32 {
                    continue;
                }
                let k = weight.layout.k as usize;
                let mut original = Vec::new();
                for tensor in &parameters.get(&part.parameter).unwrap().tensors {
                    original.extend_from_slice(
                        &tensor.to_f32_vec()[part.first_row as usize * k..][..part.rows as usize * k],
                    );
                }
                let packed = values(&plan, weights, index, part_idx);
                assert_eq!(packed.len(), original.len());
                let norm = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>().sqrt();
                let wide: Vec<f64> = original.iter().map(|&w| f64::from(w)).collect();
                let errors: Vec<f64> = wide.iter().zip(&packed).map(|(w, &q)| w - f64::from(q)).collect();
                let most = |values: &[f64]| values.iter().fold(0f64, |most, x| most.max(x.abs()));
                let relative_rms = norm(&errors) / norm(&wide);
                let found = reported.next().unwrap_or_else(|| panic!("{} is not reported", part.parameter));
                assert_eq!(found["parameter"], part.parameter);
                assert_eq!(found["first_row"], part.first_row);
                assert_eq!((&found["n_rows"], &found["n_values"]), (&part.rows.into(), &original.len().into()));
                assert_eq!(found["format"], weight.format.name());
                for (key, expected) in
                    [("largest", most(&wide)), ("max_error", most(&errors)), ("relative_rms", relative_rms)]
                {
                    let found = found[key].as_f64().unwrap();
                    assert!(
                        (found - expected).abs() <= 1e-6 * expected,
                        "{} {key}: {found} {expected}",
                        part.parameter
                    );
                }
                of_formats.entry(weight.format.name()).or_default().push(relative_rms);
            }
        }
        assert_eq!(reported.next(), None, "what is reported is packed");
    }
    // Half a step of 2⁻⁸, of 1/127 and of 1/8 of the largest, which is some three deviations of these values.
    for (format, expected) in [("bf16", 1e-3..2e-3), ("int8", 3e-3..1e-2), ("int4", 5e-2..1.2e-1)] {
        let all = &of_formats[format];
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        println!("{format}: relative RMS error {mean:.2e} of {} parameters", all.len());
        assert!(expected.contains(&mean), "{format}: {mean}");
    }
}
