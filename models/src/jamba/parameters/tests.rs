//! Bound checkpoints, and refused ones with the messages.

use std::fs;
use std::path::Path;

use expect_test::{Expect, expect};
use safetensors::tensor::TensorView as FileView;
use safetensors::{Dtype, SafeTensors, serialize_to_file};

use jambac_checkpoint::{Ignore, Links};

use super::*;
use crate::tiny::{Arrangement, Names, Storage, Tiny};

/// The tensors of a file by name, to be spoilt.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// Two layers: Mamba and MLP, attention and three experts.
fn small() -> Tiny {
    Tiny { layers: 2, attention: (2, 1), experts: 3, vocab: 40, ..Tiny::base() }
}

fn spoil(folder: &Path, edit: impl FnOnce(&mut Tensors)) {
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let owned = |view: &FileView| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
    let mut tensors: Tensors = file.iter().map(|(name, view)| (name.to_string(), owned(&view))).collect();
    edit(&mut tensors);
    let views =
        tensors.iter().map(|(name, (dtype, shape, data))| (name, FileView::new(*dtype, shape.clone(), data).unwrap()));
    serialize_to_file(views, None, &path).unwrap();
}

/// The message for a miniature whose tensors were edited.
fn refused(tiny: &Tiny, edit: impl FnOnce(&mut Tensors), expected: Expect) {
    let folder = tempfile::tempdir().unwrap();
    tiny.write(folder.path(), 1).unwrap();
    spoil(folder.path(), edit);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let message = bind(&checkpoint).unwrap_err().to_string();
    expected.assert_eq(&message.replace(&folder.path().display().to_string(), "DIR"));
}

#[test]
fn missing() {
    refused(
        &small(),
        |tensors| drop(tensors.remove("model.layers.0.mamba.A_log")),
        expect!["DIR/model.safetensors: tensor model.layers.0.mamba.A_log: found nothing, expected shape [128, 16]"],
    );
    refused(
        &small(),
        |tensors| drop(tensors.remove("model.layers.1.feed_forward.experts.2.up_proj.weight")),
        expect![
            "DIR/model.safetensors: tensor model.layers.1.feed_forward.experts.2.up_proj.weight: found nothing, expected shape [128, 64]"
        ],
    );
}

#[test]
fn extra() {
    let copy = |from: &'static str, to: &'static str| {
        move |tensors: &mut Tensors| drop(tensors.insert(to.into(), tensors[from].clone()))
    };
    refused(
        &small(),
        copy("model.layers.0.mamba.D", "model.layers.0.mamba.dt_proj.scale"),
        expect![
            "DIR/model.safetensors: tensor model.layers.0.mamba.dt_proj.scale: found shape [128], expected no such tensor for this config; to build without it: ignore_tensors = [\"model.layers.0.mamba.dt_proj.scale\"] under [model] in a model.toml, where * matches any characters"
        ],
    );
    // One expert more than the config has, and a layer more.
    refused(
        &small(),
        copy(
            "model.layers.1.feed_forward.experts.0.up_proj.weight",
            "model.layers.1.feed_forward.experts.3.up_proj.weight",
        ),
        expect![
            "DIR/model.safetensors: tensor model.layers.1.feed_forward.experts.3.up_proj.weight: found shape [128, 64], expected no such tensor for this config; to build without it: ignore_tensors = [\"model.layers.1.feed_forward.experts.3.up_proj.weight\"] under [model] in a model.toml, where * matches any characters"
        ],
    );
    refused(
        &small(),
        copy("model.layers.0.mamba.D", "model.layers.2.mamba.D"),
        expect![
            "DIR/model.safetensors: tensor model.layers.2.mamba.D: found shape [128], expected no such tensor for this config; to build without it: ignore_tensors = [\"model.layers.2.mamba.D\"] under [model] in a model.toml, where * matches any characters"
        ],
    );
}

#[test]
fn misshapen() {
    // As many elements, another shape.
    refused(
        &small(),
        |tensors| tensors.get_mut("model.layers.0.mamba.conv1d.weight").unwrap().1 = vec![128, 4],
        expect![
            "DIR/model.safetensors: tensor model.layers.0.mamba.conv1d.weight: found shape [128, 4], expected [128, 1, 4]"
        ],
    );
}

#[test]
fn two_names_of_one_parameter() {
    refused(
        &small(),
        |tensors| {
            let norm = tensors["model.layers.0.pre_ff_layernorm.weight"].clone();
            tensors.insert("model.layers.0.pre_moe_layernorm.weight".into(), norm);
        },
        expect![
            "DIR/model.safetensors: tensor model.layers.0.pre_moe_layernorm.weight: found model.layers.0.pre_ff_layernorm.weight as well, expected one of the two: they are the same parameter"
        ],
    );
}

