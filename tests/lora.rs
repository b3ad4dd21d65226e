//! LoRA adapters in PEFT's files: merged weights against the formula, plans against those of the merged weights, and adapters that do not
//! fit by name.

use std::collections::BTreeMap;
use std::path::Path;

use jamba_runtime::Engine;
use jambac::compile::{Progress, Request, build};
use jambac::manifest::{ModelFile, targets, weight_format};
use jambac_checkpoint::{Adapter, Checkpoint, DType, Links};
use jambac_models::jamba;
use jambac_models::tiny::{Storage, Tiny};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize_to_file};
use serde_json::{Value, json};

use crate::fixtures::max_difference;
use crate::oracle::{logits, open};

const PROMPT: [u32; 9] = [1, 17, 99, 30, 4, 160, 71, 8, 12];

fn tiny() -> Tiny {
    Tiny {
        layers: 2,
        attention: (2, 1),
        moe: (2, 1),
        experts: 3,
        vocab: 173,
        storage: Storage::All(DType::F32),
        ..Tiny::base()
    }
}

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Numbers from −0.1 to 0.1.
fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 24) as f32 * 0.2 - 0.1
    };
    (0..n).map(|_| next()).collect()
}

/// A and B of these modules, with the rank of each.
fn halves(of: &Checkpoint, modules: &[(&str, usize)]) -> Tensors {
    let mut tensors = Tensors::new();
    for (index, (module, rank)) in modules.iter().enumerate() {
        let shape = of.tensor(&format!("{module}.weight")).unwrap().info.shape.clone();
        let name = |half: &str| format!("base_model.model.{module}.lora_{half}.weight");
        tensors.insert(name("A"), (vec![*rank, shape[1]], numbers(index as u64, rank * shape[1])));
        tensors.insert(name("B"), (vec![shape[0], *rank], numbers(99 + index as u64, shape[0] * rank)));
    }
    tensors
}

fn store(dir: &Path, tensors: &Tensors, config: &Value) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
    let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| (name, shape, values.iter().flat_map(|x| x.to_le_bytes()).collect()))
        .collect();
    let views =
        bytes.iter().map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, (*shape).clone(), bytes).unwrap()));
    serialize_to_file(views, None, &dir.join("adapter_model.safetensors")).unwrap();
}

/// What PEFT writes.
fn config() -> Value {
    json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "x/y", "revision": null,
        "inference_mode": true, "r": 4, "lora_alpha": 8, "lora_dropout": 0.05, "bias": "none", "fan_in_fan_out": false,
        "target_modules": ["q_proj"], "exclude_modules": null, "modules_to_save": null, "init_lora_weights": true,
        "layers_to_transform": null, "layers_pattern": null, "rank_pattern": {}, "alpha_pattern": {}, "use_rslora": false,
        "use_dora": false, "lora_bias": false, "megatron_config": null, "megatron_core": "megatron.core",
        "loftq_config": {}, "eva_config": null, "corda_config": null, "layer_replication": null,
        "trainable_token_indices": null, "auto_mapping": null, "target_parameters": null, "use_qalora": false,
    })
}

const MODULES: [(&str, usize); 8] = [
    ("model.layers.0.mamba.in_proj", 4),
    ("model.layers.0.mamba.x_proj", 4),
    ("model.layers.0.mamba.dt_proj", 4),
    ("model.layers.0.mamba.out_proj", 2),
    ("model.layers.1.self_attn.q_proj", 4),
    ("model.layers.1.self_attn.v_proj", 4),
    ("model.layers.1.feed_forward.experts.2.up_proj", 4),
    ("model.layers.0.feed_forward.down_proj", 4),
];

/// A base model, and two adapters: one with patterns and a saved module, one of stabilised rank.
fn write(folder: &Path) -> Checkpoint {
    tiny().write(&folder.join("base"), 5).unwrap();
    let base = Checkpoint::open(&folder.join("base")).unwrap();
    let mut first = halves(&base, &MODULES);
    let head = base.tensor("lm_head.weight").unwrap();
    first.insert(
        "base_model.model.lm_head.weight".into(),
        (head.info.shape.clone(), numbers(7, head.info.n_elements())),
    );
    let mut with_patterns = config();
    with_patterns["rank_pattern"] = json!({"out_proj": 2});
    with_patterns["alpha_pattern"] = json!({"layers.1.self_attn.q_proj": 3, ".*experts\\.\\d\\.up_proj": 16});
    store(&folder.join("first"), &first, &with_patterns);
    let mut stabilised = config();
    stabilised["use_rslora"] = json!(true);
    store(&folder.join("second"), &halves(&base, &MODULES[4..5]), &stabilised);
    base
}

