//! A checkpoint without its tensors: config.json and the small files.

use std::path::{Path, PathBuf};

use crate::config::{ConfigFile, Head, JambaConfig};
use crate::end_tokens::Places;
use crate::error::Result;
use crate::folder::{Folder, Links, MOST_CONFIG_BYTES};
use crate::generation::GenerationConfig;
use crate::gguf::{self, Texts};
use crate::ignore::Ignore;
use crate::index::Index;
use crate::remark::Remark;
use crate::tokenizer::TokenizerFiles;

/// The bias of the scores; training frameworks add prefixes.
const SCORE_BIAS: &str = "score.bias";

/// The config and the small files of a checkpoint's folder.
#[derive(Debug)]
pub struct Metadata {
    pub(crate) dir: PathBuf,
    /// The text of config.json.
    pub(crate) config_json: Vec<u8>,
    pub(crate) config: JambaConfig,
    pub(crate) tokenizer: TokenizerFiles,
    pub(crate) generation: GenerationConfig,
    pub(crate) eos: Vec<u32>,
    /// The types that config.json states for the weights.
    pub(crate) dtypes: Vec<(&'static str, String)>,
    pub(crate) dropped_keys: Vec<String>,
    pub(crate) remarks: Vec<Remark>,
}

impl Metadata {
    /// Reads the small files of the folder `dir`, of which only config.json is required, or the metadata of the GGUF file `dir`.
    ///
    /// # Errors
    /// An invalid config.json (see [`JambaConfig::parse`]) or generation_config.json; a file that cannot be read; a link that leads out
    /// of the folder.
    pub fn read(dir: &Path, ignore: &Ignore, links: Links) -> Result<Self> {
        let (config_json, tokenizer) = match dir.is_file() {
            true => {
                let Texts { config, tokenizer, tokenizer_config } = gguf::texts(dir, ignore, links)?;
                (config, TokenizerFiles::of(dir, tokenizer, tokenizer_config)?)
            }
            false => {
                let folder = Folder::open(dir, links)?;
                (folder.read_within("config.json".as_ref(), MOST_CONFIG_BYTES)?, TokenizerFiles::read(&folder)?)
            }
        };
        Self::of(dir, config_json, tokenizer, ignore)
    }

    /// What the small files of `dir` say.
    pub(crate) fn of(dir: &Path, config_json: Vec<u8>, tokenizer: TokenizerFiles, ignore: &Ignore) -> Result<Self> {
        let ConfigFile { config, names_eos, dtypes, dropped_keys, mut remarks } =
            ConfigFile::parse(&config_json, &file_of(dir, "config.json"), ignore)?;
        let generation = match &tokenizer.generation_config {
            Some(text) => {
                let path = file_of(dir, "generation_config.json");
                let (generation, more) = GenerationConfig::parse(text, &path, config.vocab)?;
                remarks.extend(more);
                generation
            }
            None => GenerationConfig::default(),
        };
        let places =
            Places { config: names_eos.then_some(&config.eos), generation: &generation.eos, tokenizer: &tokenizer };
        let (eos, more) = places.union(dir, config.vocab)?;
        remarks.extend(more);
        let dir = dir.into();
        Ok(Self { dir, config_json, config, tokenizer, generation, eos, dtypes, dropped_keys, remarks })
    }

    /// Notes whether the scores of a classification have a bias, which config.json does not say.
    pub(crate) fn find_bias(&mut self, index: &Index) {
        if let Head::Scores { bias, .. } = &mut self.config.head {
            *bias = index.tensors.iter().any(|tensor| tensor.name.ends_with(SCORE_BIAS));
        }
    }

    /// The file that a text is of: one in the folder, or the GGUF file.
    pub fn file(&self, name: &str) -> PathBuf {
        file_of(&self.dir, name)
    }

    /// The text of config.json.
    pub fn config_json(&self) -> &[u8] {
        &self.config_json
    }

    /// The folder, or the GGUF file.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// config.json.
    pub fn config(&self) -> &JambaConfig {
        &self.config
    }

    /// The tokenizer and what belongs to it.
    pub fn tokenizer(&self) -> &TokenizerFiles {
        &self.tokenizer
    }

    /// Sampling defaults; empty without a generation_config.json.
    pub fn generation(&self) -> &GenerationConfig {
        &self.generation
    }

    /// The tokens that end a text: those of config.json, generation_config.json and the tokenizer together. All are in the
    /// vocabulary.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// The keys of config.json that would be refused if the user did not ignore them.
    pub fn dropped_keys(&self) -> &[String] {
        &self.dropped_keys
    }

    /// What was ignored or assumed.
    pub fn remarks(&self) -> &[Remark] {
        &self.remarks
    }
}

/// The file of this name in a folder; the GGUF file itself for what is made of it.
fn file_of(dir: &Path, name: &str) -> PathBuf {
    if dir.is_file() { dir.to_owned() } else { dir.join(name) }
}
