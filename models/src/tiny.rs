//! Seeded miniature Jambas, written as real checkpoints: config.json and safetensors, in one file or in shards.
//!
//! The weights are drawn so that every part has an effect: norms in 0.5 … 1.5, A = −0.5 … −16, D around 1, step sizes from 1e-3 to 0.1,
//! nonzero biases, a router with clear preferences, linear layers that keep the scale of their input. The same miniature and seed give the
//! same bytes on every machine: no function is used whose result is platform dependent.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use jambac_checkpoint::DType;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::json;

use crate::ModelError;
use crate::jamba::{JambaConfig, ParameterSpec, table};

mod quantized;

pub use quantized::Arrangement;

/// How parameters are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// All in one type.
    All(DType),
    /// F32, BF16 and F16 in turn, experts of one layer differing.
    Mixed,
}

/// The names of tensors in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// As transformers writes them.
    Current,
    /// As the first uploads have them: `moe`, `pre_moe_layernorm`, `experts.0` in dense layers.
    Original,
}

/// A miniature: the keys of config.json, and the storage of the checkpoint. Start from a preset.
#[derive(Clone, Debug, PartialEq)]
pub struct Tiny {
    /// `hidden_size`.
    pub hidden: usize,
    /// `intermediate_size`.
    pub ff: usize,
    /// `num_hidden_layers`.
    pub layers: usize,
    /// `num_attention_heads`.
    pub heads: usize,
    /// `num_key_value_heads`.
    pub kv_heads: usize,
    /// `head_dim`, where it is not `hidden / heads`.
    pub head_dim: Option<usize>,
    /// `attn_layer_period` and `attn_layer_offset`.
    pub attention: (usize, usize),
    /// `expert_layer_period` and `expert_layer_offset`.
    pub moe: (usize, usize),
    /// `num_experts`.
    pub experts: usize,
    /// `num_experts_per_tok`.
    pub top_k: usize,
    /// `mamba_d_state`.
    pub d_state: usize,
    /// `mamba_d_conv`.
    pub d_conv: usize,
    /// `mamba_expand`.
    pub expand: usize,
    /// `mamba_dt_rank`, where it is not "auto".
    pub dt_rank: Option<usize>,
    /// `vocab_size`.
    pub vocab: usize,
    /// `mamba_conv_bias`.
    pub conv_bias: bool,
    /// `mamba_proj_bias`.
    pub proj_bias: bool,
    /// `tie_word_embeddings`.
    pub tied: bool,
    /// `rms_norm_eps`.
    pub eps: f64,
    /// How parameters are stored.
    pub storage: Storage,
    /// The storage of the weights of linears, if they have 8 bits.
    pub quantized: Option<Arrangement>,
    pub names: Names,
    /// Number of files; 1 is model.safetensors alone, several have an index.
    pub shards: usize,
}

impl Tiny {
    /// Every kind of layer, sizes divisible by vector widths, F32: 0.8 M parameters.
    pub fn base() -> Tiny {
        Tiny {
            hidden: 64,
            ff: 128,
            layers: 8,
            heads: 4,
            kv_heads: 2,
            head_dim: None,
            attention: (8, 4),
            moe: (2, 1),
            experts: 4,
            top_k: 2,
            d_state: 16,
            d_conv: 4,
            expand: 2,
            dt_rank: None,
            vocab: 512,
            conv_bias: true,
            proj_bias: false,
            tied: false,
            eps: 1e-6,
            storage: Storage::All(DType::F32),
            quantized: None,
            names: Names::Current,
            shards: 1,
        }
    }

    /// Sizes that no vector width divides.
    pub fn odd() -> Tiny {
        Tiny {
            hidden: 72,
            ff: 100,
            layers: 5,
            heads: 6,
            kv_heads: 2,
            attention: (3, 1),
            experts: 3,
            d_state: 5,
            d_conv: 3,
            expand: 3,
            dt_rank: Some(7),
            vocab: 173,
            ..Tiny::base()
        }
    }

    /// Two layers whose rows have `hidden` and 256 inputs, so that formats with blocks and groups of inputs have whole ones. Δ's have 16.
    pub fn in_blocks(hidden: usize) -> Tiny {
        Tiny {
            hidden,
            ff: 256,
            layers: 2,
            attention: (2, 1),
            experts: 3,
            vocab: 173,
            dt_rank: Some(16),
            ..Tiny::base()
        }
    }

    /// The shape of the 3B: no experts, one KV head, tied, BF16.
    pub fn dense_tied() -> Tiny {
        Tiny {
            hidden: 48,
            layers: 6,
            heads: 3,
            kv_heads: 1,
            attention: (4, 2),
            experts: 1,
            top_k: 1,
            tied: true,
            storage: Storage::All(DType::Bf16),
            ..Tiny::base()
        }
    }

