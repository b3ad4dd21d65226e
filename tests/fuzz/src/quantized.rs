//! Whole checkpoints whose weights are packed: of each way to pack them, with edits of config.json, of names, types and shapes of tensors, and of
//! their bytes. Offsets and sizes fit again after the edits. What is accepted is bound to the model and widened.

use std::path::Path;
use std::sync::OnceLock;

use jambac_checkpoint::{Checkpoint, JambaConfig, parsers};
use jambac_models::jamba;
use jambac_models::tiny::Tiny;
use serde_json::{Map, Value, json};

use crate::mutate::edits;

#[path = "../../gguf/blocks.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod blocks;
#[path = "../../gguf/writer.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod writer;

const PATH: &str = "input";

/// Columns of a group of weights that share a scale.
const GROUP: usize = 16;

/// Types of safetensors and the bytes of an element.
const DTYPES: [(&str, usize); 12] = [
    ("F32", 4),
    ("BF16", 2),
    ("F16", 2),
    ("I8", 1),
    ("F8_E4M3", 1),
    ("F8_E5M2", 1),
    ("U8", 1),
    ("I32", 4),
    ("U32", 4),
    ("I64", 8),
    ("F64", 8),
    ("BOOL", 1),
];

/// Words of quantization_config.
const WORDS: [&str; 28] = [
    "gptq",
    "awq",
    "compressed-tensors",
    "fp8",
    "bitsandbytes",
    "experts_int8",
    "nf4",
    "fp4",
    "group",
    "channel",
    "tensor",
    "block",
    "tensor_group",
    "int",
    "float",
    "pack-quantized",
    "float-quantized",
    "int-quantized",
    "naive-quantized",
    "mixed-precision",
    "gptq_v2",
    "gemm",
    "marlin",
    "affine",
    "weight",
    "static",
    "128x128",
    "Linear",
];

