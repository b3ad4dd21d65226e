//! The identity of a checkpoint: a digest of all bytes of each file, computed on all cores.

use crate::metadata::Metadata;
use crate::safetensors::Shard;

/// What digests cover, after the length of the file (u64, little-endian), in the words of plans.
pub const COVERS: &str = "everything";

/// One file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDigest {
    pub name: String,
    pub bytes: u64,
    /// BLAKE3, as hexadecimal digits.
    pub blake3: String,
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
    let digest = blake3::Hasher::new().update(&n_bytes.to_le_bytes()).update_rayon(bytes).finalize();
    FileDigest { name: name.to_owned(), bytes: n_bytes, blake3: digest.to_hex().to_string() }
}

pub(crate) fn shard(shard: &Shard) -> FileDigest {
    let name = shard.path().file_name().unwrap_or_default().to_string_lossy();
    whole(&name, shard.bytes(0..shard.len()))
}
