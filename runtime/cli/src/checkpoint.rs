//! Plans of models that are not compiled yet: `jamba run FOLDER` has `jambac` build one into its cache, once. This program has no
//! compiler; it runs the `jambac` beside itself or on PATH.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use jamba_plan::identify::{FileKind, identify};
use jamba_runtime::DeviceId;

use crate::failure::Failure;

/// The plan that a path names: itself, or a cached plan of the model that it names.
///
/// # Errors
/// The path is neither; or `jambac` is missing or fails.
pub(crate) fn plan_of(path: &Path, device: DeviceId) -> Result<PathBuf, Failure> {
    if names_a_model(path) {
        return build(path, device);
    }
    check_plan(path)?;
    Ok(path.to_owned())
}

/// Refuses files that are something else than a plan, by what they are. Damaged plans and missing files have better errors when
/// they are opened.
pub(crate) fn check_plan(path: &Path) -> Result<(), Failure> {
    match identify(path) {
        Ok(FileKind::Plan | FileKind::Unknown) | Err(_) => Ok(()),
        Ok(kind) => Err(Failure::Input(format!(
            "{}: not a plan but {}\n{}",
            path.display(),
            kind.describe(),
            kind.help_for_a_plan(path)
        ))),
    }
}

/// True for a checkpoint's folder, its config.json, a model.toml, or an id `ORG/NAME` that is no path.
fn names_a_model(path: &Path) -> bool {
    match identify(path) {
        Ok(FileKind::Checkpoint | FileKind::HubFolder | FileKind::ModelToml) => true,
        Ok(FileKind::Json) => path.file_name() == Some(OsStr::new("config.json")),
        Ok(_) => false,
        Err(_) => !path.exists() && is_id(path),
    }
}

fn is_id(path: &Path) -> bool {
    let Some((org, name)) = path.to_str().and_then(|text| text.split_once('/')) else { return false };
    let is_part = |part: &str| {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(is_allowed)
    };
    let is_file = [".plan", ".state", ".gguf", ".json", ".safetensors"].iter().any(|end| name.ends_with(end));
    is_part(org) && is_part(name) && !is_file
}

fn build(model: &Path, device: DeviceId) -> Result<PathBuf, Failure> {
    let target = if device == DeviceId::Cpu { "native" } else { "sm_90a" };
    let Some(compiler) = compiler() else {
        return Err(Failure::Input(format!(
            "{0}: is a model and not a plan; jambac compiles it, but is neither beside jamba nor on PATH\n\
             With jambac installed: jambac build {0} -o OUT.plan",
            model.display()
        )));
    };
    let mut command = Command::new(&compiler);
    command.args([OsStr::new("build"), model.as_os_str()]).args(["--cached", "--target", target]);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| Failure::file(&compiler, "run it", error))?;
    match output.status.code() {
        Some(0) => Ok(PathBuf::from(OsStr::from_bytes(output.stdout.trim_ascii_end()))),
        code => Err(Failure::Reported(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))),
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
        for model in [at("model"), at("model/config.json"), "ai21labs/AI21-Jamba-Reasoning-3B".into()] {
            assert!(names_a_model(&model), "{}", model.display());
        }
        for other in [at("a.plan"), at("none"), at("."), "out/a.plan".into(), "a.plan".into(), "./x/y".into()] {
            assert!(!names_a_model(&other), "{}", other.display());
        }
    }

    #[test]
    fn files_that_are_no_plans_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        for (content, says) in [
            (&b"GGUF\x03\0\0\0"[..], ["a GGUF file", "jambac build MODEL -o OUT.plan"]),
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
