//! The identity of a checkpoint: a digest of each file.
//!
//! Digests of small files cover all bytes. Those of shards cover the header and the first [`SAMPLE_BYTES`] of every tensor, which
//! distinguishes checkpoints of the same shapes, but not changes in later bytes: reading 100 GB would take minutes, and the plan has a
//! digest of every packed weight anyway.

use crate::index::TensorInfo;
use crate::metadata::Metadata;
use crate::safetensors::Shard;

/// Bytes at the beginning of each tensor that a shard's digest covers.
pub const SAMPLE_BYTES: usize = 4096;

/// The bytes that a digest covers, after the length of the file (u64, little-endian).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Covers {
    /// All bytes of the file.
    Everything,
    /// The header with its length, and the first [`SAMPLE_BYTES`] of every tensor, in the order of their names.
    HeaderAndBeginnings,
}

impl Covers {
    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Covers::Everything => "everything",
            Covers::HeaderAndBeginnings => "header and the first 4096 bytes of every tensor",
        }
    }
}

/// One file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDigest {
    pub name: String,
    pub bytes: u64,
    /// BLAKE3, as hexadecimal digits.
    pub blake3: String,
    pub covers: Covers,
}

/// The existing small files that a plan depends on: config.json, then the tokenizer's. Those that are made of a GGUF file are digested
/// as made.
pub fn small_files(metadata: &Metadata) -> Vec<FileDigest> {
    let files = metadata.tokenizer();
    let templates: String =
        files.chat_templates.iter().map(|template| format!("{}\n{}\n", template.name, template.source)).collect();
    let has_several = files.chat_templates.len() > usize::from(files.chat_template.is_some());
    let named = [
        ("config.json", Some(metadata.config_json())),
        ("generation_config.json", files.generation_config.as_deref()),
        ("tokenizer.json", files.tokenizer.as_deref()),
        ("tokenizer_config.json", files.tokenizer_config.as_deref()),
        ("special_tokens_map.json", files.special_tokens_map.as_deref()),
        ("the chat template", files.chat_template.as_deref().map(str::as_bytes)),
        ("all chat templates", has_several.then_some(templates.as_bytes())),
    ];
    let digest = |(name, bytes): (&str, Option<&[u8]>)| Some(whole(name, bytes?));
    named.into_iter().filter_map(digest).collect()
}

pub(crate) fn whole(name: &str, bytes: &[u8]) -> FileDigest {
    let n_bytes = bytes.len() as u64;
    let digest = blake3::Hasher::new().update(&n_bytes.to_le_bytes()).update(bytes).finalize();
    FileDigest {
        name: name.to_owned(),
        bytes: n_bytes,
        blake3: digest.to_hex().to_string(),
        covers: Covers::Everything,
    }
}

/// The digest of a shard with these tensors, sorted by name.
pub(crate) fn shard<'a>(shard: &Shard, tensors: impl Iterator<Item = &'a TensorInfo>) -> FileDigest {
    let n_bytes = shard.len() as u64;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&n_bytes.to_le_bytes()).update(shard.header());
    for tensor in tensors {
        let begin = tensor.byte_range.start;
        hasher.update(shard.bytes(begin..tensor.byte_range.end.min(begin + SAMPLE_BYTES)));
    }
    let name = shard.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let blake3 = hasher.finalize().to_hex().to_string();
    FileDigest { name, bytes: n_bytes, blake3, covers: Covers::HeaderAndBeginnings }
}
