//! model.toml: the checkpoint, the targets, the weight formats and the limits of a plan.
//!
//! `jambac build` also takes the checkpoint's folder; every key then has its default. Values are parsed into their types as the file
//! is read, so an error names the file, the line, the key, what was found and what was expected.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::calibrate::Text;
use crate::locate::{Located, locate};
use anyhow::{Context, Result, ensure};
use jamba_plan::format::{KV_PAGE_TOKENS, TargetKind, WeightFormat};
use jambac_checkpoint::{Adapter, Checkpoint, Folder, Ignore, JambaConfig, Links, Metadata, gguf};
use jambac_graph::DType;
use jambac_kernels::target::Target;
use jambac_passes::Fusion;

use serde::{Deserialize, Deserializer, de};

mod found;
mod weights;

pub use weights::{ByPattern, FormatChoice, Weights};

/// A model file with its defaults filled in and its paths resolved against its own folder.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelFile {
    /// The key `name`, the model's name in the Hugging Face cache, or the name of the folder that holds the model file.
    pub name: String,
    /// True if the key `name` is set.
    pub is_named: bool,
    /// The Hugging Face folder, or the GGUF file.
    pub checkpoint: PathBuf,
    /// Where links of the checkpoint and of adapters may lead.
    pub links: Links,
    /// What to ignore in the checkpoint.
    pub ignore: Ignore,
    /// Folders of LoRA adapters to merge, in order, each with a factor.
    pub adapters: Vec<(PathBuf, f32)>,
    pub build: Build,
    pub weights: Weights,
    pub limits: Limits,
    pub unset: Unset,
}

/// Limits without a value in model.toml or an option, which [`mod@crate::defaults`] may set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unset {
    pub context: bool,
    pub sequences: bool,
}

/// The model file of a folder.
const MODEL_TOML: &str = "model.toml";

/// The largest limits. Beyond them, no machine has the memory, and sizes in bytes could exceed 64 bits.
const MOST_TOKENS: u64 = i32::MAX as u64;
/// Each sequence takes a row of logits in the arena.
const MOST_ROWS: u64 = 1 << 16;
const MOST_STEP_TOKENS: u64 = 1 << 20;
const MOST_KV_TOKENS: u64 = 1 << 36;

/// Targets and passes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Build {
    /// At least one. [`targets`] parses the names, [`by_preference`] sorts.
    #[serde(deserialize_with = "read_targets")]
    pub targets: Vec<Target>,
    pub fusion: FusionChoice,
}

/// The targets of a build that names none: every level of x86-64 with its own kernels, for CPUs since 2013 or so. Code takes about
/// 100 KB a level. The levels of VNNI and AMX are left out if the plan has no integer weights, because their code would be that of
/// x86-64-v4.
pub const DEFAULT_TARGETS: [&str; 4] = ["x86-64-v4-amx", "x86-64-v4-vnni", "x86-64-v4", "x86-64-v3"];

/// The levels that round the inputs of bf16 weights to bf16, for `--compute bf16`.
pub const BF16_TARGETS: [&str; 2] = ["x86-64-v4-amx-bf16", "x86-64-v4-bf16"];

impl Default for Build {
    fn default() -> Build {
        Build {
            targets: targets(&DEFAULT_TARGETS).expect("names of targets"),
            fusion: FusionChoice { text: "all".into(), fusion: Fusion::All },
        }
    }
}

/// The fusions to run. The text is kept because the plan's provenance quotes it.
#[derive(Clone, Debug, PartialEq)]
pub struct FusionChoice {
    text: String,
    fusion: Fusion,
}

impl FusionChoice {
    pub fn fusion(&self) -> &Fusion {
        &self.fusion
    }

    /// These fusions without some.
    pub fn without(&self, names: &[&str]) -> FusionChoice {
        FusionChoice { text: format!("{},-{}", self.text, names.join(",-")), fusion: self.fusion.without(names) }
    }
}

impl fmt::Display for FusionChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for FusionChoice {
    type Err = jambac_passes::Error;

    fn from_str(text: &str) -> Result<FusionChoice, jambac_passes::Error> {
        Ok(FusionChoice { text: text.to_owned(), fusion: text.parse()? })
    }
}

impl<'de> Deserialize<'de> for FusionChoice {
    /// `"all"`, `"none"`, `"a,b"`, `"all,-a"` or `["a", "b"]`.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FusionChoice, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "build.fusion: expected a string, or a list of names of passes")]
        enum Written {
            Text(String),
            Names(Vec<String>),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Text(text) => text,
            Written::Names(names) if names.is_empty() => "none".into(),
            Written::Names(names) => names.join(","),
        };
        text.parse().map_err(|error| de::Error::custom(format!("build.fusion: {error}")))
    }
}

