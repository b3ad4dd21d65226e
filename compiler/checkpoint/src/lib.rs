//! A Hugging Face folder as typed, mapped tensors.
//!
//! [`Checkpoint::open`] reads config.json strictly, maps model.safetensors (or the shards that
//! model.safetensors.index.json lists) and checks every header, so that afterwards a tensor is a slice of a mapped
//! file. Parameters are never copied as a whole: a checkpoint may be far larger than memory.
//! The tensors that a Jamba must have, with their shapes, are in jambac-models.

mod accepted_keys;
mod config;
pub mod digest;
mod error;
mod index;
mod json;
mod quantization;
mod safetensors;
#[cfg(test)]
mod tests;
mod tokenizer;
mod view;

use std::path::{Path, PathBuf};

pub use config::JambaConfig;
pub use digest::FileDigest;
pub use error::{Error, Result};
pub use index::{DType, TensorInfo};
pub use quantization::{Method, Quantization, Scales, Scheme};
pub use tokenizer::TokenizerFiles;
pub use view::TensorView;

use index::Index;

/// An open checkpoint: config, mapped tensors, and small files.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    config: JambaConfig,
    index: Index,
    tokenizer: TokenizerFiles,
    eos: Vec<u32>,
}

impl Checkpoint {
    /// Opens the folder `dir`. Reads headers and small files only; tensors are mapped.
    ///
    /// # Errors
    /// An invalid config.json (see [`JambaConfig::parse`]); a shard that is missing, truncated, overlapping, or at odds with the index
    /// file; a tensor whose dtype is not in [`DType`]; a file that cannot be read.
    pub fn open(dir: &Path) -> Result<Self> {
        if dir.is_file() {
            return Err(Error::file(dir, "a file", "a checkpoint folder"));
        }
        let config = JambaConfig::read(&dir.join("config.json"))?;
        let tokenizer = TokenizerFiles::read(dir)?;
        let eos = match tokenizer::generation_eos(&tokenizer, &dir.join("generation_config.json"), config.vocab)? {
            Some(eos) => eos,
            None => config.eos.clone(),
        };
        let index = Index::open(dir)?;
        Ok(Self { dir: dir.into(), config, index, tokenizer, eos })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// config.json.
    pub fn config(&self) -> &JambaConfig {
        &self.config
    }

    /// The tokens that end a text: those of generation_config.json where it has any, as in transformers' `generate`,
    /// and those of config.json otherwise. All are in the vocabulary.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// Every tensor, in name order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.index.tensors.iter()
    }

    /// The tensor `name`.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.index.get(name).map(|info| self.view(info))
    }

    /// The bytes of a tensor of this checkpoint.
    ///
    /// # Panics
    /// May, when `info` describes a tensor of another one.
    pub fn view<'a>(&'a self, info: &'a TensorInfo) -> TensorView<'a> {
        TensorView { info, bytes: self.index.shards[info.shard_idx].bytes(info.byte_range.clone()) }
    }

    /// The file that says which tensors there are (model.safetensors or the index file): the one to name when a
    /// tensor is missing.
    pub fn index_path(&self) -> &Path {
        &self.index.path
    }

    /// The file that a tensor of this checkpoint lies in: the one to name when the tensor is wrong.
    pub fn shard_path(&self, info: &TensorInfo) -> &Path {
        self.index.shards[info.shard_idx].path()
    }

    /// A digest of every file that a plan of this checkpoint depends on: the small ones, then the shards.
    ///
    /// # Errors
    /// config.json can no longer be read.
    pub fn digests(&self) -> Result<Vec<FileDigest>> {
        let mut digests = digest::small_files(&self.dir, &self.tokenizer)?;
        for (shard_idx, shard) in self.index.shards.iter().enumerate() {
            digests.push(digest::shard(shard, self.tensors().filter(|tensor| tensor.shard_idx == shard_idx)));
        }
        Ok(digests)
    }

    /// The tokenizer and what belongs to it.
    pub fn tokenizer(&self) -> &TokenizerFiles {
        &self.tokenizer
    }
}
