//! `quantization_config` of config.json: the storage of linears with 8-bit weights.
//!
//! | `quant_method` | written by | weight | scales (factors) |
//! |---|---|---|---|
//! | `compressed-tensors` | llm-compressor | I8 or F8_E4M3 | `X.weight_scale`: of the tensor, of a row, or of a block |
//! | `fp8` | transformers, AutoFP8 | F8_E4M3 or F8_E5M2 | `X.weight_scale_inv` of a block, or `X.weight_scale` |
//! | `experts_int8` | AI21, for vLLM | unquantized; vLLM rounds the experts to int8 as it loads them | none |
//!
//! The set of quantized weights follows from the dtype of each tensor; `ignore` and `targets` only repeat it. Activations are never
//! rounded to 8 bits, even if the config requests it.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::index::DType;
use crate::json::{Keys, show};

/// The storage of 8-bit weights.
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
        let (method, (schemes, records_inputs)) = match method.as_str() {
            Some("compressed-tensors") => (Method::CompressedTensors, compressed_tensors(&mut keys)?),
            Some("fp8") => (Method::Fp8, fp8(&mut keys)?),
            Some("experts_int8") => (Method::ExpertsInt8, (Vec::new(), false)),
            _ => {
                let expected = "\"compressed-tensors\", \"fp8\" or \"experts_int8\"";
                return Err(keys.refuse("quant_method", show(&method), expected));
            }
        };
        keys.finish()?;
        Ok(Self { method, schemes, records_inputs, records_cache })
    }
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

/// The keys of `compressed-tensors`: the formats of weights, and whether there are scales of inputs.
fn compressed_tensors(keys: &mut Keys) -> Result<(Vec<Scheme>, bool)> {
    keys.ignore(&["ignore", "global_compression_ratio", "version"]);
    one_of(keys, "quantization_status", &["compressed"])?;
    one_of(keys, "format", &FORMATS)?;
    for key in ["sparsity_config", "transform_config"] {
        if let Some(value) = keys.take_non_null(key).filter(|value| *value != serde_json::json!({})) {
            return Err(keys.refuse(key, show(&value), "null: neither gaps nor rotations of weights are read"));
        }
    }
    let groups = keys.take("config_groups").unwrap_or_default();
    let Value::Object(groups) = groups else {
        return Err(keys.refuse("config_groups", show(&groups), "an object of groups"));
    };
    let (mut schemes, mut records_inputs) = (Vec::new(), false);
    for (name, group) in groups {
        let mut group = Keys::inside(group, &keys.name(&format!("config_groups.{name}")), keys.path())?;
        group.ignore(&["targets"]);
        one_of(&mut group, "format", &FORMATS)?;
        if let Some(value) = group.take_non_null("output_activations") {
            return Err(group.refuse("output_activations", show(&value), "null"));
        }
        if let Some(inputs) = group.take_non_null("input_activations") {
            records_inputs |= inputs.get("dynamic") == Some(&Value::Bool(false));
        }
        let Some(weights) = group.take_non_null("weights") else {
            return Err(group.refuse("weights", "nothing", "how weights are stored"));
        };
        schemes.push(scheme(Keys::inside(weights, &group.name("weights"), keys.path())?)?);
        group.finish()?;
    }
    if schemes.is_empty() {
        return Err(keys.refuse("config_groups", "{}", "a group at least"));
    }
    Ok((schemes, records_inputs))
}

/// Formats of compressed-tensors with one byte per element.
const FORMATS: [&str; 3] = ["int-quantized", "float-quantized", "naive-quantized"];

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
