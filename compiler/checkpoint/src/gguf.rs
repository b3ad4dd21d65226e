//! A GGUF file of llama.cpp as a checkpoint: its tensors under Hugging Face's names, and config.json and the tokenizer's files made of its
//! metadata.
//!
//! llama.cpp's converter changes three things. It stores `A_log` as −exp(A_log) ([`Values::NegatedExponentials`]), squeezes the taps of the
//! convolution to \[C, K\], and stacks the experts of a layer, which `stacked` splits. Files named `…-00001-of-00003.gguf`
//! are read together.

mod config;
mod header;
mod names;
mod tokenizer;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::folder::{Folder, Links};
use crate::ignore::Ignore;
use crate::index::{Index, TensorInfo, Values};
use crate::safetensors::Shard;
use crate::stacked;

/// Texts of the files that a checkpoint's folder would have.
#[derive(Debug)]
pub(crate) struct Texts {
    pub(crate) config: Vec<u8>,
    pub(crate) tokenizer: Option<Vec<u8>>,
    pub(crate) tokenizer_config: Option<Vec<u8>>,
}

/// True for a path that is read as a GGUF file.
pub fn is_gguf(path: &Path) -> bool {
    let mut head = [0; 4];
    let mut read = || std::io::Read::read_exact(&mut std::fs::File::open(path)?, &mut head);
    path.is_file() && read().is_ok() && head == *b"GGUF"
}

/// Reads the files' metadata.
pub(crate) fn texts(path: &Path, ignore: &Ignore, links: Links) -> Result<Texts> {
    Files::open(path, ignore, links)?.texts(path, ignore)
}

/// The tensors, under Hugging Face's names.
pub(crate) fn index(path: &Path, ignore: &Ignore, links: Links) -> Result<Index> {
    Ok(Files::open(path, ignore, links)?.index(path))
}

/// Both, of one file in memory.
pub(crate) fn in_memory(file: &[u8], path: &Path) -> Result<(Texts, Index)> {
    let mut files = Files::default();
    files.metadata = files.add(Shard::in_memory(file, path)?, &Ignore::default())?;
    Ok((files.texts(path, &Ignore::default())?, files.index(path)))
}

/// The places of the tensors in `file`, whose metadata is read as far as it is a model's.
pub(crate) fn parse(file: &[u8], path: &Path) -> Result<Vec<std::ops::Range<usize>>> {
    let header = header::read(file, path)?;
    let keys = Keys { metadata: &header.metadata, path };
    let ranges = header.tensors.iter().map(|entry| entry.byte_range.clone()).collect();
    let tensors: Vec<TensorInfo> = Vec::new();
    let _ = (config::read(&keys, &tensors, &Ignore::default()), tokenizer::read(&keys));
    Ok(ranges)
}

/// Number of files of a model in several: the metadata of each has it.
const N_FILES: &str = "split.count";

/// All files of a model.
#[derive(Default)]
struct Files {
    shards: Vec<Shard>,
    /// Of the first file.
    metadata: BTreeMap<String, Value>,
    tensors: Vec<TensorInfo>,
    /// The file of each tensor by name.
    names: BTreeMap<String, usize>,
    /// Names of tensors that the user wants to be ignored.
    ignored: Vec<String>,
}

impl Files {
    /// The file at `path` may be a link to anywhere: whoever names it chose it. The others are found by their names.
    fn open(path: &Path, ignore: &Ignore, links: Links) -> Result<Files> {
        let mut files = Files::default();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        let first = files.add(Shard::map(&Folder::open(folder, Links::Anywhere)?, &name)?, ignore)?;
        let n_files = first.get(N_FILES).and_then(Value::as_u64).unwrap_or(1);
        files.metadata = first;
        if n_files > 1 {
            let folder = Folder::open(folder, links)?;
            for other in rest(path, &name, n_files)? {
                files.add(Shard::map(&folder, &other)?, ignore)?;
            }
        }
        Ok(files)
    }