/// W + Σ factor · alpha / r · B · A, in f64.
fn merged(base: &Checkpoint, folder: &Path, factors: [f64; 2]) -> BTreeMap<String, Vec<f64>> {
    let mut weights: BTreeMap<String, Vec<f64>> = base
        .tensors()
        .map(|info| (info.name.clone(), base.view(info).to_f32_vec().into_iter().map(f64::from).collect()))
        .collect();
    let scale = |adapter: usize, module: &str| match (adapter, module) {
        (1, _) => 8.0 / 2.0, // √4
        (_, "model.layers.1.self_attn.q_proj") => 3.0 / 4.0,
        (_, "model.layers.1.feed_forward.experts.2.up_proj") => 16.0 / 4.0,
        (_, "model.layers.0.mamba.out_proj") => 8.0 / 2.0,
        _ => 8.0 / 4.0,
    };
    for (adapter, dir) in ["first", "second"].iter().enumerate() {
        let opened = Adapter::open(&folder.join(dir), Links::Inside).unwrap();
        let tensors: BTreeMap<String, Vec<f32>> =
            opened.tensors().map(|view| (view.info.name.clone(), view.to_f32_vec())).collect();
        for (module, rank) in if adapter == 0 { &MODULES[..] } else { &MODULES[4..5] } {
            let of = |half: &str| &tensors[&format!("base_model.model.{module}.lora_{half}.weight")];
            let (a, b, weight) = (of("A"), of("B"), weights.get_mut(&format!("{module}.weight")).unwrap());
            let k = a.len() / rank;
            let factor = factors[adapter] * scale(adapter, module);
            for (at, weight) in weight.iter_mut().enumerate() {
                let product: f64 =
                    (0..*rank).map(|r| f64::from(b[at / k * rank + r]) * f64::from(a[r * k + at % k])).sum();
                *weight += factor * product;
            }
        }
        if let Some(head) = tensors.get("base_model.model.lm_head.weight") {
            weights.insert("lm_head.weight".into(), head.iter().map(|&x| f64::from(x)).collect());
        }
    }
    weights
}

#[test]
fn merged_weights_are_those_of_the_formula() {
    let folder = tempfile::tempdir().unwrap();
    let base = write(folder.path());
    let expected = merged(&base, folder.path(), [1.0, -0.5]);
    let adapters = [("first", 1.0), ("second", -0.5)];
    let adapters: Vec<_> =
        adapters.map(|(dir, factor)| (Adapter::open(&folder.path().join(dir), Links::Inside).unwrap(), factor)).into();
    let parameters = jamba::bind_adapted(&base, &adapters).unwrap();
    for spec in jamba::table(base.config()) {
        let tensors = &parameters.get(&spec.name).unwrap().tensors;
        for (name, tensor) in spec.tensor_names().iter().zip(tensors) {
            let (found, expected) = (tensor.to_f32_vec(), &expected[name]);
            let most = found.iter().zip(expected).map(|(&x, &y)| (f64::from(x) - y).abs()).fold(0.0, f64::max);
            assert!(most <= 1e-6, "{name}: {most}");
            let mut part = vec![0.0; found.len().min(150) - 1];
            tensor.range_f32(1, &mut part);
            assert_eq!(part, found[1..=part.len()], "{name}: a part");
        }
    }
}

#[test]
fn plans_with_adapters_are_those_of_the_merged_weights() {
    let folder = tempfile::tempdir().unwrap();
    let base = write(folder.path());
    let expected = merged(&base, folder.path(), [1.0, 2.0]);
    let same = folder.path().join("same");
    std::fs::create_dir(&same).unwrap();
    std::fs::copy(folder.path().join("base/config.json"), same.join("config.json")).unwrap();
    let bytes: Vec<(&String, Vec<usize>, Vec<u8>)> = base
        .tensors()
        .map(|info| {
            let bytes = expected[&info.name].iter().flat_map(|&x| (x as f32).to_le_bytes()).collect();
            (&info.name, info.shape.clone(), bytes)
        })
        .collect();
    let views =
        bytes.iter().map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    serialize_to_file(views, None, &same.join("model.safetensors")).unwrap();
    let plan = |dir: &str, adapters: Vec<(&str, f32)>, format: Option<&str>| -> Engine {
        let mut model = ModelFile::open(&folder.path().join(dir)).unwrap();
        model.build.targets = targets(&["x86-64-v3"]).unwrap();
        model.weights.default = format.map(|format| weight_format("weights.default", format).unwrap());
        model.adapters = adapters.into_iter().map(|(dir, factor)| (folder.path().join(dir), factor)).collect();
        model.limits.max_context = 64;
        let output = folder.path().join("x.plan");
        build(&Request::new(model, output.clone()), &Progress::hidden()).unwrap();
        open(&output, 1)
    };
    let of = |mut engine: Engine| logits(&mut engine, &PROMPT, 4).concat();
    let both = || vec![("first", 1.0), ("second", 2.0)];
    let (found, expected) = (of(plan("base", both(), None)), of(plan("same", Vec::new(), None)));
    let (difference, at) = max_difference(&found, &expected);
    assert!(difference <= 1e-4, "|Δlogit| {difference:e} at {at}");
    let without = of(plan("base", Vec::new(), None));
    assert!(max_difference(&without, &expected).0 > 1e-2, "the adapters change the model");
    let int8 = of(plan("base", both(), Some("int8")));
    assert!(max_difference(&int8, &expected).0 < 0.5);
    let engine = plan("base", both(), None);
    let provenance = engine.manifest().provenance.clone().unwrap();
    assert!(provenance.options.contains(&("lora".into(), "first:1, second:2".into())), "{:?}", provenance.options);
    assert!(provenance.files.iter().any(|file| file.name == "second/adapter_model.safetensors"));
}

