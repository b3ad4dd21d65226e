//! config.json; every key that changes the math is read or refused.
//!
//! The defaults of absent keys are those of `JambaConfig` in Hugging Face transformers
//! (`models/jamba/configuration_jamba.py`); the five sizes that distinguish models are required.

mod head;

use std::path::Path;

use serde_json::Value;

use crate::accepted_keys::check_unread;
use crate::error::Result;
use crate::folder::{Folder, Links, MOST_CONFIG_BYTES};
use crate::ignore::Ignore;
use crate::json::{Keys, show};
use crate::quantization::{Method, Quantization};
use crate::remark::Remark;

pub use head::{Activation, Head};

/// config.json with everything that reading it found out.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    pub(crate) config: JambaConfig,
    /// Whether the file has an `eos_token_id`.
    pub(crate) names_eos: bool,
    /// The types that it states for the weights: key and value. Only the tensors' own types are used.
    pub(crate) dtypes: Vec<(&'static str, String)>,
    /// Keys that would be refused if the user did not ignore them.
    pub(crate) dropped_keys: Vec<String>,
    pub(crate) remarks: Vec<Remark>,
}

impl ConfigFile {
    /// Reads `text`, the content of the config.json at `path`.
    pub(crate) fn parse(text: &[u8], path: &Path, ignore: &Ignore) -> Result<Self> {
        let mut keys = Keys::parse(text, path)?;
        let all = keys.names().map(str::to_owned).collect();
        check_model_type(&mut keys)?;
        let block_types = ["layers_block_type", "layer_types"].map(|key| (key, keys.take_non_null(key)));
        let names_eos = keys.has("eos_token_id");
        let dtype = |key| Some((key, keys.take_non_null(key)?));
        let dtypes = ["torch_dtype", "dtype"].into_iter().filter_map(dtype).collect::<Vec<(_, Value)>>();
        let dtypes = dtypes.iter().filter_map(|(key, value)| Some((*key, value.as_str()?.to_owned()))).collect();
        let mut config = JambaConfig::from_keys(&mut keys)?;
        config.check(&keys)?;
        if ignore.head {
            config.head = Head::Hidden;
        }
        for (key, block_types) in &block_types {
            if let Some(block_types) = block_types {
                config.check_block_types(&keys, key, block_types)?;
            }
        }
        let (remarks, dropped_keys) = check_unread(keys, &all, path, ignore)?;
        Ok(Self { config, names_eos, dtypes, dropped_keys, remarks })
    }
}

/// Dimensions and switches of a Jamba model. Every field is checked: no dimension is zero, and the values are consistent.
#[derive(Debug, Clone, PartialEq)]
pub struct JambaConfig {
    /// Width of the residual stream (`hidden_size`).
    pub d_model: usize,
    /// Width of the feed-forward, of each expert as of the dense MLP (`intermediate_size`).
    pub d_ff: usize,
    /// Number of layers, each a mixer and a feed-forward (`num_hidden_layers`).
    pub n_layers: usize,
    /// Query heads of an attention layer (`num_attention_heads`).
    pub n_heads: usize,
    /// Key and value heads of an attention layer; divides `n_heads` (`num_key_value_heads`).
    pub n_kv_heads: usize,
    /// Width of one head (`head_dim`, or `hidden_size / num_attention_heads`).
    pub d_head: usize,
    /// Layer `i` is attention when `i % attn_layer_period == attn_layer_offset` (`attn_layer_period`).
    pub attn_layer_period: usize,
    /// Less than the period (`attn_layer_offset`).
    pub attn_layer_offset: usize,
    /// Layer `i` has experts when `i % expert_layer_period == expert_layer_offset` (`expert_layer_period`).
    pub expert_layer_period: usize,
    /// Less than the period (`expert_layer_offset`).
    pub expert_layer_offset: usize,
    /// Experts of a mixture; 1 means that every layer is dense (`num_experts`).
    pub n_experts: usize,
    /// Experts per token; at most `n_experts` unless that is 1, where it is ignored
    /// (`num_experts_per_tok`).
    pub top_k: usize,
    /// Channels of a Mamba layer, `expand · d_model`.
    pub d_inner: usize,
    /// SSM states of each channel (`mamba_d_state`).
    pub d_state: usize,
    /// Taps of the causal convolution (`mamba_d_conv`).
    pub d_conv: usize,
    /// Rank of the time step's projection (`mamba_dt_rank`; "auto" is `ceil(hidden_size / 16)`).
    pub dt_rank: usize,
    /// `d_inner / d_model` (`mamba_expand`).
    pub expand: usize,
    /// Tokens of the vocabulary (`vocab_size`).
    pub vocab: usize,
    /// Whether the convolution adds a bias (`mamba_conv_bias`).
    pub conv_bias: bool,
    /// Whether Mamba's `in_proj` and `out_proj` add biases (`mamba_proj_bias`).
    pub proj_bias: bool,
    /// Whether the output projection is the embedding (`tie_word_embeddings`).
    pub tied: bool,
    /// The epsilon of every RMS norm (`rms_norm_eps`).
    pub rms_norm_eps: f64,
    /// Context length of the training; the arithmetic does not depend on it
    /// (`max_position_embeddings`, once `n_ctx`).
    pub max_positions: usize,
    /// The token that begins a text (`bos_token_id`).
    pub bos: Option<u32>,
    /// The tokens that end a text (`eos_token_id`).
    pub eos: Vec<u32>,
    /// The token that fills a batch (`pad_token_id`).
    pub pad: Option<u32>,
    /// The storage of 8-bit weights (`quantization_config`).
    pub quantization: Option<Quantization>,
    /// What follows the last norm (`architectures`).
    pub head: Head,
}