/// The load that the plan is built for.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Tokens of one sequence.
    pub max_context: u64,
    /// Concurrent sequences.
    pub max_sequences: u64,
    /// Tokens of KV cache over all sequences. `None`: enough for every sequence at `max_context`.
    pub kv_tokens: Option<u64>,
    /// Stored type of keys and values: f32 or bf16. `None`: f32 on CPUs, bf16 on GPUs.
    #[serde(deserialize_with = "read_kv_dtype")]
    pub kv_dtype: Option<DType>,
    /// Tokens of one prefill step.
    pub prefill_chunk: u64,
    /// Rows of logits that one prefill step can return; each takes one row of the vocabulary in the arena.
    pub max_outputs: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_context: 4096,
            max_sequences: 1,
            kv_tokens: None,
            kv_dtype: None,
            prefill_chunk: 256,
            max_outputs: 16,
        }
    }
}

/// Parses the names of targets. `native` becomes the highest level of this machine.
///
/// # Errors
/// An empty list, an unknown name, a name given twice, or `native` on a CPU below the lowest level.
pub fn targets(names: &[impl AsRef<str>]) -> Result<Vec<Target>> {
    ensure!(!names.is_empty(), "build.targets: found an empty list, expected at least one target");
    let mut seen = BTreeSet::new();
    let mut targets = Vec::new();
    for name in names.iter().map(AsRef::as_ref) {
        ensure!(seen.insert(name), "build.targets: found {name} twice");
        targets.push(name.parse().context("build.targets")?);
    }
    Ok(by_preference(&targets))
}

/// The targets in the order in which a runtime tries them (CPUs from the highest level down, then GPUs), without duplicates.
pub fn by_preference(targets: &[Target]) -> Vec<Target> {
    let mut targets = targets.to_vec();
    targets.sort_by_key(|target| match target {
        Target::Cpu(target) => (TargetKind::Cpu, std::cmp::Reverse(Some(*target))),
        Target::Sm90a => (TargetKind::Sm90a, std::cmp::Reverse(None)),
    });
    targets.dedup();
    targets
}

/// Parses the weight format of the key `key`.
pub fn weight_format(key: &str, found: &str) -> Result<WeightFormat> {
    let format = WeightFormat::ALL.into_iter().find(|&format| format != WeightFormat::F16 && format.name() == found);
    format.with_context(|| format!("{key}: found {found}, expected f32, bf16, fp8, int8, int4 or int3"))
}

/// Parses `limits.kv_dtype`.
pub fn kv_dtype(found: &str) -> Result<DType> {
    let dtype = [DType::F32, DType::Bf16].into_iter().find(|dtype| dtype.name() == found);
    dtype.with_context(|| format!("limits.kv_dtype: found {found}, expected f32 or bf16"))
}

fn read_targets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Target>, D::Error> {
    parsed(targets(&Vec::<String>::deserialize(deserializer)?))
}

fn read_kv_dtype<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DType>, D::Error> {
    parsed(kv_dtype(&String::deserialize(deserializer)?).map(Some))
}

fn read_patterns<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<glob::Pattern>, D::Error> {
    let pattern = |text: &String| {
        glob::Pattern::new(text)
            .with_context(|| format!("model.ignore_tensors: found {text:?}, expected a glob pattern"))
    };
    parsed(Vec::<String>::deserialize(deserializer)?.iter().map(pattern).collect())
}

/// An error of a value as an error of the file, which adds the line.
fn parsed<T, E: de::Error>(value: Result<T>) -> Result<T, E> {
    value.map_err(|error| E::custom(format!("{error:#}")))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    model: Model,
    #[serde(default)]
    build: Build,
    #[serde(default)]
    weights: Weights,
    #[serde(default)]
    limits: Limits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    /// The name in plans; by default, the folder's.
    name: Option<String>,
    checkpoint: PathBuf,
    /// Keys of config.json that the reader would refuse.
    #[serde(default)]
    ignore_keys: Vec<String>,
    /// Tensors that the model does not have, as glob patterns.
    #[serde(default, deserialize_with = "read_patterns")]
    ignore_tensors: Vec<glob::Pattern>,
    /// Hidden states are the result, not logits.
    #[serde(default)]
    embeddings: bool,
}