#[test]
fn adapters_that_do_not_fit_are_refused_by_name() {
    const Q: &str = "base_model.model.model.layers.1.self_attn.q_proj";
    let folder = tempfile::tempdir().unwrap();
    let base = write(folder.path());
    let good = halves(&base, &MODULES[4..5]);
    let dir = folder.path().join("x");
    let refused = |tensors: &Tensors, config: &Value, says: &str| {
        store(&dir, tensors, config);
        let found = Adapter::open(&dir, Links::Inside).map_err(|error| error.to_string()).and_then(|adapter| {
            let adapters = [(adapter, 1.0)];
            jamba::bind_adapted(&base, &adapters).map(|_| ()).map_err(|error| error.to_string())
        });
        let error = found.expect_err(says);
        assert!(error.contains(says), "{error}");
    };
    let with = |key: &str, value: Value| {
        let mut config = config();
        config[key] = value;
        config
    };
    for (key, value, says) in [
        ("peft_type", json!("LOHA"), "peft_type: found \"LOHA\", expected \"LORA\""),
        ("use_dora", json!(true), "use_dora: found true, expected false"),
        ("bias", json!("all"), "bias: found \"all\", expected \"none\""),
        ("init_lora_weights", json!("pissa"), "init_lora_weights: found \"pissa\""),
        ("layer_replication", json!([[0, 2]]), "layer_replication: found [[0,2]], expected null"),
        ("r", json!(0), "r: found 0, expected an integer from 1"),
        ("lora_alpha", json!(null), "lora_alpha: found"),
        ("rank_pattern", json!({"q_proj": "x"}), "rank_pattern: found {\"q_proj\":\"x\"}"),
        ("rank_pattern", json!({"q_proj(": 4}), "rank_pattern: found \"q_proj(\", expected a regular expression"),
        ("rank_pattern", json!({"q_proj": 3}), "lora_A.weight: found shape [4, 64], expected [3, 64]"),
        ("gates", json!(1), "gates: unknown key that could change the arithmetic"),
    ] {
        refused(&good, &with(key, value), says);
    }
    let changed = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = good.clone();
        change(&mut tensors);
        tensors
    };
    let alone = changed(&|tensors| drop(tensors.remove(&format!("{Q}.lora_B.weight"))));
    refused(
        &alone,
        &config(),
        "q_proj.lora_A.weight: found it alone, expected base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight",
    );
    let other = changed(&|tensors| {
        for half in ["A", "B"] {
            let tensor = tensors.remove(&format!("{Q}.lora_{half}.weight")).unwrap();
            tensors.insert(format!("base_model.model.model.layers.0.self_attn.q_proj.lora_{half}.weight"), tensor);
        }
    });
    refused(
        &other,
        &config(),
        "layers.0.self_attn.q_proj.lora_A.weight: found it, expected lora_A and lora_B of linears",
    );
    let shape = changed(&|tensors| {
        tensors.insert(format!("{Q}.lora_B.weight"), (vec![63, 4], vec![0.0; 63 * 4]));
    });
    refused(&shape, &config(), "lora_B.weight: found shape [63, 4], expected [64, 4]");
    let broken = changed(&|tensors| tensors.get_mut(&format!("{Q}.lora_A.weight")).unwrap().1[5] = f32::NAN);
    refused(&broken, &config(), "lora_A.weight: found NaN as number 5, expected finite numbers");
    let saved = changed(&|tensors| {
        tensors.insert("base_model.model.score.weight".into(), (vec![2, 64], vec![0.0; 128]));
    });
    refused(&saved, &config(), "score.weight: found it, expected lora_A and lora_B of linears, or parameters");
    std::fs::remove_file(dir.join("adapter_model.safetensors")).unwrap();
    let error = Adapter::open(&dir, Links::Inside).unwrap_err().to_string();
    assert!(error.contains("found no adapter_model.safetensors"), "{error}");
}
