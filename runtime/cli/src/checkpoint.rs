//! Plans of models that are not compiled yet: `jamba run FOLDER` has `jambac` build one into its cache, once. This program has no
//! compiler; it runs the `jambac` beside itself or on PATH.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use jamba_plan::identify::{FileKind, help_for_an_address, hub_id, identify, refusal_of_a_plan};
use jamba_plan::printable::printable;
use jamba_program::say;
use jamba_runtime::{DeviceId, RuntimeError};

use crate::failure::Failure;

/// A plan to open.
pub(crate) struct Named {
    pub(crate) path: PathBuf,
    /// The model, if the plan is one of the cache.
    model: Option<(PathBuf, DeviceId)>,
}

/// The plan that a path names: itself, or a cached plan of the model that it names.
///
/// # Errors
/// The path is neither; or `jambac` is missing or fails.
pub(crate) fn plan_of(path: &Path, device: DeviceId) -> Result<Named, Failure> {
    if names_a_model(path) {
        let plan = build(path, device, TRUSTING)?;
        return Ok(Named { path: plan, model: Some((path.to_owned(), device)) });
    }
    check_plan(path)?;
    Ok(Named { path: path.to_owned(), model: None })
}

impl Named {
    /// For a plan that is refused when it is opened: a new one from the model. `None` if it is not one of the cache.
    ///
    /// # Errors
    /// `jambac` is missing or fails.
    pub(crate) fn built_again(&self, error: &RuntimeError) -> Result<Option<PathBuf>, Failure> {
        let Some((model, device)) = &self.model else { return Ok(None) };
        let reason = match error {
            RuntimeError::Plan { source, .. } => source.to_string(),
            // An empty file.
            RuntimeError::Io { source, .. } if source.kind() == ErrorKind::UnexpectedEof => source.to_string(),
            _ => return Ok(None),
        };
        say!("{}", printable(&format!("jamba: {}: {reason}: building it again", self.path.display())));
        build(model, *device, &["--rebuild"]).map(Some)
    }
}

/// Refuses files that are something else than a plan, by what they are, addresses, and names of models that are no paths.
/// Damaged plans and missing files have better errors when they are opened.
pub(crate) fn check_plan(path: &Path) -> Result<(), Failure> {
    let text = path.to_string_lossy();
    if !path.exists() {
        if let Some(help) = help_for_an_address(&text) {
            return Err(Failure::Usage(format!("{text}: {help}")));
        }
        // `jamba run llama3`
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_:".contains(c);
        if !text.is_empty() && text.chars().all(is_name) {
            return Err(Failure::Usage(format!(
                "{text}: no such file: jamba runs a plan, the folder of a Jamba checkpoint, or a model of the Hugging Face cache \
                 such as ai21labs/AI21-Jamba-Reasoning-3B"
            )));
        }
    }
    refusal_of_a_plan(path).map_or(Ok(()), |refusal| Err(Failure::Input(refusal)))
}

/// True for a checkpoint's folder, its config.json, a GGUF file, a model.toml, or an id `ORG/NAME` that is no path.
fn names_a_model(path: &Path) -> bool {
    match identify(path) {
        Ok(FileKind::Checkpoint | FileKind::HubFolder | FileKind::ModelToml | FileKind::Gguf) => true,
        Ok(FileKind::Json) => path.file_name() == Some(OsStr::new("config.json")),
        Ok(_) => false,
        Err(_) => !path.exists() && is_id(path),
    }
}

fn is_id(path: &Path) -> bool {
    let is_file = |id: &str| [".plan", ".state", ".gguf", ".json", ".safetensors"].iter().any(|end| id.ends_with(end));
    path.to_str().and_then(hub_id).is_some_and(|id| !is_file(id))
}

/// Leaves the digest of the weights to the opening of the plan.
const TRUSTING: &[&str] = &["--trust-weights"];

fn build(model: &Path, device: DeviceId, options: &[&str]) -> Result<PathBuf, Failure> {
    let target = if device == DeviceId::Cpu { "native" } else { "sm_90a" };
    let Some(compiler) = compiler() else {
        return Err(Failure::Input(format!(
            "{0}: is a model and not a plan; jambac compiles it, but is neither beside jamba nor on PATH\n\
             With jambac installed: jambac build {0} -o OUT.plan",
            model.display()
        )));
    };
    let mut command = Command::new(&compiler);
    command.args([OsStr::new("build"), model.as_os_str()]).args(["--cached", "--target", target]).args(options);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| Failure::file(&compiler, "run it", error))?;
    match output.status.code() {
        Some(0) => Ok(PathBuf::from(OsStr::from_bytes(output.stdout.trim_ascii_end()))),
        Some(code) => Err(Failure::Reported(u8::try_from(code).unwrap_or(1))),
        // The system ends a program without a word that has too little memory to start.
        None => Err(Failure::Input(format!(
            "{}: ended by signal {} while it built the plan of {}: too little memory may be the cause, `ulimit -v` shows the limit",
            compiler.display(),
            output.status.signal().unwrap_or_default(),
            model.display(),
        ))),
    }
}

/// The compiler beside this program, or on PATH.
fn compiler() -> Option<PathBuf> {
    let own = std::env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(|folder| folder.join("jambac"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("jambac"));
    beside.into_iter().chain(on_path).find(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_and_plans_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("model")).unwrap();
        std::fs::write(at("model/config.json"), "{}").unwrap();
        std::fs::write(at("a.plan"), b"\x89JAMBA\r\n").unwrap();
        std::fs::write(at("a.gguf"), b"GGUF\x03\0\0\0").unwrap();
        for model in [at("model"), at("model/config.json"), at("a.gguf"), "ai21labs/AI21-Jamba-Reasoning-3B".into()] {
            assert!(names_a_model(&model), "{}", model.display());
        }
        let address = "hf.co/org/name".into();
        for other in [at("a.plan"), at("none"), at("."), "out/a.plan".into(), "a.plan".into(), "./x/y".into(), address]
        {
            assert!(!names_a_model(&other), "{}", other.display());
        }
    }

    #[test]
    fn files_that_are_no_plans_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        for (content, says) in [
            (&b"GGUF\x03\0\0\0"[..], ["a GGUF file", "jambac build"]),
            (b"\x89STATE\r\n\x01\0\0\0", ["a saved state", "jamba run PLAN --load-state"]),
            (b"", ["an empty file", "again"]),
            (b"version https://git-lfs.github.com/spec/v1\n", ["a pointer of Git LFS", "git lfs pull"]),
        ] {
            std::fs::write(&path, content).unwrap();
            let refused = check_plan(&path);
            assert!(
                matches!(&refused, Err(Failure::Input(text)) if says.iter().all(|part| text.contains(part))),
                "{refused:?}"
            );
        }
        std::fs::write(&path, b"\x89JAMBA\r\n").unwrap();
        assert!(check_plan(&path).is_ok());
    }
}
