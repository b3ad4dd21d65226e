//! `quantization_config` of config.json: the storage of linears with weights of 8 and fewer bits.
//!
//! | `quant_method` | written by | weight | scales (factors) |
//! |---|---|---|---|
//! | `compressed-tensors` | llm-compressor | I8 or F8_E4M3 | `X.weight_scale`: of the tensor, of a row, or of a block |
//! | `fp8` | transformers, AutoFP8 | F8_E4M3 or F8_E5M2 | `X.weight_scale_inv` of a block, or `X.weight_scale` |
//! | `compressed-tensors`, `pack-quantized` | llm-compressor | 4 or 8 bits in I32 | by group |
//! | `gptq`, `awq` | AutoGPTQ, GPTQModel, AutoAWQ | 4 or 8 bits in I32 | by group, with zero points |
//! | `bitsandbytes` | transformers | nf4 or fp4 in U8, or I8 | by block of 64, or by row |
//! | none: the key `quantization` | MLX | 2, 4 or 8 bits in U32 | by group, with biases |
//! | `experts_int8` | AI21, for vLLM | unquantized; vLLM rounds the experts to int8 as it loads them | none |
//!
//! The set of quantized weights follows from the dtype of each tensor; `ignore` and `targets` only repeat it. Activations are never
//! rounded to 8 bits, even if the config requests it.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::index::DType;
use crate::json::{Keys, show};

/// The storage of weights of 8 and fewer bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantization {
    pub method: Method,
    /// The possible formats of weights; none if the method rounds as it loads.
    pub schemes: Vec<Scheme>,
    /// Whether the checkpoint has scales of inputs, which are ignored.
    pub records_inputs: bool,
    /// Whether the checkpoint has scales of the KV cache (`kv_cache_scheme`), which are ignored: the plan's own type of keys and values
    /// needs none.
    pub records_cache: bool,
    /// How weights that share words or bytes are packed.
    pub packing: Option<Packing>,
}

/// How several numbers share a word or a byte. Sizes of groups follow from the shapes of the scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// compressed-tensors' `pack-quantized`.
    Compressed { bits: usize },
    /// GPTQ; `offset` is what is added to stored zero points.
    Gptq { bits: usize, offset: u32 },
    /// AWQ.
    Awq { bits: usize },
    /// MLX; the shapes tell the number of bits.
    Mlx,
    /// bitsandbytes.
    BitsAndBytes,
}

/// `quant_method`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `compressed-tensors`.
    CompressedTensors,
    /// `fp8`.
    Fp8,
    /// `experts_int8`.
    ExpertsInt8,
    /// `gptq`.
    Gptq,
    /// `awq`.
    Awq,
    /// `bitsandbytes`.
    BitsAndBytes,
    /// The key `quantization`.
    Mlx,
}

/// The element type of a weight, and the granularity of its scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheme {
    /// An 8-bit type.
    pub dtype: DType,
    pub scales: Scales,
}

/// The elements of a weight of \[n, k\] that share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scales {
    /// All elements. The scale has no dimension, or only dimensions of 1.
    Tensor,
    /// A row, that is, one output. Scales are \[n, 1\] or \[n\].
    Row,
    /// A block of (rows, columns), cut off at the edges. Scales are \[⌈n / rows⌉, ⌈k / columns⌉\].
    Block(usize, usize),
}

impl Scales {
    /// Rows and columns of a weight of \[n, k\] that share a scale.
    pub fn block(self, n: usize, k: usize) -> (usize, usize) {
        match self {
            Scales::Tensor => (n, k),
            Scales::Row => (1, k),
            Scales::Block(rows, columns) => (rows, columns),
        }
    }

    /// The shape of the scales of a weight of \[n, k\]; dimensions of 1 at its end may be missing.
    pub fn shape(self, n: usize, k: usize) -> Vec<usize> {
        let (rows, columns) = self.block(n, k);
        vec![n.div_ceil(rows), k.div_ceil(columns)]
    }
}

