//! Heads other than a language model's: scores of labels and hidden states, compared with transformers.

use std::fs;
use std::path::{Path, PathBuf};

use jamba_plan::format::Head;
use jamba_runtime::{Engine, GenerateOptions, OpenOptions, PlanFile, Pooling, RuntimeError, Verify, normalize};
use jambac::compile::{Progress, Request, build, model_of, relimit};
use jambac::manifest::{ModelFile, targets, weight_format};
use jambac_models::jamba;
use ptxsim::driver::{Device, Downloads, Simulated};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::fixtures::{Fixture, floats, integers, max_difference};
use crate::oracle::open;

fn classifier() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/classify")
}

/// The prompts and the scores that transformers gives them.
fn recorded() -> Vec<(Vec<u32>, Vec<f32>)> {
    let golden = fs::read(classifier().join("golden.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&golden).unwrap();
    let prompt = |index: usize| {
        let ids = integers(&tensors, &format!("{index}.ids"))?.into_iter().map(|id| id as u32).collect();
        Some((ids, floats(&tensors, &format!("{index}.scores")).unwrap()))
    };
    let prompts: Vec<_> = (0..).map_while(prompt).collect();
    assert_eq!(prompts.len(), 4);
    prompts
}

/// Builds a plan for two CPU levels and sm_90a, with small steps.
fn plan(checkpoint: &Path, folder: &Path, change: impl FnOnce(&mut ModelFile)) -> PathBuf {
    let mut model = ModelFile::open(checkpoint).unwrap();
    model.build.targets = targets(&["x86-64-v3", "x86-64-v2", "sm_90a"]).unwrap();
    (model.limits.max_context, model.limits.max_sequences, model.limits.prefill_chunk) = (128, 2, 32);
    model.limits.kv_tokens = None;
    change(&mut model);
    let output = folder.join("head.plan");
    build(&Request::new(model, output.clone()), &Progress::hidden()).unwrap();
    output
}

fn probabilities(scores: &[f32]) -> Vec<f32> {
    let powers: Vec<f64> = scores.iter().map(|&score| f64::from(score).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| (power / sum) as f32).collect()
}

#[test]
fn scores_of_labels_are_those_of_transformers() {
    let folder = tempfile::tempdir().unwrap();
    for fusion in ["none", "all"] {
        let path = plan(&classifier(), folder.path(), |model| model.build.fusion = fusion.parse().unwrap());
        let mut engine = open(&path, 2);
        assert_eq!(engine.labels(), ["calm", "joy", "anger"]);
        for (ids, expected) in recorded() {
            let found = engine.classify(&ids, None).unwrap();
            let (difference, _) = max_difference(&found.scores, &expected);
            assert!(difference < 1e-4, "fusion {fusion}, {} tokens: {difference:e}", ids.len());
            let (difference, _) = max_difference(&found.probabilities, &probabilities(&expected));
            assert!(difference < 1e-4, "fusion {fusion}, {} tokens: {difference:e}", ids.len());
        }
        assert_eq!(engine.free().0, 2, "the sequences are gone");
    }
}

#[test]
fn scores_survive_small_weights_and_other_limits() {
    let folder = tempfile::tempdir().unwrap();
    let path = plan(&classifier(), folder.path(), |model| {
        model.weights.default = Some(weight_format("weights.default", "int8").unwrap());
    });
    let mut engine = open(&path, 1);
    let mut before = Vec::new();
    for (ids, expected) in recorded() {
        let found = engine.classify(&ids, None).unwrap();
        let (difference, _) = max_difference(&found.scores, &expected);
        assert!(difference < 0.3, "{difference:e}");
        before.push(found);
    }
    drop(engine);
    let file = PlanFile::open(&path).unwrap();
    let old = file.plan(Verify::Everything, &mut |_, _| ()).unwrap();
    let mut model = model_of(&old).unwrap();
    (model.limits.max_context, model.limits.kv_tokens) = (256, None);
    let path = folder.path().join("longer.plan");
    let output = jamba_plan::output::Output::at(&path, jamba_plan::output::Kind::PLAN, Default::default()).unwrap();
    relimit(&old, model, output, &Progress::hidden()).unwrap();
    let mut engine = open(&path, 1);
    for ((ids, _), before) in recorded().iter().zip(&before) {
        assert_eq!(engine.classify(ids, None).unwrap(), *before);
    }
}

/// On a simulated GPU, with weights in bf16, scores and hidden states are those of the CPU, up to the rounding of activations.
#[test]
fn a_gpu_has_the_same_heads() {
    let folder = tempfile::tempdir().unwrap();
    for embeds in [false, true] {
        let path = plan(&classifier(), folder.path(), |model| {
            model.weights.default = Some(weight_format("weights.default", "bf16").unwrap());
            model.ignore.head = embeds;
        });
        let mut cpu = open(&path, 1);
        let device = Simulated::new(&Device { seed: 6, n_sms: 3, downloads: Downloads::Anything, ..Device::default() });
        let mut gpu =
            Engine::open(&path, OpenOptions { driver: Some(Box::new(device)), ..OpenOptions::default() }).unwrap();
        let ids = &recorded()[2].0;
        let results = |engine: &mut Engine| match embeds {
            true => [Pooling::Last, Pooling::Mean].map(|pooling| engine.embed(ids, pooling, None).unwrap()).concat(),
            false => engine.classify(ids, None).unwrap().scores,
        };
        let (found, expected) = (results(&mut gpu), results(&mut cpu));
        assert_eq!(found.len(), if embeds { 2 * 40 } else { 3 });
        let (difference, at) = max_difference(&found, &expected);
        assert!(difference < 0.15, "embeds {embeds}: {difference:e} at {at}");
        println!("embeds {embeds}: {difference:e}");
    }
}

/// `Jamba-tiny-reward-dev` has a bias.
#[test]
fn a_bias_of_the_scores_is_added() {
    let (folder, model) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = fs::read(classifier().join("model.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&file).unwrap();
    let bias: Vec<u8> = [1000.0_f32, -1000.0, 0.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut tensors = stored.tensors();
    tensors.push(("score.bias".to_owned(), TensorView::new(Dtype::F32, vec![3], &bias).unwrap()));
    let bytes = safetensors::serialize(tensors, None).unwrap();
    fs::write(model.path().join("model.safetensors"), bytes).unwrap();
    fs::copy(classifier().join("config.json"), model.path().join("config.json")).unwrap();
    let path = plan(model.path(), folder.path(), |_| {});
    let mut engine = open(&path, 2);
    for (ids, scores) in recorded() {
        let expected: Vec<f32> = scores.iter().zip([1000.0, -1000.0, 0.0]).map(|(score, bias)| score + bias).collect();
        let (difference, _) = max_difference(&engine.classify(&ids, None).unwrap().scores, &expected);
        assert!(difference < 2e-4, "{difference:e}");
    }
}

/// The recorded activations after the last norm are what a plan without a head gives, as transformers' JambaModel.
#[test]
fn embeddings_are_hidden_states_of_transformers() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["odd", "dense_tied"] {
        let fixture = Fixture::open(name);
        let path = plan(&fixture.checkpoint, folder.path(), |model| model.ignore.head = true);
        let mut engine = open(&path, 2);
        assert_eq!((&engine.manifest().model.head, engine.labels().len()), (&Head::Hidden, 0));
        let width = engine.manifest().model.d_model as usize;
        for length in [4, 17] {
            let (prompt, states) = (fixture.prompt(length), fixture.hidden(length, "final_norm").unwrap());
            let last = engine.embed(&prompt.ids, Pooling::Last, None).unwrap();
            let (difference, _) = max_difference(&last, &states[(length - 1) * width..]);
            assert!(difference < 1e-4, "{name}, {length} tokens: {difference:e}");
            let mean: Vec<f32> = (0..width)
                .map(|column| (0..length).map(|row| states[row * width + column]).sum::<f32>() / length as f32)
                .collect();
            let (difference, _) = max_difference(&engine.embed(&prompt.ids, Pooling::Mean, None).unwrap(), &mean);
            assert!(difference < 1e-4, "{name}, {length} tokens: {difference:e}");
            let mut unit = last.clone();
            normalize(&mut unit);
            assert!((unit.iter().map(|value| value * value).sum::<f32>() - 1.0).abs() < 1e-5);
        }
        // Steps of other sizes give the same bits.
        let ids = fixture.prompt(128).ids;
        let all =
            |engine: &mut Engine| [Pooling::Last, Pooling::Mean].map(|how| engine.embed(&ids, how, None).unwrap());
        let first = all(&mut engine);
        let small = plan(&fixture.checkpoint, folder.path(), |model| {
            model.ignore.head = true;
            (model.limits.prefill_chunk, model.limits.max_outputs) = (7, 3);
        });
        assert_eq!(all(&mut open(&small, 1)), first);
    }
}

#[test]
fn calls_that_need_another_head_are_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let says = |result: Result<(), RuntimeError>, parts: &[&str]| {
        let text = result.unwrap_err().to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    };
    let generate = |engine: &mut Engine| {
        engine.generate(&[3, 4], &GenerateOptions::default(), |_| std::ops::ControlFlow::Continue(())).map(|_| ())
    };
    let mut engine = open(&plan(&classifier(), folder.path(), |_| {}), 1);
    says(generate(&mut engine), &["computes scores of labels, expected logits", "jamba classify"]);
    says(engine.embed(&[3], Pooling::Last, None).map(|_| ()), &["expected hidden states", "--embeddings"]);
    let mut engine = open(&plan(&classifier(), folder.path(), |model| model.ignore.head = true), 1);
    says(generate(&mut engine), &["computes hidden states, expected logits", "jamba embed"]);
    says(engine.classify(&[3], None).map(|_| ()), &["expected scores of labels"]);
    assert_eq!(engine.embed(&[3], Pooling::Last, None).unwrap().len(), 40);
    assert!(matches!(engine.embed(&[], Pooling::Mean, None), Err(RuntimeError::NoTokens)));
    assert_eq!(engine.free().0, 2, "the sequences are gone");
    let mut engine = open(&plan(&Fixture::open("odd").checkpoint, folder.path(), |_| {}), 1);
    says(
        engine.classify(&[3], None).map(|_| ()),
        &["computes logits, expected scores", "JambaForSequenceClassification"],
    );
    says(engine.embed(&[3], Pooling::Mean, None).map(|_| ()), &["computes logits, expected hidden states"]);
}

/// transformers saves a model without a head under names without a prefix.
#[test]
fn names_without_a_prefix_are_those_of_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::open("odd");
    let file = fs::read(fixture.checkpoint.join("model.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&file).unwrap();
    let inner = |name: String| name.strip_prefix("model.").map(str::to_owned);
    let tensors: Vec<_> = stored.tensors().into_iter().filter_map(|(name, view)| Some((inner(name)?, view))).collect();
    fs::write(folder.path().join("model.safetensors"), safetensors::serialize(tensors, None).unwrap()).unwrap();
    let config = fs::read_to_string(fixture.checkpoint.join("config.json")).unwrap();
    fs::write(folder.path().join("config.json"), config.replace("JambaForCausalLM", "JambaModel")).unwrap();
    let model = ModelFile::open(folder.path()).unwrap();
    let checkpoint = model.open_checkpoint().unwrap();
    let bound = jamba::bind(&checkpoint).unwrap();
    assert!(bound.get("lm_head.weight").is_none() && bound.get("model.final_layernorm.weight").is_some());
    let plans = tempfile::tempdir().unwrap();
    let of_model = open(&plan(folder.path(), plans.path(), |_| {}), 1).embed(&[5, 6, 7], Pooling::Last, None).unwrap();
    let without = plan(&fixture.checkpoint, plans.path(), |model| model.ignore.head = true);
    assert_eq!(of_model, open(&without, 1).embed(&[5, 6, 7], Pooling::Last, None).unwrap());
}