impl ModelFile {
    /// Reads a model file. Of a checkpoint's folder, reads its model.toml where it has one, and takes defaults otherwise.
    ///
    /// # Errors
    /// Names what the path leads to, if it is no model.
    pub fn open(given: &Path) -> Result<ModelFile> {
        ModelFile::open_with(given, Links::default())
    }

    /// As [`ModelFile::open`], of a model whose links may lead where `links` says. A model.toml that is named is trusted. One that is
    /// found in a folder names a checkpoint in that folder, unless links may lead anywhere.
    ///
    /// # Errors
    /// As [`ModelFile::open`].
    pub fn open_with(given: &Path, links: Links) -> Result<ModelFile> {
        let Located { path, name } = locate(given)?;
        let model = ModelFile::open_at(&path, links)?;
        Ok(match name {
            // A `name` key, and a folder with a model.toml, have their own name.
            Some(name) if !model.is_named => ModelFile { name, ..model },
            _ => model,
        })
    }

    fn open_at(path: &Path, links: Links) -> Result<ModelFile> {
        let is_gguf = gguf::is_gguf(path);
        if path.is_dir() || is_gguf {
            if path.is_dir() {
                let folder = Folder::open(path, links)?;
                if folder.has(MODEL_TOML) {
                    return ModelFile::found(&folder, links);
                }
            }
            return Ok(ModelFile {
                name: if is_gguf { folder_name(&path.with_extension("")) } else { folder_name(path) },
                is_named: false,
                checkpoint: path.to_owned(),
                links,
                ignore: Ignore::default(),
                adapters: Vec::new(),
                build: Build::default(),
                weights: Weights::default(),
                limits: Limits::default(),
                unset: Unset { context: true, sequences: true },
            });
        }
        let text = std::fs::read_to_string(path).with_context(|| {
            format!("reading {}, which should be a model.toml or a checkpoint's folder", path.display())
        })?;
        ModelFile::parse(&text, path, links)
    }

    /// Reads the text of a model file.
    pub(crate) fn parse(text: &str, path: &Path, links: Links) -> Result<ModelFile> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let Keys { model, build, weights, limits } =
            toml::from_str(text).with_context(|| format!("{} is not a model file", path.display()))?;
        let keys: toml::Table = text.parse().with_context(|| format!("{} is not a model file", path.display()))?;
        let has = |key: &str| {
            keys.get("limits").and_then(toml::Value::as_table).is_some_and(|limits| limits.contains_key(key))
        };
        let unset = Unset { context: !has("max_context"), sequences: !has("max_sequences") };
        let Model { name, checkpoint, ignore_keys, ignore_tensors, embeddings } = model;
        let mut weights = weights;
        if let Some(Text::File(path)) = &mut weights.calibrate {
            *path = folder.join(&*path);
        }
        Ok(ModelFile {
            is_named: name.is_some(),
            name: name.unwrap_or_else(|| folder_name(folder)),
            checkpoint: folder.join(checkpoint),
            links,
            ignore: Ignore { keys: ignore_keys, tensors: ignore_tensors, head: embeddings },
            adapters: Vec::new(),
            build,
            weights,
            limits,
            unset,
        })
    }

    /// True if the checkpoint has weights, not only a config.json.
    pub fn has_weights(&self) -> bool {
        let weights = ["model.safetensors", "model.safetensors.index.json"];
        self.checkpoint.is_file() || weights.iter().any(|name| self.checkpoint.join(name).is_file())
    }

    /// Opens the checkpoint.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_checkpoint(&self) -> jambac_checkpoint::Result<Checkpoint> {
        Checkpoint::open_ignoring(&self.checkpoint, self.ignore.clone(), self.links)
    }

    /// Opens the adapters.
    ///
    /// # Errors
    /// As [`Adapter::open`].
    pub fn open_adapters(&self) -> jambac_checkpoint::Result<Vec<(Adapter, f32)>> {
        self.adapters.iter().map(|(dir, factor)| Ok((Adapter::open(dir, self.links)?, *factor))).collect()
    }

    /// Reads the checkpoint's config.json, or the metadata of a GGUF file.
    ///
    /// # Errors
    /// As [`JambaConfig::read`].
    pub fn read_config(&self) -> jambac_checkpoint::Result<JambaConfig> {
        match self.checkpoint.is_file() {
            true => Ok(Metadata::read(&self.checkpoint, &self.ignore, self.links)?.config().clone()),
            false => JambaConfig::read_in(&self.checkpoint, &self.ignore, self.links),
        }
    }

    /// Checks the limits against each other.
    ///
    /// # Errors
    /// Names the key, its value and what was expected.
    pub fn check(&self) -> Result<()> {
        let Limits { max_context, max_sequences, prefill_chunk, max_outputs, kv_tokens, .. } = self.limits;
        for (key, value, most) in [
            ("max_context", max_context, MOST_TOKENS),
            ("max_sequences", max_sequences, MOST_ROWS),
            ("prefill_chunk", prefill_chunk, MOST_STEP_TOKENS),
            ("max_outputs", max_outputs, MOST_STEP_TOKENS),
            ("kv_tokens", kv_tokens.unwrap_or(1), MOST_KV_TOKENS),
        ] {
            ensure!(value > 0, "limits.{key}: found 0, expected at least 1");
            ensure!(value <= most, "limits.{key}: found {value}, expected at most {most}");
        }
        ensure!(
            self.kv_tokens() >= max_context.next_multiple_of(KV_PAGE_TOKENS),
            "limits.kv_tokens: found {}, expected at least max_context ({max_context}), or one full sequence never fits",
            self.kv_tokens()
        );
        ensure!(!self.build.targets.is_empty(), "build.targets: found an empty list, expected at least one target");
        Ok(())
    }

    /// Checks the context against the model's positions.
    ///
    /// # Errors
    /// The context is longer.
    pub fn check_context(&self, config: &JambaConfig) -> Result<()> {
        let place = match self.checkpoint.is_file() {
            true => format!("positions of the model in {}", self.checkpoint.display()),
            false => format!("max_position_embeddings of {}", self.checkpoint.join("config.json").display()),
        };
        ensure!(
            self.limits.max_context <= config.max_positions as u64,
            "limits.max_context: found {}, expected at most {}, the {place}",
            self.limits.max_context,
            config.max_positions
        );
        Ok(())
    }

    /// Tokens of KV cache, rounded up to whole pages.
    pub fn kv_tokens(&self) -> u64 {
        let each = self.limits.max_context.next_multiple_of(KV_PAGE_TOKENS);
        self.limits.kv_tokens.unwrap_or(each * self.limits.max_sequences).next_multiple_of(KV_PAGE_TOKENS)
    }
}