#[test]
fn a_tied_model_may_repeat_its_embedding_only() {
    let tied = Tiny { tied: true, ..small() };
    let head = |change: u8| {
        move |tensors: &mut Tensors| {
            let mut head = tensors["model.embed_tokens.weight"].clone();
            head.2[7] ^= change;
            tensors.insert("lm_head.weight".into(), head);
        }
    };
    refused(
        &tied,
        head(1),
        expect![
            "DIR/model.safetensors: tensor lm_head.weight: found other values than in model.embed_tokens.weight, expected none or the same: the config has tie_word_embeddings"
        ],
    );
    let folder = tempfile::tempdir().unwrap();
    tied.write(folder.path(), 1).unwrap();
    spoil(folder.path(), head(0));
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert!(bind(&checkpoint).unwrap().get("lm_head.weight").is_none());
}

#[test]
fn a_tied_head_of_another_type_is_the_embedding_if_its_values_are() {
    let tied = Tiny { tied: true, storage: Storage::All(jambac_checkpoint::DType::Bf16), ..small() };
    let widened = |change: f32| {
        move |tensors: &mut Tensors| {
            let (_, shape, bytes) = tensors["model.embed_tokens.weight"].clone();
            let values = bytes
                .chunks_exact(2)
                .map(|bytes| f32::from_bits(u32::from(bytes[0]) << 16 | u32::from(bytes[1]) << 24));
            let last = shape.iter().product::<usize>() - 1;
            let bytes =
                values.enumerate().flat_map(|(i, x)| if i == last { x + change } else { x }.to_le_bytes()).collect();
            tensors.insert("lm_head.weight".into(), (Dtype::F32, shape, bytes));
        }
    };
    let folder = tempfile::tempdir().unwrap();
    tied.write(folder.path(), 1).unwrap();
    spoil(folder.path(), widened(0.0));
    bind(&Checkpoint::open(folder.path()).unwrap()).unwrap();
    refused(
        &tied,
        widened(0.25),
        expect![
            "DIR/model.safetensors: tensor lm_head.weight: found other values than in model.embed_tokens.weight, expected none or the same: the config has tie_word_embeddings"
        ],
    );
}

/// The miniature with the tensors of `edit` has the parameters of the plain one.
fn same_parameters(edit: impl FnOnce(&mut Tensors)) {
    let folder = tempfile::tempdir().unwrap();
    small().write(folder.path(), 1).unwrap();
    spoil(folder.path(), edit);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let parameters = bind(&checkpoint).unwrap();
    for (name, (_, shape, values)) in read(&small()) {
        let found = parameters.get(&name).unwrap();
        assert_eq!((&found.shape, found.to_f32_vec()), (&shape, values), "{name}");
    }
}

#[test]
fn stacked_experts_are_the_same_parameters() {
    let take = |tensors: &mut Tensors, part: &str| -> Vec<Vec<u8>> {
        (0..3)
            .map(|e| tensors.remove(&format!("model.layers.1.feed_forward.experts.{e}.{part}.weight")).unwrap().2)
            .collect()
    };
    // transformers 5.
    same_parameters(|tensors| {
        let [gate, up, down] = ["gate_proj", "up_proj", "down_proj"].map(|part| take(tensors, part));
        let gate_up = gate.iter().zip(&up).flat_map(|(gate, up)| [gate.clone(), up.clone()].concat()).collect();
        let layer = "model.layers.1.feed_forward.experts";
        tensors.insert(format!("{layer}.gate_up_proj"), (Dtype::F32, vec![3, 256, 64], gate_up));
        tensors.insert(format!("{layer}.down_proj"), (Dtype::F32, vec![3, 64, 128], down.concat()));
    });
    // MLX.
    same_parameters(|tensors| {
        for (part, shape) in [("gate_proj", [3, 128, 64]), ("up_proj", [3, 128, 64]), ("down_proj", [3, 64, 128])] {
            let bytes = take(tensors, part).concat();
            let name = format!("model.layers.1.feed_forward.switch_mlp.{part}.weight");
            tensors.insert(name, (Dtype::F32, shape.to_vec(), bytes));
        }
        tensors.get_mut("model.layers.0.mamba.conv1d.weight").unwrap().1 = vec![128, 4, 1];
    });
}