impl JambaConfig {
    /// Reads the config.json at `path`.
    ///
    /// # Errors
    /// As [`JambaConfig::parse`], and when the file cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default();
        let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        let text = Folder::open(folder, Links::Anywhere)?.read_within(name.as_ref(), MOST_CONFIG_BYTES)?;
        Ok(ConfigFile::parse(&text, path, &Ignore::default())?.config)
    }

    /// Reads config.json in the folder `dir`, without the keys in `ignore`.
    ///
    /// # Errors
    /// As [`JambaConfig::read`], and for a link that leads out of the folder.
    pub fn read_in(dir: &Path, ignore: &Ignore, links: Links) -> Result<Self> {
        let text = Folder::open(dir, links)?.read_within("config.json".as_ref(), MOST_CONFIG_BYTES)?;
        Ok(ConfigFile::parse(&text, &dir.join("config.json"), ignore)?.config)
    }

    /// Reads `text`, the content of a config.json; `path` is only for errors.
    ///
    /// # Errors
    /// The text is not a JSON object; a size is missing; a value has the wrong type, is out of range, or contradicts another; the model
    /// is not a Jamba, or its quantization is not supported; a key is unknown, so it could change the arithmetic.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        Ok(ConfigFile::parse(text.as_bytes(), path, &Ignore::default())?.config)
    }

    /// Whether the mixer of `layer` is attention; it is Mamba otherwise.
    pub fn is_attention(&self, layer: usize) -> bool {
        layer % self.attn_layer_period == self.attn_layer_offset
    }

    /// Whether the feed-forward of `layer` is a mixture of experts; it is a dense MLP otherwise.
    pub fn is_moe(&self, layer: usize) -> bool {
        self.n_experts > 1 && layer % self.expert_layer_period == self.expert_layer_offset
    }

    fn from_keys(keys: &mut Keys) -> Result<Self> {
        let head = Head::read(keys)?;
        let d_model = keys.required_count("hidden_size")?;
        let d_ff = keys.required_count("intermediate_size")?;
        let n_layers = keys.required_count("num_hidden_layers")?;
        let n_heads = keys.required_count("num_attention_heads")?;
        let vocab = keys.required_count("vocab_size")?;

        let n_kv_heads = match keys.take("num_key_value_heads") {
            None => 8,
            Some(Value::Null) => n_heads,
            Some(value) => keys.as_integer("num_key_value_heads", &value, 1)?,
        };
        let d_head = match keys.take_non_null("head_dim") {
            Some(value) => keys.as_integer("head_dim", &value, 1)?,
            None if d_model % n_heads == 0 => d_model / n_heads,
            None => {
                return Err(keys.refuse(
                    "hidden_size, num_attention_heads",
                    format!("{d_model} and {n_heads}, and no head_dim"),
                    "num_attention_heads to divide hidden_size, or an explicit head_dim",
                ));
            }
        };
        let dt_rank = match keys.take("mamba_dt_rank") {
            None => d_model.div_ceil(16),
            Some(value) if value == "auto" => d_model.div_ceil(16),
            Some(Value::String(word)) => {
                return Err(keys.refuse("mamba_dt_rank", format!("{word:?}"), "an integer or \"auto\""));
            }
            Some(value) => keys.as_integer("mamba_dt_rank", &value, 1)?,
        };
        let expand = keys.integer("mamba_expand", 1)?.unwrap_or(2);
        // Both are below 2³¹, and usize has 64 bits wherever a checkpoint can be mapped.
        let d_inner = expand * d_model;
        let n_ctx = keys.integer("n_ctx", 1)?;
        let quantization = quantization(keys)?;
        // MLX's Jamba is tied unless config.json says otherwise.
        let ties = quantization.as_ref().is_some_and(|quantization| quantization.method == Method::Mlx);
        Ok(Self {
            d_model,
            d_ff,
            n_layers,
            n_heads,
            n_kv_heads,
            d_head,
            attn_layer_period: keys.integer("attn_layer_period", 1)?.unwrap_or(8),
            attn_layer_offset: keys.integer("attn_layer_offset", 0)?.unwrap_or(4),
            expert_layer_period: keys.integer("expert_layer_period", 1)?.unwrap_or(2),
            expert_layer_offset: keys.integer("expert_layer_offset", 0)?.unwrap_or(1),
            n_experts: n_experts(keys)?,
            top_k: keys.integer("num_experts_per_tok", 1)?.unwrap_or(2),
            d_inner,
            d_state: keys.integer("mamba_d_state", 1)?.unwrap_or(16),
            d_conv: keys.integer("mamba_d_conv", 1)?.unwrap_or(4),
            dt_rank,
            expand,
            vocab,
            conv_bias: keys.boolean("mamba_conv_bias")?.unwrap_or(true),
            proj_bias: keys.boolean("mamba_proj_bias")?.unwrap_or(false),
            tied: keys.boolean("tie_word_embeddings")?.unwrap_or(ties),
            rms_norm_eps: keys.positive_number("rms_norm_eps")?.unwrap_or(1e-6),
            max_positions: keys.integer("max_position_embeddings", 1)?.or(n_ctx).unwrap_or(262_144),
            bos: keys.token_id("bos_token_id", vocab, 1)?,
            eos: keys.token_ids("eos_token_id", vocab)?.unwrap_or_else(|| default_eos(vocab)),
            pad: keys.token_id("pad_token_id", vocab, 0)?,
            quantization,
            head,
        })
    }

    /// Number of parameters, biases and norms aside, if each layer had both mixers.
    fn n_parameters(&self) -> u128 {
        let wide = |n: usize| n as u128;
        let d_model = wide(self.d_model);
        let attention = 2 * d_model * wide(self.d_head) * (wide(self.n_heads) + wide(self.n_kv_heads));
        let of_channel = 3 * d_model + 2 * wide(self.dt_rank) + 3 * wide(self.d_state) + wide(self.d_conv);
        let experts = wide(self.n_experts) * 3 * wide(self.d_ff) * d_model;
        let layer = attention + wide(self.d_inner) * of_channel + experts;
        2 * wide(self.vocab) * d_model + wide(self.n_layers) * layer
    }

    /// Refuses sizes for which a build would take the memory or the time of a machine, far above those of published models. Kernels are
    /// unrolled over states and taps, and the table of parameters has an entry for each expert.
    fn check_sizes(&self, keys: &Keys) -> Result<()> {
        for (key, found, most) in [
            ("num_hidden_layers", self.n_layers, 4096),
            ("num_experts", self.n_experts, 1024),
            ("num_hidden_layers · num_experts", self.n_layers * self.n_experts, 1 << 16),
            ("num_experts_per_tok", self.top_k, 64),
            ("mamba_d_state", self.d_state, 1024),
            ("mamba_d_conv", self.d_conv, 64),
        ] {
            if found > most {
                return Err(keys.refuse(key, found.to_string(), format!("at most {most}")));
            }
        }
        /// 280 trillion.
        const MOST_PARAMETERS: u128 = 1 << 48;
        match self.n_parameters() {
            n if n > MOST_PARAMETERS => Err(keys.refuse(
                "hidden_size and other sizes",
                format!("{n} parameters"),
                format!("at most {MOST_PARAMETERS}"),
            )),
            _ => Ok(()),
        }
    }

    /// Refuses combinations of values that contradict each other.
    fn check(&self, keys: &Keys) -> Result<()> {
        self.check_sizes(keys)?;
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return Err(keys.refuse(
                "num_attention_heads, num_key_value_heads",
                format!("{} and {}", self.n_heads, self.n_kv_heads),
                "num_key_value_heads to divide num_attention_heads",
            ));
        }
        for (kind, offset, period) in [
            ("attn", self.attn_layer_offset, self.attn_layer_period),
            ("expert", self.expert_layer_offset, self.expert_layer_period),
        ] {
            if offset >= period {
                return Err(keys.refuse(
                    &format!("{kind}_layer_offset, {kind}_layer_period"),
                    format!("{offset} and {period}"),
                    "the offset to be less than the period",
                ));
            }
        }
        if self.n_experts > 1 && self.top_k > self.n_experts {
            return Err(keys.refuse(
                "num_experts_per_tok, num_experts",
                format!("{} and {}", self.top_k, self.n_experts),
                "at most as many experts for a token as there are experts",
            ));
        }
        Ok(())
    }

    /// `layers_block_type` (`layer_types` since transformers 5) follows from period and offset; if a config has it, it must agree.
    fn check_block_types(&self, keys: &Keys, key: &str, found: &Value) -> Result<()> {
        let agrees_at = |(layer, name): (usize, &Value)| match self.is_attention(layer) {
            true => name == "attention" || name == "full_attention",
            false => name == "mamba",
        };
        let agrees = found
            .as_array()
            .is_some_and(|types| types.len() == self.n_layers && types.iter().enumerate().all(agrees_at));
        if agrees {
            return Ok(());
        }
        Err(keys.refuse(
            key,
            show(found),
            format!(
                "{} names, \"attention\" where layer % {} == {} and \"mamba\" elsewhere",
                self.n_layers, self.attn_layer_period, self.attn_layer_offset
            ),
        ))
    }
}