fn folder_name(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.components().next_back().map_or("model".into(), |last| last.as_os_str().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_keys_have_defaults_and_paths_are_relative_to_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.toml");
        std::fs::write(&path, "[model]\ncheckpoint = \"weights\"\n[limits]\nmax_context = 100\nmax_sequences = 3\n")
            .unwrap();
        let model = ModelFile::open(&path).unwrap();
        assert_eq!(model.checkpoint, folder.path().join("weights"));
        assert_eq!(model.kv_tokens(), 112 * 3);
        assert_eq!(model.build.targets, targets(&DEFAULT_TARGETS).unwrap());
        model.check().unwrap();
    }

    #[test]
    fn a_model_has_the_name_of_its_key_or_of_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny/model.toml");
        std::fs::create_dir(folder.path().join("tiny")).unwrap();
        let name = |text: &str| {
            std::fs::write(&path, text).unwrap();
            ModelFile::open(&path).unwrap().name
        };
        assert_eq!(name("[model]\ncheckpoint = \".\""), "tiny");
        assert_eq!(name("[model]\ncheckpoint = \".\"\nname = \"mine\""), "mine");
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.toml");
        std::fs::write(&path, "[model]\ncheckpoint = \".\"\n[limits]\nmax_contxt = 5\n").unwrap();
        let error = format!("{:#}", ModelFile::open(&path).unwrap_err());
        assert!(error.contains("max_contxt") && error.contains("max_context"), "{error}");
    }

    #[test]
    fn limits_beyond_any_machine_are_refused_by_key() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), "{}").unwrap();
        let model = ModelFile::open(folder.path()).unwrap();
        let refused = |key: &str, change: &dyn Fn(&mut Limits)| {
            let mut model = model.clone();
            change(&mut model.limits);
            let error = model.check().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("limits.{key}: found ")) && error.contains("expected at most"),
                "{error}"
            );
        };
        refused("max_sequences", &|limits| limits.max_sequences = 400_000_000);
        refused("max_sequences", &|limits| limits.max_sequences = u64::MAX);
        refused("max_context", &|limits| limits.max_context = u64::MAX);
        refused("prefill_chunk", &|limits| limits.prefill_chunk = 1 << 40);
        refused("max_outputs", &|limits| limits.max_outputs = u64::MAX);
        refused("kv_tokens", &|limits| limits.kv_tokens = Some(u64::MAX));
    }

    #[test]
    fn a_cache_smaller_than_one_sequence_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), "{}").unwrap();
        let mut model = ModelFile::open(folder.path()).unwrap();
        model.limits.kv_tokens = Some(64);
        let error = format!("{:#}", model.check().unwrap_err());
        assert!(error.starts_with("limits.kv_tokens: found 64"), "{error}");
    }

    /// The error of reading a model file with these lines after `[model]`.
    fn refused(lines: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.toml");
        std::fs::write(&path, format!("[model]\ncheckpoint = \".\"\n{lines}\n")).unwrap();
        format!("{:#}", ModelFile::open(&path).unwrap_err())
    }

    #[test]
    fn a_wrong_value_is_refused_with_file_line_key_and_what_was_expected() {
        for (lines, parts) in [
            ("[build]\ntargets = []", ["build.targets: found an empty list", "at least one target"]),
            ("[build]\ntargets = [\"x86-64-v9\"]", ["build.targets: unknown target 'x86-64-v9'", "x86-64-v3"]),
            ("[build]\ntargets = [\"sm_90a\", \"sm_90a\"]", ["build.targets: found sm_90a twice", "line 4"]),
            ("[build]\nfusion = \"fuse-all\"", ["build.fusion: fusion \"fuse-all\"", "expected all, none"]),
            ("[build]\nfusion = [\"fuse-all\"]", ["build.fusion: fusion \"fuse-all\"", "expected all, none"]),
            ("[build]\nfusion = 3", ["build.fusion: expected a string", "list of names"]),
            (
                "[weights]\ndefault = \"int7\"",
                ["weights.default: found int7", "expected f32, bf16, fp8, int8, int4 or int3"],
            ),
            (
                "[weights]\nexperts = \"f8\"",
                ["weights.experts: found f8", "expected f32, bf16, fp8, int8, int4 or int3"],
            ),
            (
                "[weights]\n\"*.in_proj\" = \"int5\"",
                ["weights.*.in_proj: found int5", "expected f32, bf16, fp8, int8, int4 or int3"],
            ),
            ("[limits]\nkv_dtype = \"int8\"", ["limits.kv_dtype: found int8", "expected f32 or bf16"]),
            ("[limits]\nmax_context = \"many\"", ["max_context", "expected u64"]),
        ] {
            let error = refused(lines);
            let named = ["model.toml", "line 4"].iter().chain(&parts).all(|part| error.contains(part));
            assert!(named, "{lines}: {error}");
        }
    }

    #[test]
    fn formats_by_pattern_match_names_without_their_suffix() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.toml");
        let text = "[model]\ncheckpoint = \".\"\n[weights]\ndefault = \"int4\"\n\"*.out_proj\" = \"int8\"\ncalibrate = \"text.txt\"\n";
        std::fs::write(&path, text).unwrap();
        let weights = ModelFile::open(&path).unwrap().weights;
        assert_eq!((weights.default, weights.patterns.len()), (Some(WeightFormat::Int4), 1));
        assert_eq!(weights.calibrate, Some(crate::calibrate::Text::File(folder.path().join("text.txt"))));
        let by = &weights.patterns[0];
        assert!(by.matches("model.layers.3.mamba.out_proj.weight") && by.matches("x.out_proj"));
        assert!(!by.matches("model.layers.3.mamba.in_proj.weight"));
        assert_eq!(by.to_string().parse::<ByPattern>().unwrap(), *by);
        assert!(weights.has_few_bits());
    }

    #[test]
    fn fusions_keep_their_text() {
        let choice: FusionChoice = "all,-fuse-swiglu".parse().unwrap();
        assert_eq!(choice.to_string(), "all,-fuse-swiglu");
        assert!(choice.fusion().includes("fuse-qkv") && !choice.fusion().includes("fuse-swiglu"));
    }

    #[test]
    fn targets_are_sorted_and_unique() {
        let names = |names: &[&str]| targets(names).unwrap().iter().map(Target::name).collect::<Vec<_>>();
        assert_eq!(names(&["x86-64-v2", "sm_90a", "x86-64-v4"]), ["x86-64-v4", "x86-64-v2", "sm_90a"]);
        assert_eq!(by_preference(&[Target::Sm90a, Target::Sm90a]), [Target::Sm90a]);
    }
}
