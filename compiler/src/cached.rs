//! `jambac build --cached`: plans in the user's cache, one for each model and set of options. `jamba run FOLDER` uses it.
//!
//! Beside each plan is a record of what it was built from and of its digest. A plan is built again, in its place, if anything differs:
//!
//! | what | how it is noticed |
//! |---|---|
//! | another jambac | its version with the commit, the plan format and LLVM |
//! | config.json, the tokenizer's files, templates | their bytes |
//! | weights (`*.safetensors`, `*.gguf`) | length, inode, times of modification and change |
//! | another plan in its place | its digest |
//! | a damaged plan | the digests of its sections; those of weights are left to the runtime with `--trust-weights` |
//!
//! The bytes of weights are not read: that takes minutes for large models. A file is taken for unchanged if its length, inode and
//! both times are. The system sets the time of change, so neither `touch` nor `cp --preserve` hides a change; what does is a clock
//! that was set back, and a write to the disk below the file system. `chmod`, `mv` and new hard links change it too: the plan is built
//! again although the weights are the same.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jamba_plan::format::TargetKind;
use jamba_plan::output::{Content, Kind, Output, Replace};
use jamba_program::files::contains;
use jamba_runtime::{PlanFile, RuntimeError, Verify, machine};
use jambac_checkpoint::gguf::is_gguf;
use jambac_codegen::assemble::find_ptxas;
use jambac_kernels::target::Target;
use serde::{Deserialize, Serialize};

use crate::manifest::ModelFile;
use crate::report::Ours;
use crate::version;

/// Hexadecimal digits of the key in a plan's name.
const KEY_DIGITS: usize = 16;

/// A plan's place in the cache, and what it would be built from.
pub struct Cached {
    plan: PathBuf,
    record: PathBuf,
    origin: Origin,
    checkpoint: PathBuf,
    /// The file of --chat-template.
    template: Option<PathBuf>,
}

/// What is at a plan's place.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    Nothing,
    /// The plan.
    Plan,
    /// Something that has to be built again, and why.
    Stale(String),
}

/// The inputs of a build, except the model and the options: the plan's file name has a digest of those.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Origin {
    /// Version of the compiler.
    compiler: String,
    /// In the order of their names.
    files: Vec<FileState>,
}

/// The content of a file, or, of weights, what changes with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileState {
    name: String,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    blake3: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    weights: Option<WeightsState>,
}

/// Times are seconds and nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct WeightsState {
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The file beside a plan.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// Tells what the file is.
    purpose: String,
    origin: Origin,
    /// Digest of the plan.
    plan: String,
}

const PURPOSE: &str = "what jambac built the plan of the same name from";

/// How an existing record is recognized.
const RECORD: Kind = Kind {
    name: "a record of jambac's cache",
    content: Content::Text,
    recognizes: |head| head.starts_with(b"{") && contains(head, PURPOSE.as_bytes()),
};

impl Cached {
    /// The place of the model's plan. Creates the cache's folder.
    ///
    /// # Errors
    /// There is no cache folder, or the checkpoint cannot be read.
    pub fn new(model: &ModelFile, synthetic_seed: Option<u64>, chat_template: Option<&str>) -> Result<Cached> {
        let folder =
            folder().context("--cached: found neither XDG_CACHE_HOME nor HOME, expected a folder for plans")?;
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        Cached::new_in(&folder, model, synthetic_seed, chat_template)
    }

    fn new_in(
        folder: &Path,
        model: &ModelFile,
        synthetic_seed: Option<u64>,
        chat_template: Option<&str>,
    ) -> Result<Cached> {
        let checkpoint = fs::canonicalize(&model.checkpoint).with_context(|| model.checkpoint.display().to_string())?;
        let model = ModelFile { checkpoint: checkpoint.clone(), ..model.clone() };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let name: String = model.name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
        let name = format!("{name}-{}", key(&model, synthetic_seed, chat_template));
        let template = chat_template.map(PathBuf::from).filter(|path| path.is_file());
        Ok(Cached {
            plan: folder.join(format!("{name}.plan")),
            record: folder.join(format!("{name}.json")),
            origin: Origin::now(&checkpoint, template.as_deref())?,
            checkpoint,
            template,
        })
    }

    /// The path of the plan.
    pub fn plan(&self) -> &Path {
        &self.plan
    }

