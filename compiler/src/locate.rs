//! Finds the model that a command line names: a model.toml, a checkpoint's folder, a file of it, a GGUF file, a folder of the Hugging
//! Face cache, or an id such as `ai21labs/AI21-Jamba-Reasoning-3B` whose files are in that cache.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use jamba_plan::identify::{FileKind, help_for_an_address, hub_id, identify};

/// A model.toml or a checkpoint's folder.
#[derive(Debug, PartialEq, Eq)]
pub struct Located {
    pub path: PathBuf,
    /// The name of the model in the Hugging Face cache, whose folders are named after commits.
    pub name: Option<String>,
}

/// Prefix of a model's folder in the cache: `models--ORG--NAME`.
const MODELS: &str = "models--";

/// Finds the model.
///
/// # Errors
/// Names what was found, and the command that helps.
pub fn locate(given: &Path) -> Result<Located> {
    locate_in(given, hub().as_deref(), home().as_deref())
}

fn locate_in(given: &Path, hub: Option<&Path>, home: Option<&Path>) -> Result<Located> {
    let path = expanded(given, home);
    if !path.exists() {
        let text = given.to_string_lossy();
        return match (help_for_an_address(&text), given.to_str().and_then(hub_id)) {
            (Some(help), _) => bail!("{text}: {help}"),
            (None, Some(id)) => in_hub(id, hub),
            (None, None) => bail!("{}: not found, expected a model.toml or a checkpoint's folder", given.display()),
        };
    }
    match identify(&path).with_context(|| path.display().to_string())? {
        FileKind::Checkpoint => Ok(Located { name: hub_name(&path), path }),
        FileKind::HubFolder => snapshot(&path),
        FileKind::ModelToml | FileKind::Gguf => Ok(Located { path, name: None }),
        kind @ (FileKind::Folder | FileKind::Adapter) => bail!("{}", without_config(&path, kind)),
        // A path of config.json or of a shard means the folder that contains it.
        FileKind::Json | FileKind::Safetensors if beside(&path, "config.json") => {
            let folder = folder_of(&path);
            Ok(Located { name: hub_name(&folder), path: folder })
        }
        FileKind::Text | FileKind::Unknown if path.extension() == Some(OsStr::new("toml")) => {
            Ok(Located { path, name: None })
        }
        kind => bail!(
            "{}: is {}, expected a model.toml or a checkpoint's folder\n{}",
            path.display(),
            kind.describe(),
            kind.help_for_a_model()
        ),
    }
}