impl Quantization {
    /// Reads `value`, the `quantization_config` of the config.json at `path`.
    pub(crate) fn read(value: Value, path: &Path) -> Result<Self> {
        let mut keys = Keys::inside(value, "quantization_config", path)?;
        let method = keys.take("quant_method").unwrap_or_default();
        let records_cache = keys.take_non_null("kv_cache_scheme").is_some();
        let (mut schemes, mut records_inputs) = (Vec::new(), false);
        let (method, packing) = match method.as_str() {
            Some("compressed-tensors") => match compressed_tensors(&mut keys)? {
                Compressed::Bytes(found, records) => {
                    (schemes, records_inputs) = (found, records);
                    (Method::CompressedTensors, None)
                }
                Compressed::Words(bits) => (Method::CompressedTensors, Some(Packing::Compressed { bits })),
            },
            Some("fp8") => {
                (schemes, records_inputs) = fp8(&mut keys)?;
                (Method::Fp8, None)
            }
            Some("experts_int8") => (Method::ExpertsInt8, None),
            Some("gptq") => (Method::Gptq, Some(gptq(&mut keys)?)),
            Some("awq") => (Method::Awq, Some(awq(&mut keys)?)),
            Some("bitsandbytes") => (Method::BitsAndBytes, Some(bits_and_bytes(&mut keys)?)),
            _ => {
                let expected =
                    "\"compressed-tensors\", \"fp8\", \"experts_int8\", \"gptq\", \"awq\" or \"bitsandbytes\"";
                return Err(keys.refuse("quant_method", show(&method), expected));
            }
        };
        keys.finish()?;
        Ok(Self { method, schemes, records_inputs, records_cache, packing })
    }

    /// Reads `value`, the `quantization` that MLX writes: sizes and bits of all modules, and objects for modules with others. The shapes
    /// of the tensors show them; only the mode matters.
    pub(crate) fn read_mlx(value: Value, path: &Path) -> Result<Self> {
        let mut keys = Keys::inside(value, "quantization", path)?;
        mlx_mode(&mut keys)?;
        let modules: Vec<String> = keys.names().map(str::to_owned).collect();
        for module in modules {
            match keys.take(&module) {
                Some(value @ Value::Object(_)) => {
                    let mut of_module = Keys::inside(value, &keys.name(&module), path)?;
                    mlx_mode(&mut of_module)?;
                    of_module.finish()?;
                }
                Some(Value::Bool(_)) | None => {}
                Some(other) => return Err(keys.refuse(&module, show(&other), "an object, true or false")),
            }
        }
        let (method, packing) = (Method::Mlx, Some(Packing::Mlx));
        Ok(Self { method, schemes: Vec::new(), records_inputs: false, records_cache: false, packing })
    }
}

fn mlx_mode(keys: &mut Keys) -> Result<()> {
    one_of(keys, "mode", &["affine"])?;
    let Some(bits) = keys.integer("bits", 1)? else { return Ok(()) };
    if ![2, 4, 8].contains(&bits) {
        return Err(keys.refuse("bits", bits.to_string(), "2, 4 or 8: other numbers cross words"));
    }
    keys.integer("group_size", 1).map(|_| ())
}

/// The number of bits of packed integers.
fn bits(keys: &mut Keys, key: &str) -> Result<usize> {
    match keys.integer(key, 1)? {
        Some(bits @ (4 | 8)) => Ok(bits),
        other => Err(keys.refuse(key, other.map_or("nothing".into(), |bits| bits.to_string()), "4 or 8")),
    }
}

/// The keys of `gptq`.
fn gptq(keys: &mut Keys) -> Result<Packing> {
    // How it was made and how it is to be run; groups and zero points are in the tensors.
    keys.ignore(&[
        "group_size",
        "desc_act",
        "sym",
        "true_sequential",
        "static_groups",
        "act_group_aware",
        "damp_percent",
        "damp_auto_increment",
        "mse",
        "meta",
        "modules_in_block_to_quantize",
        "block_name_to_quantize",
        "module_name_preceding_first_block",
        "model_name_or_path",
        "model_file_base_name",
        "model_seqlen",
        "lm_head",
        "dataset",
        "tokenizer",
        "batch_size",
        "pad_token_id",
        "use_cuda_fp16",
        "use_exllama",
        "disable_exllama",
        "exllama_config",
        "max_input_length",
        "cache_block_outputs",
        "backend",
        "quantizer",
    ]);
    let bits = bits(keys, "bits")?;
    one_of(keys, "pack_dtype", &["int32"])?;
    if keys.boolean("is_marlin_format")? == Some(true) {
        return Err(keys.refuse("is_marlin_format", "true", "false: words in Marlin's order are not read"));
    }
    if let Some(value) = keys.take_non_null("dynamic").filter(|value| *value != serde_json::json!({})) {
        return Err(keys.refuse("dynamic", show(&value), "null: all modules have the same bits"));
    }
    let offset = match one_of(keys, "checkpoint_format", &["gptq", "gptq_v2"])? {
        Some("gptq_v2") => 0,
        _ => 1,
    };
    Ok(Packing::Gptq { bits, offset })
}