    /// Looks at what is there. `verify` says which sections of a plan are compared with their digests.
    pub fn find(&self, verify: Verify) -> Found {
        if fs::symlink_metadata(&self.plan).is_err() {
            return Found::Nothing;
        }
        let record = fs::read(&self.record).ok().and_then(|text| serde_json::from_slice::<Record>(&text).ok());
        let Some(record) = record else {
            return Found::Stale(format!("its record {} is missing or damaged", self.record.display()));
        };
        if let Some(reason) = self.origin.difference(&record.origin) {
            return Found::Stale(reason);
        }
        match digest(&self.plan, verify) {
            Ok(digest) if digest == record.plan => Found::Plan,
            Ok(_) => Found::Stale("it is another plan than the one that was built".to_owned()),
            Err(error) => Found::Stale(reason(&error)),
        }
    }

    /// Writes the record of a plan that was built. Without one, the plan is built again the next time.
    ///
    /// # Errors
    /// The files changed during the build, or the record cannot be written.
    pub fn keep(&self) -> Result<()> {
        if let Some(reason) = self.origin.difference(&Origin::now(&self.checkpoint, self.template.as_deref())?) {
            anyhow::bail!("{}: {reason}, during the build: build again", self.checkpoint.display());
        }
        let plan = digest(&self.plan, Verify::AllButWeights)?;
        let record = Record { purpose: PURPOSE.to_owned(), origin: self.origin.clone(), plan };
        let text = serde_json::to_string_pretty(&record).ours("cache")? + "\n";
        Ok(Output::at(&self.record, RECORD, Replace::AnyFile)?.write(text.as_bytes())?)
    }
}

/// The digest of a plan, whose sections are compared with theirs.
fn digest(plan: &Path, verify: Verify) -> Result<String, RuntimeError> {
    let file = PlanFile::open(plan)?;
    let plan = file.plan(verify, &mut |_, _| ())?;
    Ok(plan.digest().to_hex().to_string())
}

/// Why a plan cannot be read, without its path.
fn reason(error: &RuntimeError) -> String {
    match error {
        RuntimeError::Plan { source, .. } => source.to_string(),
        RuntimeError::Io { action, source, .. } => format!("cannot {action}: {source}"),
        _ => error.to_string(),
    }
}

fn folder() -> Option<PathBuf> {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    Some(cache?.join("jambac"))
}

/// A digest of the model, its options, and what depends on the machine: the memory that limits are chosen for, and the assembler
/// of GPU code.
fn key(model: &ModelFile, synthetic_seed: Option<u64>, chat_template: Option<&str>) -> String {
    // Reported memory varies by a few pages with the kernel.
    let memory = machine::memory().map(|memory| (memory.total >> 30, memory.limit.map(|limit| limit >> 30)));
    let on_gpu = model.build.targets.iter().any(|target: &Target| target.kind() == TargetKind::Sm90a);
    let ptxas = if on_gpu { find_ptxas(None) } else { None };
    let text = format!("{model:?}\n{synthetic_seed:?}\n{chat_template:?}\n{memory:?}\n{ptxas:?}\n");
    blake3::hash(text.as_bytes()).to_hex()[..KEY_DIGITS].to_owned()
}

impl Origin {
    /// The compiler and the files as they are.
    fn now(checkpoint: &Path, template: Option<&Path>) -> Result<Origin> {
        let mut files = Vec::new();
        let mut folders = vec![checkpoint.to_owned()];
        if checkpoint.is_file() {
            // The other files of a model in several have the same beginning of their names.
            folders.clear();
            let stem = checkpoint.file_name().unwrap_or_default().to_string_lossy();
            let stem = stem.rsplit_once("-00001-of-").map_or(&*stem, |(stem, _)| stem).to_owned();
            let folder = checkpoint.parent().unwrap_or(Path::new("."));
            for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
                let path = entry.with_context(|| folder.display().to_string())?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if path == checkpoint || (name.starts_with(&format!("{stem}-")) && name.ends_with(".gguf")) {
                    files.push(FileState::of(&path, name)?);
                }
            }
        }
        folders.extend(Some(checkpoint.join("additional_chat_templates")).filter(|folder| folder.is_dir()));
        for folder in &folders {
            for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
                let path = entry.with_context(|| folder.display().to_string())?.path();
                let is_read = path
                    .extension()
                    .is_some_and(|ending| ["json", "jinja", "safetensors"].iter().any(|read| ending == *read));
                if is_read && path.is_file() {
                    let name = path.strip_prefix(checkpoint).unwrap_or(&path).to_string_lossy().into_owned();
                    files.push(FileState::of(&path, name)?);
                }
            }
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(template) = template {
            files.push(FileState::of(template, template.display().to_string())?);
        }
        Ok(Origin { compiler: version::long().to_owned(), files })
    }

    /// What differs from an earlier origin, as a sentence; `None` if nothing does.
    fn difference(&self, earlier: &Origin) -> Option<String> {
        if self.compiler != earlier.compiler {
            let short = earlier.compiler.lines().next().unwrap_or_default();
            return Some(format!("another jambac built it: {short}"));
        }
        let find = |files: &[FileState], name: &str| files.iter().find(|file| file.name == name).cloned();
        let changed = self.files.iter().find(|file| find(&earlier.files, &file.name).as_ref() != Some(file));
        let gone = || earlier.files.iter().find(|file| find(&self.files, &file.name).is_none());
        let verb = |file: &FileState| if find(&earlier.files, &file.name).is_some() { "changed" } else { "is new" };
        match changed {
            Some(file) => Some(format!("{} {}", file.name, verb(file))),
            None => gone().map(|file| format!("{} is gone", file.name)),
        }
    }
}

