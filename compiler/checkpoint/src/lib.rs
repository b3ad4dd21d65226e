//! A Hugging Face folder, or a GGUF file, as typed, mapped tensors.
//!
//! [`Checkpoint::open`] reads config.json strictly, maps model.safetensors (or the shards that
//! model.safetensors.index.json lists) and checks every header, so that afterwards a tensor is a slice of a mapped
//! file. Parameters are never copied as a whole: a checkpoint may be far larger than memory.
//! The tensors that a Jamba must have, with their shapes, are in jambac-models.

mod accepted_keys;
mod adapter;
mod blocks;
mod config;
pub mod digest;
mod end_tokens;
mod error;
mod folder;
mod generation;
pub mod gguf;
mod ignore;
mod index;
mod json;
mod metadata;
mod quantization;
mod remark;
mod safetensors;
pub mod small_file;
mod stacked;
#[cfg(test)]
mod tests;
mod tokenizer;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub use adapter::Adapter;
pub use config::{Activation, Head, JambaConfig};
pub use digest::FileDigest;
pub use error::{Error, Result};
pub use folder::{Folder, Links};
pub use generation::GenerationConfig;
pub use ignore::Ignore;
pub use index::{DType, TensorInfo, Values};
pub use metadata::Metadata;
pub use quantization::{Method, Packing, Quantization, Scales, Scheme};
pub use remark::Remark;
pub use tokenizer::{NamedTemplate, TokenizerFiles};
pub use view::TensorView;

use index::{Index, Lenient};

/// The output projection. A tied model needs none.
const TIED_HEAD: &str = "lm_head.weight";

/// An open checkpoint: config, mapped tensors, and small files.
#[derive(Debug)]
pub struct Checkpoint {
    metadata: Metadata,
    index: Index,
    ignore: Ignore,
}

impl Checkpoint {
    /// Opens the folder or GGUF file `dir`. Reads headers and small files only; tensors are mapped.
    ///
    /// # Errors
    /// An invalid config.json (see [`JambaConfig::parse`]) or generation_config.json; a shard that is missing, truncated, overlapping,
    /// or at odds with the index file; a tensor whose dtype is not in [`DType`]; a GGUF file of another model; a file that cannot be read; a
    /// link that leads out of the folder, or out of the model's folder in the Hugging Face cache.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::open_ignoring(dir, Ignore::default(), Links::Inside)
    }

    /// As [`Checkpoint::open`], without the keys and tensors in `ignore`, and with links to files that `links` allows.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_ignoring(dir: &Path, ignore: Ignore, links: Links) -> Result<Self> {
        if dir.is_file() && !gguf::is_gguf(dir) {
            return Err(Error::file(dir, "a file", "a checkpoint folder or a GGUF file"));
        }
        let mut metadata = Metadata::read(dir, &ignore, links)?;
        let tied_head = metadata.config().tied.then_some(TIED_HEAD);
        let index = match dir.is_file() {
            true => gguf::index(dir, &ignore, links)?,
            false => Index::open(&Folder::open(dir, links)?, &Lenient { ignore: &ignore, tied_head })?,
        };
        metadata.find_bias(&index);
        Ok(Self { metadata, index, ignore })
    }

    /// The folder, or the GGUF file.
    pub fn dir(&self) -> &Path {
        self.metadata.dir()
    }

    /// Everything but the tensors.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// config.json.
    pub fn config(&self) -> &JambaConfig {
        self.metadata.config()
    }

    /// The tokens that end a text; see [`Metadata::eos`].
    pub fn eos(&self) -> &[u32] {
        self.metadata.eos()
    }

    /// What was ignored or assumed.
    pub fn remarks(&self) -> Vec<Remark> {
        let mut remarks = self.metadata.remarks().to_vec();
        if let [first, rest @ ..] = self.index.ignored.as_slice() {
            let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            remarks.push(Remark::Note(format!("{}: ignored tensors: {first}{more}", self.dir().display())));
        }
        for pattern in &self.ignore.tensors {
            if !self.index.ignored.iter().chain(&self.index.unstored).any(|name| pattern.matches(name)) {
                let files = self.index_path().display();
                let text = format!("model.ignore_tensors: {:?} matches no tensor of {files}", pattern.as_str());
                remarks.push(Remark::Warning(text));
            }
        }
        remarks.extend(self.metadata.dtypes.iter().filter_map(|(key, stated)| self.other_dtype(key, stated)));
        remarks.extend(self.of_blocks());
        remarks
    }

    /// A note on tensors in GGUF's blocks.
    fn of_blocks(&self) -> Option<Remark> {
        let mut counts = BTreeMap::<DType, usize>::new();
        for tensor in self.tensors().filter(|tensor| tensor.dtype.is_blocks()) {
            *counts.entry(tensor.dtype).or_default() += 1;
        }
        if counts.is_empty() {
            return None;
        }
        let counts: Vec<String> = counts.iter().map(|(dtype, count)| format!("{count} of {dtype}")).collect();
        let text = format!(
            "{}: tensors in blocks of integers ({}): packed anew, on CPUs Q4_0 as int4 and others as int8 unless --weights says otherwise; \
             --report-quantization shows what that loses",
            self.dir().display(),
            counts.join(", ")
        );
        Some(Remark::Note(text))
    }

    /// A note if config.json states a type that no tensor has. Tensors of 8 bits are made from tensors of the stated type.
    fn other_dtype(&self, key: &str, stated: &str) -> Option<Remark> {
        let stated = stated.strip_prefix("torch.").unwrap_or(stated);
        let found: BTreeSet<DType> = self.tensors().map(|tensor| tensor.dtype).collect();
        let is_it = |dtype: &DType| dtype.needs_scales() || dtype.is_words() || dtype.name_in_torch() == stated;
        if stated == "auto" || found.is_empty() || found.iter().any(is_it) {
            return None;
        }
        let names = found.iter().map(|dtype| dtype.name()).collect::<Vec<_>>().join(" and ");
        let path = self.dir().join("config.json");
        let text =
            format!("{}: {key}: found {stated:?}, but tensors of {names}: their own types are used", path.display());
        Some(Remark::Note(text))
    }

    /// What the user wants to be ignored.
    pub fn ignore(&self) -> &Ignore {
        &self.ignore
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
    pub fn digests(&self) -> Vec<FileDigest> {
        let mut digests = digest::small_files(&self.metadata);
        digests.extend(self.index.shards.iter().map(digest::shard));
        digests
    }

    /// The tokenizer and what belongs to it.
    pub fn tokenizer(&self) -> &TokenizerFiles {
        self.metadata.tokenizer()
    }
}