/// The keys of `awq`.
fn awq(keys: &mut Keys) -> Result<Packing> {
    keys.ignore(&[
        "group_size",
        "q_group_size",
        "modules_to_not_convert",
        "backend",
        "do_fuse",
        "modules_to_fuse",
        "fuse_max_seq_len",
        "exllama_config",
        "format",
    ]);
    let key = if keys.has("w_bit") { "w_bit" } else { "bits" };
    let bits = bits(keys, key)?;
    if bits != 4 {
        return Err(keys.refuse(key, bits.to_string(), "4"));
    }
    one_of(keys, "version", &["gemm", "GEMM"])?;
    if keys.boolean("zero_point")? == Some(false) {
        return Err(keys.refuse("zero_point", "false", "true: words without zero points are not read"));
    }
    Ok(Packing::Awq { bits })
}

/// The keys of `bitsandbytes`, which the tensors repeat.
fn bits_and_bytes(keys: &mut Keys) -> Result<Packing> {
    keys.ignore(&[
        "load_in_4bit",
        "load_in_8bit",
        "_load_in_4bit",
        "_load_in_8bit",
        "bnb_4bit_compute_dtype",
        "bnb_4bit_use_double_quant",
        "llm_int8_enable_fp32_cpu_offload",
        "llm_int8_has_fp16_weight",
        "llm_int8_skip_modules",
        "llm_int8_threshold",
    ]);
    one_of(keys, "bnb_4bit_quant_type", &["nf4", "fp4"])?;
    one_of(keys, "bnb_4bit_quant_storage", &["uint8"])?;
    Ok(Packing::BitsAndBytes)
}

/// The keys of `fp8`: the format of weights, and whether there are scales of inputs.
fn fp8(keys: &mut Keys) -> Result<(Vec<Scheme>, bool)> {
    keys.ignore(&["modules_to_not_convert", "ignored_layers", "dequantize"]);
    // The rounding of scales; their dtype is known from the tensors.
    one_of(keys, "scale_fmt", &["float", "ue8m0"])?;
    let dtypes = match one_of(keys, "fmt", &["e4m3", "e5m2"])? {
        Some("e4m3") => vec![DType::F8E4M3],
        Some(_) => vec![DType::F8E5M2],
        None => vec![DType::F8E4M3, DType::F8E5M2],
    };
    let records_inputs = one_of(keys, "activation_scheme", &["dynamic", "static"])? == Some("static");
    let scales = match keys.take_non_null("weight_block_size") {
        Some(value) => vec![block(keys, "weight_block_size", &value)?],
        None => vec![Scales::Tensor, Scales::Row],
    };
    let schemes = dtypes.iter().flat_map(|&dtype| scales.iter().map(move |&scales| Scheme { dtype, scales }));
    Ok((schemes.collect(), records_inputs))
}

/// The formats of compressed-tensors.
enum Compressed {
    /// One byte per element: the formats of weights, and whether there are scales of inputs.
    Bytes(Vec<Scheme>, bool),
    /// Integers of this number of bits in words.
    Words(usize),
}

/// `pack-quantized`, with several elements in a word.
const PACKED: &str = "pack-quantized";

/// The keys of `compressed-tensors`.
fn compressed_tensors(keys: &mut Keys) -> Result<Compressed> {
    keys.ignore(&["ignore", "global_compression_ratio", "version"]);
    one_of(keys, "quantization_status", &["compressed"])?;
    let mut is_packed = one_of(keys, "format", &FORMATS)? == Some(PACKED);
    for key in ["sparsity_config", "transform_config"] {
        if let Some(value) = keys.take_non_null(key).filter(|value| *value != serde_json::json!({})) {
            return Err(keys.refuse(key, show(&value), "null: neither gaps nor rotations of weights are read"));
        }
    }
    let groups = keys.take("config_groups").unwrap_or_default();
    let Value::Object(groups) = groups else {
        return Err(keys.refuse("config_groups", show(&groups), "an object of groups"));
    };
    let (mut schemes, mut records_inputs, mut of_groups) = (Vec::new(), false, Vec::new());
    for (name, group) in groups {
        let mut group = Keys::inside(group, &keys.name(&format!("config_groups.{name}")), keys.path())?;
        group.ignore(&["targets"]);
        if let Some(format) = one_of(&mut group, "format", &FORMATS)? {
            is_packed = format == PACKED;
        }
        if let Some(value) = group.take_non_null("output_activations") {
            return Err(group.refuse("output_activations", show(&value), "null"));
        }
        if let Some(inputs) = group.take_non_null("input_activations") {
            records_inputs |= inputs.get("dynamic") == Some(&Value::Bool(false));
        }
        let Some(weights) = group.take_non_null("weights") else {
            return Err(group.refuse("weights", "nothing", "how weights are stored"));
        };
        let weights = Keys::inside(weights, &group.name("weights"), keys.path())?;
        match is_packed {
            true => of_groups.push(packed_bits(weights)?),
            false => schemes.push(scheme(weights)?),
        }
        group.finish()?;
    }
    match of_groups[..] {
        [] => {}
        [bits, ref rest @ ..] if rest.iter().all(|other| *other == bits) && schemes.is_empty() => {
            return Ok(Compressed::Words(bits));
        }
        _ => return Err(keys.refuse("config_groups", "groups of several formats", "one format")),
    }
    if schemes.is_empty() {
        return Err(keys.refuse("config_groups", "{}", "a group at least"));
    }
    Ok(Compressed::Bytes(schemes, records_inputs))
}

