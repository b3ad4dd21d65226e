//! `jambac build --cached`: plans in the user's cache, one for each model, version of its files and set of options. `jamba run FOLDER`
//! uses it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};

use crate::doctor::machine;
use crate::manifest::ModelFile;
use crate::version;

/// Hexadecimal digits of the key in a plan's name.
const KEY_DIGITS: usize = 16;

/// The path of the model's plan in the cache. Creates the cache's folder.
///
/// # Errors
/// There is no cache folder, or the checkpoint cannot be read.
pub fn path(model: &ModelFile, synthetic_seed: Option<u64>) -> Result<PathBuf> {
    let folder = folder().context("--cached: found neither XDG_CACHE_HOME nor HOME, expected a folder for plans")?;
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let name: String = model.name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    Ok(folder.join(format!("{name}-{}.plan", key(model, synthetic_seed)?)))
}

/// True if the cache has a plan of this version at the path.
pub fn has(path: &Path) -> bool {
    jamba_plan::peek::manifest(path).is_ok()
}

fn folder() -> Option<PathBuf> {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    Some(cache?.join("jambac"))
}

/// Depends on everything that the plan depends on: this program, options, the memory for which limits are chosen, and the
/// checkpoint's files by name, length and time of change.
fn key(model: &ModelFile, synthetic_seed: Option<u64>) -> Result<String> {
    let mut hash = blake3::Hasher::new();
    // Reported memory varies by a few pages with the kernel.
    let memory = machine::memory().map(|memory| (memory.total >> 30, memory.limit.map(|limit| limit >> 30)));
    let checkpoint = fs::canonicalize(&model.checkpoint).with_context(|| model.checkpoint.display().to_string())?;
    let model = ModelFile { checkpoint: checkpoint.clone(), ..model.clone() };
    hash.update(format!("{}\n{model:?}\n{synthetic_seed:?}\n{memory:?}\n", version::long()).as_bytes());
    let mut files = Vec::new();
    for entry in fs::read_dir(&checkpoint).with_context(|| checkpoint.display().to_string())? {
        let path = entry.with_context(|| checkpoint.display().to_string())?.path();
        let Ok(metadata) = fs::metadata(&path) else { continue };
        let is_own_output = path.extension().is_some_and(|extension| extension == "plan");
        if metadata.is_file() && !is_own_output {
            let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            files.push((path.file_name().unwrap_or_default().to_owned(), metadata.len(), changed));
        }
    }
    files.sort();
    hash.update(format!("{files:?}").as_bytes());
    Ok(hash.finalize().to_hex()[..KEY_DIGITS].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_changes_with_files_and_options() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), "{}").unwrap();
        let model = ModelFile::open(folder.path()).unwrap();
        let first = key(&model, None).unwrap();
        assert_eq!((first.len(), key(&model, None).unwrap()), (16, first.clone()));
        let mut other = model.clone();
        other.limits.max_context = 7;
        assert_ne!(key(&other, None).unwrap(), first);
        assert_ne!(key(&model, Some(1)).unwrap(), first);
        fs::write(folder.path().join("my.plan"), "a plan is no input").unwrap();
        assert_eq!(key(&model, None).unwrap(), first);
        fs::write(folder.path().join("config.json"), "{ }").unwrap();
        assert_ne!(key(&model, None).unwrap(), first);
    }
}