impl FileState {
    fn of(path: &Path, name: String) -> Result<FileState> {
        let context = || path.display().to_string();
        let metadata = fs::metadata(path).with_context(context)?;
        if path.extension().is_some_and(|ending| ending == "safetensors") || is_gguf(path) {
            let weights = WeightsState {
                inode: metadata.ino(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                changed: (metadata.ctime(), metadata.ctime_nsec()),
            };
            return Ok(FileState { name, bytes: metadata.len(), blake3: None, weights: Some(weights) });
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(fs::File::open(path).with_context(context)?).with_context(context)?;
        let blake3 = Some(hasher.finalize().to_hex().to_string());
        Ok(FileState { name, bytes: hasher.count(), blake3, weights: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_the_model_and_its_options() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), "{}").unwrap();
        let model = ModelFile::open(folder.path()).unwrap();
        let plan = |model: &ModelFile, seed, template: Option<&str>| {
            Cached::new_in(Path::new("cache"), model, seed, template).unwrap().plan
        };
        let first = plan(&model, None, None);
        assert_eq!(plan(&model, None, None), first);
        let mut other = model.clone();
        other.limits.max_context = 7;
        assert_ne!(plan(&other, None, None), first);
        assert_ne!(plan(&model, Some(1), None), first);
        assert_ne!(plan(&model, None, Some("tool_use")), first);
        fs::write(folder.path().join("config.json"), "{ }").unwrap();
        assert_eq!(plan(&model, None, None), first, "an old plan makes room for the new one");
    }

    #[test]
    fn every_change_of_a_file_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &str| fs::write(at(name), text).unwrap();
        let now = || Origin::now(folder.path(), None).unwrap();
        write("config.json", "{}");
        write("model.safetensors", "weights");
        let first = now();
        let changed = || now().difference(&first);
        write("my.plan", "a plan is no input");
        write("README.md", "nor is this");
        assert_eq!(changed(), None);
        // The same length and time of modification.
        let time = |name: &str| fs::metadata(at(name)).unwrap().modified().unwrap();
        let touch =
            |name: &str, time| fs::File::options().write(true).open(at(name)).unwrap().set_modified(time).unwrap();
        let (config, weights) = (time("config.json"), time("model.safetensors"));
        write("config.json", "[]");
        touch("config.json", config);
        assert_eq!(changed().as_deref(), Some("config.json changed"));
        write("config.json", "{}");
        assert_eq!(changed(), None, "the same bytes");
        write("other", "WEIGHTS");
        fs::rename(at("other"), at("model.safetensors")).unwrap();
        touch("model.safetensors", weights);
        assert_eq!(time("model.safetensors"), weights);
        assert_eq!(changed().as_deref(), Some("model.safetensors changed"));
        fs::remove_file(at("model.safetensors")).unwrap();
        assert_eq!(changed().as_deref(), Some("model.safetensors is gone"));
        fs::create_dir(at("additional_chat_templates")).unwrap();
        write("additional_chat_templates/tool_use.jinja", "{}");
        assert_eq!(changed().as_deref(), Some("additional_chat_templates/tool_use.jinja is new"));
        let older = Origin { compiler: "0.0.1 (abc)\nplan format: 1".to_owned(), ..first.clone() };
        assert_eq!(first.difference(&older).as_deref(), Some("another jambac built it: 0.0.1 (abc)"));
    }
}