#[test]
fn a_tensor_that_the_model_needs_cannot_be_ignored() {
    let folder = tempfile::tempdir().unwrap();
    small().write(folder.path(), 1).unwrap();
    spoil(folder.path(), |tensors| drop(tensors.insert("score.weight".into(), (Dtype::F32, vec![1], vec![0; 4]))));
    let open = |pattern: &str| {
        let tensors = vec![glob::Pattern::new(pattern).unwrap()];
        Checkpoint::open_ignoring(folder.path(), Ignore { tensors, ..Ignore::default() }, Links::Inside).unwrap()
    };
    bind(&open("score.*")).unwrap();
    let error = bind(&open("*")).unwrap_err().to_string().replace(&folder.path().display().to_string(), "DIR");
    assert_eq!(
        error,
        "DIR/model.safetensors: tensor model.embed_tokens.weight: found it in ignore_tensors, expected it to be used: the model \
         needs it"
    );
}

#[test]
fn scales_of_the_cache_are_dropped() {
    let tiny = Tiny { quantized: Some(Arrangement::Int8Rows), ..small() };
    let folder = tempfile::tempdir().unwrap();
    tiny.write(folder.path(), 1).unwrap();
    spoil(folder.path(), |tensors| {
        for name in ["k_scale", "v_scale"] {
            tensors.insert(format!("model.layers.1.self_attn.{name}"), (Dtype::F32, vec![1], vec![0; 4]));
        }
    });
    let refused = bind(&Checkpoint::open(folder.path()).unwrap()).unwrap_err().to_string();
    assert!(refused.contains("self_attn.k_scale: found shape [1], expected no such tensor"), "{refused}");
    let path = folder.path().join("config.json");
    let config = fs::read_to_string(&path).unwrap();
    fs::write(&path, config.replace("\"quant_method\"", "\"kv_cache_scheme\": {\"num_bits\": 8}, \"quant_method\""))
        .unwrap();
    bind(&Checkpoint::open(folder.path()).unwrap()).unwrap();
}

#[test]
fn the_first_weight_that_is_not_finite_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    small().write(folder.path(), 1).unwrap();
    let expert = "model.layers.1.feed_forward.experts.2.up_proj.weight";
    spoil(folder.path(), |tensors| {
        tensors.get_mut(expert).unwrap().2[4 * (7 * 64 + 5)..][..4].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes());
    });
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let parameters = bind(&checkpoint).unwrap();
    let tensor = &parameters.get("model.layers.1.feed_forward.experts.*.up_proj.weight").unwrap().tensors[2];
    let read = |start: usize, n: usize| {
        let error = |error: crate::ModelError| error.to_string().replace(folder.path().to_str().unwrap(), "DIR");
        tensor.range_finite_f32(start, &mut vec![0.0; n]).map_err(error)
    };
    assert_eq!(read(0, 7 * 64 + 5), Ok(()));
    let expected = "DIR/model.safetensors: tensor model.layers.1.feed_forward.experts.2.up_proj.weight: found -inf at [7, 5], expected finite numbers: \
                    the checkpoint is damaged, or its training diverged";
    assert_eq!(read(0, 128 * 64), Err(expected.to_owned()));
    assert_eq!(read(7 * 64, 64), Err(expected.to_owned()));
    assert_eq!(read(7 * 64 + 6, 300), Ok(()));
}

#[test]
fn the_untied_head_has_to_be_there() {
    refused(
        &small(),
        |tensors| drop(tensors.remove("lm_head.weight")),
        expect!["DIR/model.safetensors: tensor lm_head.weight: found nothing, expected shape [40, 64]"],
    );
}

#[test]
fn experts_stack_in_order() {
    let folder = tempfile::tempdir().unwrap();
    small().write(folder.path(), 1).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let stacked =
        bind(&checkpoint).unwrap().read_f32("model.layers.1.feed_forward.experts.*.down_proj.weight").unwrap();
    let one_by_one: Vec<f32> = (0..3)
        .flat_map(|expert| {
            let name = format!("model.layers.1.feed_forward.experts.{expert}.down_proj.weight");
            checkpoint.tensor(&name).unwrap().to_f32_vec()
        })
        .collect();
    assert_eq!(stacked, one_by_one);
}

/// Every parameter of a miniature: dtype, shape, elements.
fn read(tiny: &Tiny) -> BTreeMap<String, (DType, Vec<usize>, Vec<f32>)> {
    let folder = tempfile::tempdir().unwrap();
    tiny.write(folder.path(), 1).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let parameters = bind(&checkpoint).unwrap();
    let read = |p: &Parameter| (p.dtype, p.shape.clone(), p.to_f32_vec());
    parameters.iter().map(|(name, parameter)| (name.to_string(), read(parameter))).collect()
}