    /// Adds a file and returns its metadata.
    fn add(&mut self, shard: Shard, ignore: &Ignore) -> Result<BTreeMap<String, Value>> {
        let path = &shard.path().to_owned();
        let header = header::read(shard.bytes(0..shard.len()), path)?;
        for entry in header.tensors {
            let name = names::hugging_face(&entry.name).unwrap_or_else(|| entry.name.clone());
            if ignore.has_tensor(&name) || ignore.has_tensor(&entry.name) {
                self.ignored.push(entry.name);
                continue;
            }
            if let Some(other) = self.names.insert(name.clone(), self.shards.len()) {
                let found = format!("it in {} as well", self.shards.get(other).unwrap_or(&shard).path().display());
                return Err(Error::tensor(path, &entry.name, found, "it once"));
            }
            let values = match name.ends_with(".A_log") {
                true => Values::NegatedExponentials,
                false => Values::Same,
            };
            let shape = names::shape(&name, entry.shape);
            let (dtype, byte_range) = (entry.dtype, entry.byte_range);
            self.tensors.push(TensorInfo { name, shard_idx: self.shards.len(), dtype, shape, byte_range, values });
        }
        self.shards.push(shard);
        Ok(header.metadata)
    }

    fn texts(&self, path: &Path, ignore: &Ignore) -> Result<Texts> {
        let keys = Keys { metadata: &self.metadata, path };
        keys.architecture()?;
        let config = config::read(&keys, &self.tensors, ignore)?;
        let [tokenizer, tokenizer_config] = tokenizer::read(&keys)?;
        Ok(Texts { config, tokenizer, tokenizer_config })
    }

    fn index(self, path: &Path) -> Index {
        let Files { shards, tensors, ignored, .. } = self;
        Index { tensors: stacked::split(tensors), shards, path: path.into(), ignored, unstored: Vec::new() }
    }
}

/// Most files of a model in several.
const MOST_FILES: u64 = 1000;

/// The names of the files after the first, which is `name`, of a model in `n_files`.
fn rest(path: &Path, name: &str, n_files: u64) -> Result<Vec<String>> {
    if n_files > MOST_FILES {
        return Err(Error::key(path, N_FILES, n_files.to_string(), format!("at most {MOST_FILES}")));
    }
    let first = format!("-00001-of-{n_files:05}.gguf");
    let Some(stem) = name.strip_suffix(&first) else {
        let found = format!("one of {n_files} files ({N_FILES})");
        return Err(Error::file(path, found, format!("the first of them, whose name ends in {first}")));
    };
    (2..=n_files)
        .map(|number| {
            let other = format!("{stem}-{number:05}-of-{n_files:05}.gguf");
            let path = path.with_file_name(&other);
            match path.is_file() {
                true => Ok(other),
                false => Err(Error::file(&path, "no such file", format!("file {number} of {n_files}"))),
            }
        })
        .collect()
}

/// The metadata of a file.
struct Keys<'a> {
    metadata: &'a BTreeMap<String, Value>,
    path: &'a Path,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    fn refuse(&self, key: &str, expected: &str) -> Error {
        let found = self.get(key).map_or("nothing".to_owned(), crate::json::show);
        Error::key(self.path, key, found, expected)
    }

    fn architecture(&self) -> Result<()> {
        match self.get("general.architecture").and_then(Value::as_str) {
            Some("jamba") => Ok(()),
            _ => Err(self.refuse("general.architecture", "\"jamba\"")),
        }
    }

    /// A required count.
    fn count(&self, key: &str) -> Result<u64> {
        match self.get(key).and_then(Value::as_u64).filter(|count| *count <= crate::json::MAX_COUNT as u64) {
            Some(count) => Ok(count),
            None => Err(self.refuse(key, "a count")),
        }
    }

    /// A count that may be absent.
    fn optional(&self, key: &str) -> Result<Option<u64>> {
        self.get(key).map(|_| self.count(key)).transpose()
    }

    fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.refuse(key, "a text")),
        }
    }

    fn boolean(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(self.refuse(key, "true or false")),
        }
    }

    /// A list of values that `read` accepts; `None` when the key is absent.
    fn list<'v, T>(&'v self, key: &str, read: impl Fn(&'v Value) -> Option<T>, of: &str) -> Result<Option<Vec<T>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let read = |values: &'v Vec<Value>| values.iter().map(read).collect();
        match value.as_array().and_then(read) {
            Some(values) => Ok(Some(values)),
            None => Err(self.refuse(key, &format!("a list of {of}"))),
        }
    }
}