/// Checks that the model is a Jamba.
fn check_model_type(keys: &mut Keys) -> Result<()> {
    let model_type = keys.take("model_type");
    if model_type.as_ref().is_none_or(|name| name != "jamba") {
        let found = model_type.as_ref().map_or("nothing".into(), show);
        return Err(keys.refuse("model_type", found, "\"jamba\""));
    }
    Ok(())
}

fn quantization(keys: &mut Keys) -> Result<Option<Quantization>> {
    if let Some(value) = keys.take_non_null("quantization") {
        // MLX writes the same under transformers' key.
        if let Some(other) = keys.take_non_null("quantization_config").filter(|other| *other != value) {
            return Err(keys.refuse(
                "quantization_config",
                show(&other),
                "the value of the key quantization, or nothing",
            ));
        }
        return Ok(Some(Quantization::read_mlx(value, keys.path())?));
    }
    let Some(value) = keys.take_non_null("quantization_config") else { return Ok(None) };
    let quantization = Quantization::read(value, keys.path())?;
    if quantization.records_cache {
        let path = keys.path().display();
        let text =
            format!("{path}: quantization_config.kv_cache_scheme: ignored: --kv chooses the type of keys and values");
        keys.remark(Remark::Note(text));
    }
    Ok(Some(quantization))
}

/// The end of a text where config.json names none: transformers' default.
fn default_eos(vocab: usize) -> Vec<u32> {
    if vocab > 2 { vec![2] } else { Vec::new() }
}

/// `num_experts`, or its alias in transformers, `num_local_experts`.
fn n_experts(keys: &mut Keys) -> Result<usize> {
    let (name, alias) = (keys.integer("num_experts", 1)?, keys.integer("num_local_experts", 1)?);
    match (name, alias) {
        (Some(name), Some(alias)) if name != alias => Err(keys.refuse(
            "num_experts, num_local_experts",
            format!("{name} and {alias}"),
            "the same number: they are two names of one thing",
        )),
        _ => Ok(name.or(alias).unwrap_or(16)),
    }
}

#[cfg(test)]
mod tests;