#[test]
fn experts_of_different_types_are_f32_together() {
    let experts = "model.layers.1.feed_forward.experts.*.gate_proj.weight";
    let half = read(&Tiny { storage: Storage::All(jambac_checkpoint::DType::F16), ..small() });
    assert_eq!((half[experts].0, half[experts].1.as_slice()), (DType::F16, [3, 128, 64].as_slice()));
    // Tensors differ in type one after another.
    assert_eq!(read(&Tiny { storage: Storage::Mixed, ..small() })[experts].0, DType::F32);
}

#[test]
fn old_names_are_the_same_parameters() {
    assert_eq!(read(&small()), read(&Tiny { names: Names::Original, ..small() }));
}

#[test]
fn old_names_one_by_one() {
    let config = small().config().unwrap();
    for (old, new) in [
        ("model.layers.0.moe.experts.0.gate_proj.weight", "model.layers.0.feed_forward.gate_proj.weight"),
        ("model.layers.1.moe.experts.0.gate_proj.weight", "model.layers.1.feed_forward.experts.0.gate_proj.weight"),
        ("model.layers.1.moe.router.weight", "model.layers.1.feed_forward.router.weight"),
        ("model.layers.0.pre_moe_layernorm.weight", "model.layers.0.pre_ff_layernorm.weight"),
        ("model.layers.0.mamba.D", "model.layers.0.mamba.D"),
        ("model.layers.9.moe.experts.0.gate_proj.weight", "model.layers.9.feed_forward.experts.0.gate_proj.weight"),
        ("lm_head.weight", "lm_head.weight"),
        ("module.lm_head.weight", "lm_head.weight"),
        ("_orig_mod.model.layers.0.mamba.D", "model.layers.0.mamba.D"),
        ("module._orig_mod.model.layers.1.moe.router.weight", "model.layers.1.feed_forward.router.weight"),
        ("base_model.model.model.layers.0.mamba.D", "model.layers.0.mamba.D"),
    ] {
        assert_eq!(canonical(&config, old), new);
    }
}

#[test]
fn a_name_that_is_none() {
    let folder = tempfile::tempdir().unwrap();
    small().write(folder.path(), 1).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let error = bind(&checkpoint).unwrap().read_f32("model.layers.0.mamba.E").unwrap_err();
    assert_eq!(error.to_string(), "parameter model.layers.0.mamba.E: not one of this model");
}

#[test]
fn weights_of_8_bits_are_their_elements_times_their_scales() {
    for arrangement in Arrangement::ALL {
        let tiny = Tiny { quantized: Some(arrangement), ..small() };
        let folder = tempfile::tempdir().unwrap();
        tiny.write(folder.path(), 1).unwrap();
        let plain = tempfile::tempdir().unwrap();
        small().write(plain.path(), 1).unwrap();
        let (checkpoint, plain) = (Checkpoint::open(folder.path()).unwrap(), Checkpoint::open(plain.path()).unwrap());
        let (parameters, plain) = (bind(&checkpoint).unwrap(), bind(&plain).unwrap());
        let name = "model.layers.1.feed_forward.experts.*.down_proj.weight";
        let stored = &parameters.get(name).unwrap().tensors[2];
        // [64, 128]: the scale of row 40, column 100 by the arrangement's block.
        let scales = checkpoint.tensors().find(|info| info.name.contains("experts.2.down_proj.weight_scale")).unwrap();
        let scales = checkpoint.view(scales).to_f32_vec();
        let scale = match arrangement {
            Arrangement::Fp8Tensors | Arrangement::Fp8Wide => scales[0],
            Arrangement::Fp8Blocks => scales[5], // a row has 3 blocks of 48 columns; block (40 / 32, 100 / 48)
            _ => scales[40],
        };
        let mut element = [0.0];
        stored.elements.range_f32(40 * 128 + 100, &mut element);
        let mut value = [0.0];
        stored.range_f32(40 * 128 + 100, &mut value);
        assert_eq!(value[0], element[0] * scale, "{arrangement:?}");
        let (all, original) = (parameters.read_f32(name).unwrap(), plain.read_f32(name).unwrap());
        assert_eq!(value[0], all[(2 * 64 + 40) * 128 + 100]);
        let square = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>();
        let error = square(&mut all.iter().zip(&original).map(|(a, b)| a - b)) / square(&mut original.iter().copied());
        let expected =
            if stored.elements.info.dtype == jambac_checkpoint::DType::I8 { 0.003..0.02 } else { 0.01..0.04 };
        assert!(expected.contains(&error.sqrt()), "{arrangement:?}: {}", error.sqrt());
        let mut part = vec![0.0; 300];
        stored.range_f32(77, &mut part);
        assert_eq!(part, all[2 * 64 * 128 + 77..][..300], "a range that begins and ends inside rows");
    }
}