/// A tensor of a safetensors file.
#[derive(Clone)]
struct Tensor {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// A checkpoint before edits.
#[derive(Clone)]
struct Sound {
    config: Value,
    tensors: Vec<Tensor>,
}

/// A key of config.json and its value, for each way to pack weights.
fn ways() -> Vec<(&'static str, Value)> {
    let compressed = |format: &str, weights: Value| {
        json!({ "quant_method": "compressed-tensors", "format": format, "quantization_status": "compressed", "ignore": ["lm_head"],
            "config_groups": { "group_0": { "targets": ["Linear"], "weights": weights } } })
    };
    let groups = json!({ "num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP, "symmetric": false, "actorder": "group" });
    let rows = json!({ "num_bits": 8, "type": "int", "strategy": "channel", "symmetric": true, "dynamic": false });
    let blocks =
        json!({ "num_bits": 8, "type": "float", "strategy": "block", "block_structure": "16x16", "symmetric": true });
    vec![
        ("quantization_config", compressed("pack-quantized", groups)),
        ("quantization_config", compressed("int-quantized", rows)),
        ("quantization_config", compressed("float-quantized", blocks)),
        (
            "quantization_config",
            json!({ "quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": true, "sym": false }),
        ),
        (
            "quantization_config",
            json!({ "quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": true, "version": "gemm" }),
        ),
        ("quantization", json!({ "group_size": GROUP, "bits": 4, "mode": "affine" })),
        (
            "quantization_config",
            json!({ "quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_use_double_quant": false, "bnb_4bit_quant_storage": "uint8" }),
        ),
        (
            "quantization_config",
            json!({ "quant_method": "bitsandbytes", "load_in_8bit": true, "llm_int8_threshold": 6.0 }),
        ),
        (
            "quantization_config",
            json!({ "quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [16, 16] }),
        ),
        ("quantization_config", json!({ "quant_method": "experts_int8" })),
    ]
}

/// Two layers with a width and a number of inputs of the last projection.
fn small(hidden: usize, ff: usize) -> Tiny {
    let sizes = Tiny {
        hidden,
        ff,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        attention: (2, 1),
        moe: (2, 1),
        experts: 2,
        ..Tiny::base()
    };
    Tiny { top_k: 1, d_state: 2, d_conv: 2, expand: 1, dt_rank: Some(2), vocab: 8, ..sizes }
}

fn tensor(name: String, dtype: &'static str, shape: &[usize], byte: u8) -> Tensor {
    let size = DTYPES.iter().find(|(name, _)| *name == dtype).map_or(0, |(_, size)| *size);
    Tensor { name, dtype, shape: shape.to_vec(), bytes: vec![byte; size * shape.iter().product::<usize>()] }
}

/// The tensors of the matrix `module` of \[n, k\].
fn packed(way: usize, module: &str, n: usize, k: usize) -> Vec<Tensor> {
    let part = |ending: &str, dtype: &'static str, shape: &[usize], byte: u8| {
        tensor(format!("{module}.{ending}"), dtype, shape, byte)
    };
    let groups = k.div_ceil(GROUP);
    match way {
        0 => {
            let shape = [n as i64, k as i64].iter().flat_map(|size| size.to_le_bytes()).collect();
            vec![
                part("weight_packed", "I32", &[n, k.div_ceil(8)], 0x39),
                part("weight_scale", "F16", &[n, groups], 0x2c),
                part("weight_zero_point", "I32", &[n.div_ceil(8), groups], 0x88),
                part("weight_g_idx", "I32", &[k], 0),
                Tensor { bytes: shape, ..part("weight_shape", "I64", &[2], 0) },
            ]
        }
        1 => vec![part("weight", "I8", &[n, k], 0x91), part("weight_scale", "BF16", &[n, 1], 0x3c)],
        2 => {
            let shape = [n.div_ceil(16), k.div_ceil(16)];
            vec![part("weight", "F8_E4M3", &[n, k], 0x31), part("weight_scale", "BF16", &shape, 0x3c)]
        }
        3 => vec![
            part("qweight", "I32", &[k.div_ceil(8), n], 0x39),
            part("qzeros", "I32", &[groups, n.div_ceil(8)], 0x77),
            part("scales", "F16", &[groups, n], 0x2c),
            part("g_idx", "I32", &[k], 0),
        ],
        4 => vec![
            part("qweight", "I32", &[k, n.div_ceil(8)], 0x39),
            part("qzeros", "I32", &[groups, n.div_ceil(8)], 0x77),
            part("scales", "F16", &[groups, n], 0x2c),
        ],
        5 => vec![
            part("weight", "U32", &[n, k.div_ceil(8)], 0x39),
            part("scales", "BF16", &[n, groups], 0x3c),
            part("biases", "BF16", &[n, groups], 0x3c),
        ],
        6 => {
            let state = json!({ "quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [n, k] });
            let state = state.to_string().into_bytes();
            vec![
                part("weight", "U8", &[(n * k).div_ceil(2), 1], 0x39),
                part("weight.absmax", "F32", &[(n * k).div_ceil(64)], 0x3c),
                part("weight.quant_map", "F32", &[16], 0x3c),
                Tensor {
                    bytes: state.clone(),
                    ..part("weight.quant_state.bitsandbytes__nf4", "U8", &[state.len()], 0)
                },
            ]
        }
        7 => vec![
            part("weight", "I8", &[n, k], 0x91),
            part("SCB", "F32", &[n], 0x3c),
            part("weight_format", "U8", &[], 0),
        ],
        8 => {
            let shape = [n.div_ceil(16), k.div_ceil(16)];
            vec![part("weight", "F8_E4M3", &[n, k], 0x31), part("weight_scale_inv", "F32", &shape, 0x3c)]
        }
        _ => vec![part("weight", "BF16", &[n, k], 0x3c)],
    }
}

/// A checkpoint of each way.
fn sound() -> &'static [Sound] {
    static SOUND: OnceLock<Vec<Sound>> = OnceLock::new();
    SOUND.get_or_init(|| {
        let model = small(16, 16);
        let config: Value = serde_json::from_str(&model.config_json()).expect("JSON");
        let table = jamba::table(&model.config().expect("the sizes fit"));
        let of_way = |(way, (key, value)): (usize, (&str, Value))| {
            let mut config = config.clone();
            config[key] = value;
            let mut tensors = Vec::new();
            for spec in &table {
                for name in spec.tensor_names() {
                    let is_packed = name.ends_with("_proj.weight") && !name.contains("dt_proj");
                    match (spec.tensor_shape(), name.strip_suffix(".weight").filter(|_| is_packed)) {
                        (&[n, k], Some(module)) => tensors.extend(packed(way, module, n, k)),
                        (shape, _) => tensors.push(tensor(name, "F32", shape, 0x3c)),
                    }
                }
            }
            Sound { config, tensors }
        };
        ways().into_iter().enumerate().map(of_way).collect()
    })
}

/// Each way without edits.
pub fn seeds() -> Vec<Vec<u8>> {
    let n = sound().len() + 1;
    (0..n).map(|way| [&[way as u8][..], &[0; 13]].concat()).collect()
}

/// The first byte chooses the way, the rest are edits.
pub fn quantized(data: &[u8]) {
    let Some((&way, rest)) = data.split_first() else { return };
    let way = usize::from(way) % (sound().len() + 1);
    // The edit of nothing leaves the checkpoint as it is, which must be read.
    let is_sound = rest.iter().all(|&byte| byte == 0);
    let edits: Vec<(usize, u64)> = edits(rest).filter(|_| !is_sound).collect();
    let checkpoint = match sound().get(way) {
        Some(sound) => edited(sound.clone(), &edits),
        None => parsers::gguf_checkpoint(&gguf(&edits), Path::new(PATH)),
    };
    let values = checkpoint.map_err(|error| error.to_string()).and_then(|checkpoint| read(&checkpoint));
    if let (true, Err(error)) = (is_sound, values) {
        panic!("way {way}: {error}");
    }
}

/// Reads every parameter.
fn read(checkpoint: &Checkpoint) -> Result<(), String> {
    let _ = (checkpoint.remarks(), checkpoint.digests());
    let parameters = jamba::bind(checkpoint).map_err(|error| error.to_string())?;
    for (name, parameter) in parameters.iter() {
        let values = parameter.to_f32_vec();
        assert_eq!(values.len(), parameter.shape.iter().product::<usize>(), "{name}");
    }
    Ok(())
}

/// The checkpoint after edits.
fn edited(mut sound: Sound, edits: &[(usize, u64)]) -> jambac_checkpoint::Result<Checkpoint> {
    for &(place, number) in edits {
        let (kind, place) = (place % 8, place / 8);
        match kind {
            0..=2 => edit_config(&mut sound.config, place, number),
            _ => edit_tensor(&mut sound.tensors, kind, place, number),
        }
    }
    let mut header = Map::new();
    let (mut data, mut end) = (Vec::new(), 0);
    for Tensor { name, dtype, shape, mut bytes } in sound.tensors {
        // Bytes fit types and shapes that were edited, unless they are too many for a test.
        let size = DTYPES.iter().find(|(known, _)| *known == dtype).map_or(0, |(_, size)| *size);
        if let Some(wanted) =
            shape.iter().try_fold(size, |product, &dim| product.checked_mul(dim)).filter(|&n| n <= 1 << 16)
        {
            bytes.resize(wanted, 0x3c);
        }
        let begin = end;
        end += bytes.len();
        data.extend(bytes);
        header.insert(name, json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, end] }));
    }
    let header = Value::Object(header).to_string();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    parsers::checkpoint(sound.config.to_string().as_bytes(), &file, Path::new(PATH))
}

/// Replaces a value of config.json by a number, a word, null or a truth value, or removes its key.
fn edit_config(config: &mut Value, place: usize, number: u64) {
    let mut n = 0;
    leaves(config, &mut |_| n += 1);
    let (wanted, mut at) = (place % n.max(1), 0);
    leaves(config, &mut |found| {
        if at == wanted {
            *found = match number % 8 {
                0 => Value::Bool((number / 8).is_multiple_of(2)),
                1 | 2 => json!(WORDS[(number / 8) as usize % WORDS.len()]),
                3 => Value::Null,
                4 => json!([number / 8 % 64]),
                5 => json!(number / 8 % 64),
                6 => json!((number / 8) as f64 / 4.0),
                _ => json!(number),
            };
        }
        at += 1;
    });
}

fn leaves(value: &mut Value, visit: &mut dyn FnMut(&mut Value)) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| leaves(item, visit)),
        Value::Object(entries) => entries.values_mut().for_each(|entry| leaves(entry, visit)),
        leaf => visit(leaf),
    }
}

