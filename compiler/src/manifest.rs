//! model.toml: which checkpoint, for which targets, in which formats, within which limits.
//!
//! `jambac build` also takes the checkpoint's folder itself; every key has a default then.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use jamba_plan::format::KV_PAGE_TOKENS;
use serde::Deserialize;

/// A model file with its defaults filled in, paths resolved against the file's own folder.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelFile {
    /// The model's name: of the model file's folder.
    pub name: String,
    /// The Hugging Face folder.
    pub checkpoint: PathBuf,
    /// `[build]`.
    pub build: Build,
    /// `[weights]`.
    pub weights: Weights,
    /// `[limits]`.
    pub limits: Limits,
}

/// Targets and passes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Build {
    /// `x86-64-v2`, `x86-64-v3`, `x86-64-v4`, `x86-64-v4-vnni`, `native`, `sm_90a`.
    pub targets: Vec<String>,
    /// `all`, `none`, or names of passes.
    pub fusion: Fusion,
}

impl Default for Build {
    fn default() -> Build {
        Build { targets: vec!["x86-64-v3".into()], fusion: Fusion::Word("all".into()) }
    }
}

/// `"all"`, `"none"`, `"a,b"` or `["a", "b"]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Fusion {
    /// One word, or names with commas.
    Word(String),
    /// A list of names.
    List(Vec<String>),
}

impl Fusion {
    /// The form that the command line takes.
    pub fn as_text(&self) -> String {
        match self {
            Fusion::Word(word) => word.clone(),
            Fusion::List(names) if names.is_empty() => "none".into(),
            Fusion::List(names) => names.join(","),
        }
    }
}

/// Weight formats; absent means as the checkpoint stores them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Weights {
    /// All linear layers.
    pub default: Option<String>,
    /// The experts alone.
    pub experts: Option<String>,
}

/// What the plan is built to serve.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Tokens of one sequence.
    pub max_context: u64,
    /// Sequences at once.
    pub max_sequences: u64,
    /// Tokens of KV cache, all sequences together; absent: every sequence at its longest.
    pub kv_tokens: Option<u64>,
    /// Stored type of keys and values.
    pub kv_dtype: Option<String>,
    /// Tokens of one prefill step.
    pub prefill_chunk: u64,
    /// Rows of logits that one prefill step can return; each takes a row of the vocabulary in the arena.
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
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
    checkpoint: PathBuf,
}

impl ModelFile {
    /// Reads a model file, or takes a checkpoint's folder with defaults (its model.toml, where it has one, is read).
    pub fn open(path: &Path) -> Result<ModelFile> {
        if path.is_dir() {
            let beside = path.join("model.toml");
            if beside.is_file() {
                return ModelFile::open(&beside);
            }
            return Ok(ModelFile {
                name: folder_name(path),
                checkpoint: path.to_owned(),
                build: Build::default(),
                weights: Weights::default(),
                limits: Limits::default(),
            });
        }
        let text = std::fs::read_to_string(path).with_context(|| {
            format!("reading {}, which should be a model.toml or a checkpoint's folder", path.display())
        })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let Text { model, build, weights, limits } =
            toml::from_str(&text).with_context(|| format!("{} is not a model file", path.display()))?;
        Ok(ModelFile { name: folder_name(folder), checkpoint: folder.join(model.checkpoint), build, weights, limits })
    }

    /// Refuses limits that contradict each other, naming the key.
    pub fn check(&self) -> Result<()> {
        let Limits { max_context, max_sequences, prefill_chunk, max_outputs, .. } = self.limits;
        for (key, value) in [
            ("max_context", max_context),
            ("max_sequences", max_sequences),
            ("prefill_chunk", prefill_chunk),
            ("max_outputs", max_outputs),
        ] {
            ensure!(value > 0, "limits.{key}: found 0, expected at least 1");
        }
        ensure!(
            self.kv_tokens() >= max_context.next_multiple_of(KV_PAGE_TOKENS),
            "limits.kv_tokens: found {}, expected at least max_context ({max_context}), or one full sequence never fits",
            self.kv_tokens()
        );
        ensure!(!self.build.targets.is_empty(), "build.targets: found an empty list, expected at least one target");
        for (i, target) in self.build.targets.iter().enumerate() {
            if self.build.targets[..i].contains(target) {
                bail!("build.targets: found {target} twice");
            }
        }
        Ok(())
    }

    /// Tokens of KV cache in whole pages.
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
        assert_eq!(model.build.targets, ["x86-64-v3"]);
        model.check().unwrap();
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
    fn a_cache_smaller_than_one_sequence_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut model = ModelFile::open(folder.path()).unwrap();
        model.limits.kv_tokens = Some(64);
        let error = format!("{:#}", model.check().unwrap_err());
        assert!(error.starts_with("limits.kv_tokens: found 64"), "{error}");
    }
}