/// A leading `~` that the shell left alone, as in `--model=~/jamba`.
fn expanded(path: &Path, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn beside(path: &Path, name: &str) -> bool {
    folder_of(path).join(name).is_file()
}

/// The model with this id in the cache.
fn in_hub(id: &str, hub: Option<&Path>) -> Result<Located> {
    let download = format!("download it: hf download {id}");
    let Some(hub) = hub else { bail!("{id}: not a path, and there is no Hugging Face cache (HF_HOME); {download}") };
    let folder = hub.join(format!("{MODELS}{}", id.replace('/', "--")));
    if !folder.is_dir() {
        bail!("{id}: not a path, and not in the Hugging Face cache {}; {download}", hub.display());
    }
    snapshot(&folder).with_context(|| format!("{id}: its files are not complete; {download}"))
}

/// The checkpoint in `models--ORG--NAME`: the snapshot of the branch main, or the only one.
fn snapshot(folder: &Path) -> Result<Located> {
    let snapshots = folder.join("snapshots");
    let main = fs::read_to_string(folder.join("refs/main")).map(|commit| snapshots.join(commit.trim()));
    let path = match main {
        Ok(path) if path.is_dir() => path,
        _ => {
            let found = fs::read_dir(&snapshots).into_iter().flatten().flatten().map(|entry| entry.path());
            let found: Vec<PathBuf> = found.filter(|path| path.is_dir()).collect();
            match &found[..] {
                [only] => only.clone(),
                [] => bail!("{}: has no snapshot", folder.display()),
                several => bail!("{}: has {} snapshots: name one of them", folder.display(), several.len()),
            }
        }
    };
    match identify(&path).with_context(|| path.display().to_string())? {
        FileKind::Checkpoint => Ok(Located { name: hub_name(&path), path }),
        kind => bail!("{}", without_config(&path, kind)),
    }
}

/// The model's name, for a folder inside `models--ORG--NAME`.
fn hub_name(path: &Path) -> Option<String> {
    let folder = hub_folder(path)?;
    let (_org, name) = folder.file_name()?.to_str()?.strip_prefix(MODELS)?.split_once("--")?;
    Some(name.to_owned())
}

/// `models--ORG--NAME`, for a snapshot in it.
fn hub_folder(snapshot: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(snapshot).ok()?;
    let (snapshots, folder) = (absolute.parent()?, absolute.parent()?.parent()?);
    let is_model = folder.file_name()?.to_str()?.starts_with(MODELS);
    (is_model && snapshots.ends_with("snapshots")).then(|| folder.to_owned())
}

/// The folder whose files say which snapshot of a model in the Hugging Face cache is which branch. They are inputs of every command
/// that reads the checkpoint.
pub fn branches_of(checkpoint: &Path) -> Option<PathBuf> {
    hub_folder(checkpoint).map(|folder| folder.join("refs"))
}

/// The message for a folder without config.json and model.toml: what it has instead.
fn without_config(folder: &Path, kind: FileKind) -> String {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let found = entries.map(|entry| entry.path()).filter(|path| path.is_file()).find_map(|path| {
        let kind = identify(&path).ok().filter(|kind| !kind.help_for_a_model().is_empty())?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Some(format!("; it has {name}, {}\n{}", kind.describe(), kind.help_for_a_model()))
    });
    let found = match (kind, found) {
        (FileKind::Adapter, _) => format!("\n{}", kind.help_for_a_model()),
        (_, found) => found.unwrap_or_default(),
    };
    format!("{}: is {} without config.json, expected a checkpoint's folder{found}", folder.display(), kind.describe())
}

/// The folder of Hugging Face's cache, as huggingface_hub finds it.
fn hub() -> Option<PathBuf> {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = home();
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(home.as_ref()?.join(".cache")));
    variable("HF_HUB_CACHE")
        .or_else(|| variable("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| Some(variable("HF_HOME")?.join("hub")))
        .or_else(|| Some(cache?.join("huggingface/hub")))
        .map(|path| expanded(&path, home.as_deref()))
}

fn home() -> Option<PathBuf> {
    env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "ai21labs/AI21-Jamba-Reasoning-3B";

    /// A cache with one model of two commits; `refs/main` names the second.
    fn cache() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("models--ai21labs--AI21-Jamba-Reasoning-3B");
        for commit in ["0a1b", "2c3d"] {
            fs::create_dir_all(model.join("snapshots").join(commit)).unwrap();
            fs::write(model.join("snapshots").join(commit).join("config.json"), "{}").unwrap();
        }
        fs::create_dir(model.join("refs")).unwrap();
        fs::write(model.join("refs/main"), "2c3d\n").unwrap();
        (folder, model)
    }

    fn refused(given: &Path, hub: Option<&Path>, says: &[&str]) {
        let error = format!("{:#}", locate_in(given, hub, None).unwrap_err());
        assert!(says.iter().all(|part| error.contains(part)), "{error}");
    }

    #[test]
    fn a_model_is_found_under_every_name() {
        let (folder, model) = cache();
        let hub = Some(folder.path());
        let main = model.join("snapshots/2c3d");
        let name = Some("AI21-Jamba-Reasoning-3B".to_owned());
        for given in [Path::new(ID), &model, &main, &main.join("config.json")] {
            let located = locate_in(given, hub, None).unwrap();
            assert_eq!(located, Located { path: main.clone(), name: name.clone() }, "{}", given.display());
        }
        let home = Some(model.as_path());
        assert_eq!(locate_in(Path::new("~/snapshots/0a1b"), hub, home).unwrap().path, model.join("snapshots/0a1b"));
        fs::remove_file(model.join("refs/main")).unwrap();
        refused(&model, hub, &["has 2 snapshots"]);
        fs::remove_dir_all(&main).unwrap();
        assert_eq!(locate_in(&model, hub, None).unwrap().path, model.join("snapshots/0a1b"));
    }

    #[test]
    fn a_model_that_is_not_here_has_its_download_line() {
        let (folder, model) = cache();
        let other = Path::new("ai21labs/Jamba-v0.1");
        refused(other, Some(folder.path()), &["not in the Hugging Face cache", "hf download ai21labs/Jamba-v0.1"]);
        refused(other, None, &["hf download ai21labs/Jamba-v0.1"]);
        for commit in ["0a1b", "2c3d"] {
            fs::remove_file(model.join("snapshots").join(commit).join("config.json")).unwrap();
        }
        refused(Path::new(ID), Some(folder.path()), &["not complete", "hf download ai21labs/AI21", "config.json"]);
        refused(Path::new("https://huggingface.co/org/name"), None, &["is an address", "hf download org/name"]);
        for path in ["no/such/folder", "./a/b", "nowhere", "/a/b", "a b/c"] {
            refused(
                Path::new(path),
                Some(folder.path()),
                &["not found, expected a model.toml or a checkpoint's folder"],
            );
        }
    }

    #[test]
    fn other_files_are_named_for_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (name, content, says) in [
            ("pytorch_model.bin", &b"\x80\x02}q\0"[..], ["pickle format", "save_pretrained"]),
            ("model.zip", b"PK\x03\x04readme", ["is a ZIP archive", "Unpack"]),
            ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", ["Git LFS", "git lfs pull"]),
            ("b.safetensors", b"<html>404</html>", ["is an HTML page", "again"]),
            ("empty", b"", ["is an empty file", "again"]),
            ("x.plan", b"\x89JAMBA\r\n\0\0\0\0", ["is a plan", "jamba run PLAN"]),
            ("x.state", b"\x89STATE\r\n\0\0\0\0", ["is a saved state", "--load-state"]),
        ] {
            fs::write(at(name), content).unwrap();
            refused(&at(name), None, &says);
            refused(folder.path(), None, &["is a folder without config.json", name, says[1]]);
            fs::remove_file(at(name)).unwrap();
        }
        fs::write(at("a.gguf"), b"GGUF\x03\0\0\0").unwrap();
        assert_eq!(locate_in(&at("a.gguf"), None, None).unwrap(), Located { path: at("a.gguf"), name: None });
        refused(folder.path(), None, &["is a folder without config.json", "a.gguf", "Name the file itself"]);
        fs::remove_file(at("a.gguf")).unwrap();
        fs::write(at("adapter_config.json"), "{}").unwrap();
        refused(folder.path(), None, &["is the folder of a LoRA adapter", "--lora ADAPTER"]);
    }
}