    /// Biases on Mamba's projections, BF16, in three shards.
    pub fn with_biases() -> Tiny {
        Tiny {
            layers: 4,
            attention: (4, 3),
            proj_bias: true,
            storage: Storage::All(DType::Bf16),
            shards: 3,
            ..Tiny::base()
        }
    }

    /// Unusual choices: heads that do not divide hidden, attention last in its period, experts in every layer, no bias on the
    /// convolution, d_state 64, another eps, mixed storage types.
    pub fn community() -> Tiny {
        Tiny {
            hidden: 40,
            ff: 56,
            layers: 4,
            heads: 3,
            kv_heads: 1,
            head_dim: Some(16),
            attention: (2, 1),
            moe: (1, 0),
            experts: 5,
            top_k: 3,
            d_state: 64,
            conv_bias: false,
            eps: 1e-5,
            storage: Storage::Mixed,
            ..Tiny::base()
        }
    }

    /// The names of the first uploads.
    pub fn original_names() -> Tiny {
        Tiny { layers: 4, attention: (4, 2), names: Names::Original, storage: Storage::All(DType::F16), ..Tiny::base() }
    }

    /// Every preset by name.
    pub fn presets() -> [(&'static str, Tiny); 6] {
        [
            ("base", Tiny::base()),
            ("odd", Tiny::odd()),
            ("dense_tied", Tiny::dense_tied()),
            ("with_biases", Tiny::with_biases()),
            ("community", Tiny::community()),
            ("original_names", Tiny::original_names()),
        ]
    }

    /// The text of config.json.
    pub fn config_json(&self) -> String {
        let mut config = json!({
            "architectures": ["JambaForCausalLM"],
            "model_type": "jamba",
            "hidden_size": self.hidden,
            "intermediate_size": self.ff,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "attn_layer_period": self.attention.0,
            "attn_layer_offset": self.attention.1,
            "expert_layer_period": self.moe.0,
            "expert_layer_offset": self.moe.1,
            "num_experts": self.experts,
            "num_experts_per_tok": self.top_k,
            "mamba_d_state": self.d_state,
            "mamba_d_conv": self.d_conv,
            "mamba_expand": self.expand,
            "mamba_dt_rank": self.dt_rank.map_or(json!("auto"), |rank| json!(rank)),
            "mamba_conv_bias": self.conv_bias,
            "mamba_proj_bias": self.proj_bias,
            "hidden_act": "silu",
            "vocab_size": self.vocab,
            "tie_word_embeddings": self.tied,
            "rms_norm_eps": self.eps,
            "max_position_embeddings": 4096,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        });
        if let Some(head_dim) = self.head_dim {
            config["head_dim"] = json!(head_dim);
        }
        if let Some(arrangement) = self.quantized {
            config["quantization_config"] = arrangement.config();
        }
        format!("{config:#}\n")
    }

    /// The config alone.
    ///
    /// # Errors
    /// Inconsistent sizes.
    pub fn config(&self) -> Result<JambaConfig, ModelError> {
        Ok(JambaConfig::parse(&self.config_json(), Path::new("config.json"))?)
    }

    /// Writes the checkpoint into `dir`, which is created if it does not exist.
    ///
    /// # Errors
    /// Inconsistent sizes; a file that cannot be written.
    pub fn write(&self, dir: &Path, seed: u64) -> Result<(), ModelError> {
        let config = self.config()?;
        fs::create_dir_all(dir).map_err(|cause| write_error(dir, cause))?;
        let config_path = dir.join("config.json");
        fs::write(&config_path, self.config_json()).map_err(|cause| write_error(&config_path, cause))?;

        let mut random = SplitMix64(seed);
        let mut tensors = Vec::new();
        for spec in table(&config) {
            for name in spec.tensor_names() {
                let dtype = match self.storage {
                    Storage::All(dtype) => dtype,
                    Storage::Mixed => [DType::F32, DType::Bf16, DType::F16][tensors.len() % 3],
                };
                let values = draw(&spec, &mut random);
                let file_name = self.file_name(&config, &name);
                match self.quantized.filter(|arrangement| arrangement.takes(&name)) {
                    Some(arrangement) => tensors.extend(arrangement.store(&file_name, spec.tensor_shape(), &values)),
                    None => tensors.push(Stored {
                        name: file_name,
                        dtype,
                        shape: spec.tensor_shape().to_vec(),
                        bytes: encode(dtype, &values),
                    }),
                }
            }
        }
        self.write_shards(dir, &tensors)
    }

    /// The name of a tensor in the file.
    fn file_name(&self, config: &JambaConfig, canonical: &str) -> String {
        if self.names == Names::Current {
            return canonical.into();
        }
        let layer = canonical.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse().ok());
        let old = canonical.replace(".pre_ff_layernorm.", ".pre_moe_layernorm.");
        match layer {
            Some(layer) if !config.is_moe(layer) => old.replace(".feed_forward.", ".moe.experts.0."),
            _ => old.replace(".feed_forward.", ".moe."),
        }
    }