/// The parsers of single files, of bytes in memory. For the fuzz targets in `tests/fuzz` only.
#[doc(hidden)]
pub mod parsers {
    use std::ops::Range;
    use std::path::Path;

    use crate::index::Index;
    use crate::safetensors::Shard;
    use crate::{Checkpoint, Ignore, Metadata, Result, TensorInfo, TokenizerFiles};

    /// A checkpoint of a config.json and a safetensors file.
    pub fn checkpoint(config: &[u8], file: &[u8], path: &Path) -> Result<Checkpoint> {
        let ignore = Ignore::default();
        let mut metadata = Metadata::of(path, config.to_vec(), TokenizerFiles::default(), &ignore)?;
        let index = Index::of(Shard::in_memory(file, path)?, &ignore)?;
        metadata.find_bias(&index);
        Ok(Checkpoint { metadata, index, ignore })
    }

    /// A checkpoint of a GGUF file.
    pub fn gguf_checkpoint(file: &[u8], path: &Path) -> Result<Checkpoint> {
        let ignore = Ignore::default();
        let (texts, index) = crate::gguf::in_memory(file, path)?;
        let tokenizer = TokenizerFiles::of(path, texts.tokenizer, texts.tokenizer_config)?;
        let metadata = Metadata::of(path, texts.config, tokenizer, &ignore)?;
        Ok(Checkpoint { metadata, index, ignore })
    }

    /// The tensors of a safetensors file.
    pub fn safetensors(file: &[u8], path: &Path) -> Result<Vec<TensorInfo>> {
        crate::safetensors::tensors(file, path)
    }

    /// The shards that an index names.
    pub fn index(text: &[u8], path: &Path) -> Result<Vec<String>> {
        Ok(crate::index::read_weight_map(text, path)?.into_values().collect())
    }

    /// The places of the tensors of a GGUF file, whose metadata becomes config.json and tokenizer.json where it has them.
    pub fn gguf(file: &[u8], path: &Path) -> Result<Vec<Range<usize>>> {
        crate::gguf::parse(file, path)
    }

    /// generation_config.json (0), tokenizer_config.json (1) or any other small file.
    pub fn small_text(kind: u8, text: &[u8], path: &Path) -> Result<()> {
        let text = crate::small_file::text(text.to_vec(), path)?;
        match kind {
            0 => crate::GenerationConfig::parse(&text, path, 100).map(|_| ()),
            1 => crate::TokenizerFiles::of(path, None, Some(text)).map(|_| ()),
            _ => crate::config::ConfigFile::parse(&text, path, &Ignore::default()).map(|_| ()),
        }
    }
}