fn edit_tensor(tensors: &mut Vec<Tensor>, kind: usize, place: usize, number: u64) {
    let n = tensors.len();
    if n == 0 {
        return;
    }
    let tensor = &mut tensors[place % n];
    let place = place / n;
    match kind {
        3 => tensor.dtype = DTYPES[number as usize % DTYPES.len()].0,
        4 => {
            let n_dims = tensor.shape.len();
            if let Some(dim) = tensor.shape.get_mut(place % n_dims.max(1)) {
                *dim = number as usize;
            }
        }
        5 => match number % 4 {
            0 => tensor.shape.push(1),
            1 => drop(tensor.shape.pop()),
            2 => tensor.shape.reverse(),
            _ => drop(tensors.remove(place % n)),
        },
        6 => {
            let length = tensor.bytes.len();
            if let Some(byte) = tensor.bytes.get_mut(place % length.max(1)) {
                *byte = number as u8;
            }
        }
        _ => tensor.bytes.iter_mut().for_each(|byte| *byte = number as u8),
    }
}

/// A GGUF file after edits.
fn gguf(edits: &[(usize, u64)]) -> Vec<u8> {
    static SOUND: OnceLock<writer::File> = OnceLock::new();
    let file = SOUND.get_or_init(|| {
        let config: JambaConfig = small(32, 256).config().expect("the sizes fit");
        let mut file = writer::File { version: 3, metadata: writer::sizes(&config), tensors: Vec::new() };
        file.metadata.push(("tokenizer.ggml.eos_token_id".to_owned(), writer::Meta::U32(2)));
        let types = [blocks::Type::Q4_0, blocks::Type::Q5_1, blocks::Type::Q8_0, blocks::Type::Q6K, blocks::Type::Q4K];
        for (at, spec) in jamba::table(&config).iter().enumerate() {
            let width = *spec.shape.last().expect("a dimension");
            let is_matrix = spec.name.ends_with("_proj.weight") && !spec.name.contains("dt_proj");
            let of = match types[at % types.len()] {
                _ if !is_matrix || width % 32 > 0 => blocks::Type::F32,
                blocks::Type::Q6K | blocks::Type::Q4K if width % 256 > 0 => blocks::Type::Q8_0,
                of => of,
            };
            let values = vec![0.25; spec.n_elements()];
            file.tensors.push(writer::tensor(&spec.name, &spec.shape, &values, of).0);
        }
        file
    });
    let mut file = file.clone();
    let mut bytes_at = Vec::new();
    for &(place, number) in edits {
        let (kind, place) = (place % 8, place / 8);
        let (n_keys, n_tensors) = (file.metadata.len(), file.tensors.len());
        let tensor = &mut file.tensors[place % n_tensors];
        let n_dims = tensor.shape.len();
        match kind {
            0 | 1 => {
                file.metadata[place % n_keys].1 = match number % 5 {
                    0 => writer::Meta::F32(number as f32),
                    1 => writer::Meta::Bool(number & 8 == 8),
                    2 => writer::Meta::Text(WORDS[number as usize % WORDS.len()].to_owned()),
                    3 => writer::Meta::I32s(vec![number as i32, 1]),
                    _ => writer::Meta::U32(number as u32),
                }
            }
            2 => tensor.shape[place / n_tensors % n_dims] = number as usize,
            3 => tensor.number = (number % 40) as u32,
            4 => tensor.bytes.resize(number as usize % 4096, 0x3c),
            5 => tensor.bytes.iter_mut().for_each(|byte| *byte = number as u8),
            _ => bytes_at.push((place, number)),
        }
    }
    let mut bytes = file.bytes();
    for (place, number) in bytes_at {
        let at = place % (bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
    }
    bytes
}