    fn write_shards(&self, dir: &Path, tensors: &[Stored]) -> Result<(), ModelError> {
        let mut weight_map = BTreeMap::new();
        for shard in 0..self.shards {
            let file = match self.shards {
                1 => "model.safetensors".to_string(),
                n => format!("model-{:05}-of-{n:05}.safetensors", shard + 1),
            };
            let path = dir.join(&file);
            let mine = &tensors[tensors.len() * shard / self.shards..tensors.len() * (shard + 1) / self.shards];
            let mut views = Vec::with_capacity(mine.len());
            for Stored { name, dtype, shape, bytes } in mine {
                let dtype = match dtype {
                    DType::F32 => Dtype::F32,
                    DType::Bf16 => Dtype::BF16,
                    DType::F16 => Dtype::F16,
                    DType::I8 => Dtype::I8,
                    DType::F8E4M3 => Dtype::F8_E4M3,
                    DType::F8E5M2 => Dtype::F8_E5M2,
                    other => unreachable!("no tensor is drawn in {other}"),
                };
                let view = TensorView::new(dtype, shape.clone(), bytes).map_err(|cause| write_error(&path, cause))?;
                views.push((name, view));
                weight_map.insert(name, file.clone());
            }
            let metadata = [("format".to_string(), "pt".to_string())].into();
            serialize_to_file(views, Some(metadata), &path).map_err(|cause| write_error(&path, cause))?;
        }
        if self.shards == 1 {
            return Ok(());
        }
        let total_size: usize = tensors.iter().map(|tensor| tensor.bytes.len()).sum();
        let index = json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
        let path = dir.join("model.safetensors.index.json");
        fs::write(&path, format!("{index:#}\n")).map_err(|cause| write_error(&path, cause))
    }
}

fn write_error(path: &Path, cause: impl std::error::Error + Send + Sync + 'static) -> ModelError {
    ModelError::Write { path: path.into(), cause: Box::new(cause) }
}

/// A tensor as stored in a file.
struct Stored {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn encode(dtype: DType, values: &[f32]) -> Vec<u8> {
    match dtype {
        DType::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        DType::Bf16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
        other => unreachable!("Arrangement::store writes {other}"),
    }
}

/// The elements of one tensor of a parameter.
fn draw(spec: &ParameterSpec, random: &mut SplitMix64) -> Vec<f32> {
    let shape = spec.tensor_shape();
    let n_elements = shape.iter().product();
    let fan_in = shape.last().map_or(1.0, |&n| n as f64);
    let is = |part: &str| spec.name.contains(part);
    let mut draw = |one: &dyn Fn(&mut SplitMix64) -> f64| (0..n_elements).map(|_| one(random) as f32).collect();
    if is("layernorm") {
        draw(&|r| r.uniform(0.5, 1.5))
    } else if is("A_log") {
        // ln 0.5 … ln 16
        draw(&|r| r.uniform(-0.693, 2.773))
    } else if is("mamba.D") {
        draw(&|r| 1.0 + 0.3 * r.normal())
    } else if is("conv1d") {
        draw(&|r| r.uniform(-0.5, 0.5))
    } else if is("dt_proj.bias") {
        // softplus of it is 1e-3 … 0.1
        draw(&|r| r.uniform(-6.9, -2.25))
    } else if is("router") {
        draw(&|r| 2.0 / fan_in.sqrt() * r.normal())
    } else if is("embed_tokens") {
        draw(&|r| r.normal())
    } else {
        draw(&|r| r.normal() / fan_in.sqrt())
    }
}

/// The generator of Steele, Lea and Flood (OOPSLA 2014), as in Java's `SplittableRandom`.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly from low to high.
    fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// About normal, mean 0 and deviation 1: a sum of four uniform numbers, which needs no logarithm.
    fn normal(&mut self) -> f64 {
        let sum: f64 = (0..4).map(|_| self.uniform(-0.5, 0.5)).sum();
        sum * 3f64.sqrt()
    }
}

#[cfg(test)]
mod tests;