#[test]
fn weights_of_8_bits_that_are_not_as_the_config_says() {
    const EXPERT: &str = "model.layers.1.feed_forward.experts.2.up_proj.weight";
    let rows = Tiny { quantized: Some(Arrangement::Int8Rows), ..small() };
    let blocks = Tiny { quantized: Some(Arrangement::Fp8Blocks), ..small() };
    let scale = format!("{EXPERT}_scale");
    refused(
        &rows,
        |tensors| drop(tensors.remove(&scale)),
        expect![
            "DIR/model.safetensors: tensor model.layers.1.feed_forward.experts.2.up_proj.weight_scale: found nothing, expected shape [128, 1]"
        ],
    );
    refused(
        &rows,
        |tensors| tensors.get_mut(&scale).unwrap().1 = vec![64, 2],
        expect![
            "DIR/model.safetensors: tensor model.layers.1.feed_forward.experts.2.up_proj.weight_scale: found shape [64, 2], expected [128, 1]"
        ],
    );
    refused(
        &blocks,
        |tensors| tensors.get_mut(&format!("{EXPERT}_scale_inv")).unwrap().1 = vec![2, 4],
        expect![
            "DIR/model.safetensors: tensor model.layers.1.feed_forward.experts.2.up_proj.weight_scale_inv: found shape [2, 4], expected [4, 2]"
        ],
    );
    refused(
        &rows,
        |tensors| drop(tensors.insert(format!("{EXPERT}_scale_inv"), (Dtype::F32, vec![1], vec![0; 4]))),
        expect![
            "DIR/model.safetensors: tensor model.layers.1.feed_forward.experts.2.up_proj.weight_scale_inv: found model.layers.1.feed_forward.experts.2.up_proj.weight_scale as well, expected one of the two: both scale one weight"
        ],
    );
    refused(
        &rows,
        |tensors| drop(tensors.insert(scale.clone(), (Dtype::I8, vec![128, 1], vec![1; 128]))),
        expect![
            "DIR/model.safetensors: tensor model.layers.1.feed_forward.experts.2.up_proj.weight_scale: found dtype I8, expected scales in F32, BF16 or F16"
        ],
    );
    refused(
        &rows,
        |tensors| tensors.get_mut(&scale).unwrap().2[6..8].copy_from_slice(&[0x80, 0x7f]),
        expect![
            "DIR/model.safetensors: tensor model.layers.1.feed_forward.experts.2.up_proj.weight_scale: found inf as scale 3, expected finite scales"
        ],
    );
    refused(
        &rows,
        |tensors| drop(tensors.insert("lm_head.weight_scale".into(), (Dtype::F32, vec![1], vec![0; 4]))),
        expect![
            "DIR/model.safetensors: tensor lm_head.weight_scale: found shape [1], expected no such tensor for this config; to build without it: ignore_tensors = [\"lm_head.weight_scale\"] under [model] in a model.toml, where * matches any characters"
        ],
    );
    refused(
        &rows,
        |tensors| tensors.get_mut(EXPERT).unwrap().0 = Dtype::F8_E4M3,
        expect![
            "DIR/model.safetensors: tensor model.layers.1.feed_forward.experts.2.up_proj.weight: found dtype F8_E4M3, expected F32, BF16, F16, I8, as quantization_config says"
        ],
    );
    refused(
        &rows,
        |tensors| drop(tensors.insert("model.layers.0.mamba.D".into(), (Dtype::I8, vec![128], vec![1; 128]))),
        expect![
            "DIR/model.safetensors: tensor model.layers.0.mamba.D: found dtype I8, expected F32, BF16 or F16: only weights of linears have 8 bits"
        ],
    );
    refused(
        &small(),
        |tensors| drop(tensors.insert(EXPERT.into(), (Dtype::I8, vec![128, 64], vec![1; 128 * 64]))),
        expect![
            "DIR/model.safetensors: tensor model.layers.1.feed_forward.experts.2.up_proj.weight: found dtype I8, expected F32, BF16 or F16, because config.json has no quantization_config"
        ],
    );
}
