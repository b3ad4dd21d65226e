//! A LoRA adapter's folder, as PEFT saves it: adapter_config.json and adapter_model.safetensors.
//!
//! ```text
//! W ← W + scale · B · A     scale = lora_alpha / r, or lora_alpha / √r with use_rslora
//! ```

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::digest::{self, FileDigest};
use crate::error::{Error, Result};
use crate::folder::{Folder, Links};
use crate::ignore::Ignore;
use crate::index::TensorInfo;
use crate::json::{Keys, show};
use crate::safetensors::Shard;
use crate::view::TensorView;

/// The files of an adapter.
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// Keys that say where the adapter comes from, how it was trained, or what its tensors show.
const WITHOUT_EFFECT: [&str; 28] = [
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "task_type",
    "inference_mode",
    "target_modules",
    "exclude_modules",
    "modules_to_save",
    "layers_to_transform",
    "layers_pattern",
    "lora_dropout",
    "megatron_config",
    "megatron_core",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "runtime_config",
    "ensure_weight_tying",
    "peft_version",
    "qalora_group_size",
    "arrow_config",
    "monteclora_config",
    "velora_config",
    "bdlora_config",
    "target_modules_regex",
    "unsloth_version",
    "unsloth_fixed",
];

/// Keys that must have one of these values, and what other values would do.
const FIXED: [(&str, &[&str], &str); 12] = [
    ("peft_type", &["\"LORA\""], "the adapters that are merged"),
    ("bias", &["\"none\""], "biases are not trained"),
    ("fan_in_fan_out", &["false"], "weights are [outputs, inputs]"),
    ("use_dora", &["false", "null"], "magnitudes are not merged"),
    ("use_qalora", &["false", "null"], "inputs are not pooled"),
    ("use_bdlora", &["null", "false"], "blocks are not merged"),
    ("lora_bias", &["false", "null"], "B has no bias"),
    ("layer_replication", &["null"], "layers stay as they are"),
    ("target_parameters", &["null", "[]"], "adapters of linears are merged"),
    ("trainable_token_indices", &["null", "[]"], "single tokens are not replaced"),
    ("alora_invocation_tokens", &["null", "[]"], "the adapter works on all tokens"),
    (
        "init_lora_weights",
        &["true", "false", "null", "\"gaussian\"", "\"orthogonal\""],
        "other ways change the base model",
    ),
];

/// An open adapter.
#[derive(Debug)]
pub struct Adapter {
    dir: PathBuf,
    /// The text of adapter_config.json.
    config: Vec<u8>,
    shard: Shard,
    tensors: Vec<TensorInfo>,
    r: usize,
    alpha: f64,
    /// Patterns of modules with their own rank, in order.
    ranks: Vec<(String, f64)>,
    /// Patterns of modules with their own alpha, in order.
    alphas: Vec<(String, f64)>,
    uses_root: bool,
}

impl Adapter {
    /// Opens the folder `dir`. Tensors are mapped.
    ///
    /// # Errors
    /// A file that is missing or invalid; a key that could change the arithmetic; a link that leads out of the folder.
    pub fn open(dir: &Path, links: Links) -> Result<Self> {
        let (path, folder) = (dir.join(CONFIG), Folder::open(dir, links)?);
        let text = folder.read(CONFIG)?;
        let mut keys = Keys::parse(&text, &path)?;
        for (key, allowed, reason) in FIXED {
            if let Some(value) = keys.take(key)
                && !allowed.contains(&value.to_string().as_str())
            {
                return Err(keys.refuse(key, show(&value), format!("{} ({reason})", allowed.join(" or "))));
            }
        }
        keys.ignore(&WITHOUT_EFFECT);
        let r = keys.required_count("r")?;
        let alpha = keys.positive_number("lora_alpha")?;
        let uses_root = keys.boolean("use_rslora")?.unwrap_or(false);
        let ranks = patterns(&mut keys, "rank_pattern")?;
        let alphas = patterns(&mut keys, "alpha_pattern")?;
        let Some(alpha) = alpha else { return Err(keys.refuse("lora_alpha", "nothing", "a number greater than 0")) };
        keys.finish()?;
        if !folder.has(WEIGHTS) {
            return Err(Error::file(dir, format!("no {WEIGHTS}"), "the adapter's weights in safetensors"));
        }
        let (shard, contents) = Shard::open(&folder, WEIGHTS, 0, &Ignore::default())?;
        Ok(Self {
            dir: dir.into(),
            config: text.clone(),
            shard,
            tensors: contents.tensors,
            r,
            alpha,
            ranks,
            alphas,
            uses_root,
        })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file of the tensors.
    pub fn path(&self) -> &Path {
        self.shard.path()
    }

    /// Every tensor, in name order.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.tensors.iter().map(|info| TensorView { info, bytes: self.shard.bytes(info.byte_range.clone()) })
    }

    /// Digests of its files.
    pub fn digests(&self) -> Vec<FileDigest> {
        let name = |file: &str| format!("{}/{file}", self.dir.file_name().unwrap_or_default().to_string_lossy());
        let config = digest::whole(&name(CONFIG), &self.config);
        vec![config, FileDigest { name: name(WEIGHTS), ..digest::shard(&self.shard) }]
    }

    /// The rank that the config gives the module of this name, such as `model.layers.0.mamba.in_proj`.
    ///
    /// # Errors
    /// A pattern that is no regular expression.
    pub fn rank(&self, module: &str) -> Result<usize> {
        Ok(self.of_patterns(&self.ranks, module, "rank_pattern")?.unwrap_or(self.r as f64) as usize)
    }

    /// The factor of B · A for the module of this name.
    ///
    /// # Errors
    /// A pattern that is no regular expression.
    pub fn scale(&self, module: &str) -> Result<f64> {
        let alpha = self.of_patterns(&self.alphas, module, "alpha_pattern")?.unwrap_or(self.alpha);
        let rank = self.rank(module)? as f64;
        Ok(alpha / if self.uses_root { rank.sqrt() } else { rank })
    }

    /// The value of the first pattern that is a module's name or its end, as PEFT matches them.
    fn of_patterns(&self, patterns: &[(String, f64)], module: &str, key: &str) -> Result<Option<f64>> {
        for (pattern, value) in patterns {
            let whole = regex::Regex::new(&format!("^(?:.*\\.)?(?:{pattern})$"))
                .map_err(|_| Error::key(&self.dir.join(CONFIG), key, format!("{pattern:?}"), "a regular expression"))?;
            if whole.is_match(module) {
                return Ok(Some(*value));
            }
        }
        Ok(None)
    }
}

/// An object of patterns with numbers above 0.
fn patterns(keys: &mut Keys, key: &str) -> Result<Vec<(String, f64)>> {
    let Some(value) = keys.take_non_null(key) else { return Ok(Vec::new()) };
    let number = |(pattern, value): (&String, &Value)| Some((pattern.clone(), value.as_f64().filter(|x| *x > 0.0)?));
    match value.as_object().and_then(|object| object.iter().map(number).collect()) {
        Some(patterns) => Ok(patterns),
        None => Err(keys.refuse(key, show(&value), "an object of names of modules with numbers above 0")),
    }
}