/// Formats of compressed-tensors.
const FORMATS: [&str; 4] = ["int-quantized", "float-quantized", "naive-quantized", PACKED];

/// The bits of a group's packed integers. Groups of columns, their order and zero points are in the tensors.
fn packed_bits(mut keys: Keys) -> Result<usize> {
    keys.ignore(&[
        "observer",
        "observer_kwargs",
        "scale_dtype",
        "zp_dtype",
        "group_size",
        "block_structure",
        "symmetric",
    ]);
    let bits = bits(&mut keys, "num_bits")?;
    one_of(&mut keys, "type", &["int"])?;
    one_of(&mut keys, "strategy", &["channel", "group"])?;
    one_of(&mut keys, "actorder", &["group", "weight", "static", "dynamic"])?;
    if let Some(value) = keys.take("dynamic").filter(|value| *value != Value::Bool(false)) {
        return Err(keys.refuse("dynamic", show(&value), "false: weights have their scales in the checkpoint"));
    }
    keys.finish()?;
    Ok(bits)
}

/// The `weights` of a group.
fn scheme(mut keys: Keys) -> Result<Scheme> {
    keys.ignore(&["observer", "observer_kwargs", "scale_dtype", "zp_dtype"]);
    let n_bits = keys.integer("num_bits", 1)?;
    if n_bits != Some(8) {
        return Err(keys.refuse("num_bits", n_bits.map_or("nothing".into(), |bits| bits.to_string()), "8"));
    }
    let dtype = match one_of(&mut keys, "type", &["int", "float"])? {
        Some("float") => DType::F8E4M3,
        _ => DType::I8,
    };
    if keys.boolean("symmetric")? == Some(false) {
        return Err(keys.refuse("symmetric", "false", "true: zero points are not read"));
    }
    if let Some(value) = keys.take("dynamic").filter(|value| *value != Value::Bool(false)) {
        return Err(keys.refuse("dynamic", show(&value), "false: weights have their scales in the checkpoint"));
    }
    if let Some(value) = keys.take_non_null("actorder") {
        return Err(keys.refuse("actorder", show(&value), "null: columns are stored in their order"));
    }
    let (group, blocks) = (keys.take_non_null("group_size"), keys.take_non_null("block_structure"));
    let scales = match one_of(&mut keys, "strategy", &["tensor", "channel", "group", "block"])? {
        Some("channel") => Scales::Row,
        Some("group") => Scales::Block(1, keys.as_integer("group_size", &group.unwrap_or_default(), 1)?),
        Some("block") => block(&keys, "block_structure", &blocks.unwrap_or_default())?,
        _ => Scales::Tensor,
    };
    keys.finish()?;
    Ok(Scheme { dtype, scales })
}

/// A pair of sizes, the value of `key`: `[128, 128]`, or `"128x128"` of older versions of compressed-tensors.
fn block(keys: &Keys, key: &str, value: &Value) -> Result<Scales> {
    if let Some((rows, columns)) = value.as_str().and_then(|text| text.split_once('x'))
        && let (Ok(rows), Ok(columns)) = (rows.parse::<u64>(), columns.parse::<u64>())
    {
        return block(keys, key, &Value::from(vec![rows, columns]));
    }
    match value.as_array().map(Vec::as_slice) {
        Some([rows, columns]) => Ok(Scales::Block(keys.as_integer(key, rows, 1)?, keys.as_integer(key, columns, 1)?)),
        _ => Err(keys.refuse(key, show(value), "rows and columns of a block: [128, 128]")),
    }
}

/// The word at `key`, which must be one of a few; `None` when it is absent or null.
fn one_of<'w>(keys: &mut Keys, key: &str, words: &[&'w str]) -> Result<Option<&'w str>> {
    let Some(value) = keys.take_non_null(key) else { return Ok(None) };
    match words.iter().find(|word| value == **word) {
        Some(word) => Ok(Some(word)),
        None => {
            let expected: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
            Err::<_, Error>(keys.refuse(key, show(&value), expected.join(" or ")))
        }
    }
}

#[cfg(test)]
mod tests;
