//! ELF objects to one shared object, by lld.

use crate::error::CodegenError;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The LLVM version this is built with, which lld shares so that the same input gives the same bytes.
const LLVM_VERSION: &str = env!("JAMBAC_LLVM_VERSION");

/// Flags of every link.
const FLAGS: &[&str] = &[
    "-shared",
    // Kernels call nothing: what is not defined here is a mistake.
    "--no-undefined",
    "-nostdlib",
    // Kernels that nothing exports, and symbols that the loader does not need.
    "--gc-sections",
    "--strip-all",
    // The same input gives the same bytes: nothing in the file depends on when or where it was linked.
    "--build-id=none",
    "--hash-style=gnu",
    // Mapped without writable code, and fully resolved when it is opened.
    "-znow",
    "-zrelro",
    "-znoexecstack",
];

/// Links objects into a shared object that needs no library and exports the kernels.
pub fn link(objects: &[Vec<u8>]) -> Result<Vec<u8>, CodegenError> {
    let linker = find_linker()?;
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| CodegenError::Io { path, source }
    };
    let folder = tempfile::tempdir().map_err(io(&std::env::temp_dir()))?;
    let output = folder.path().join("kernels.so");
    let mut command = Command::new(&linker);
    command.args(FLAGS).arg("-o").arg(&output);
    for (number, object) in objects.iter().enumerate() {
        let path = folder.path().join(format!("{number}.o"));
        fs::write(&path, object).map_err(io(&path))?;
        command.arg(path);
    }
    let result = command.output().map_err(io(&linker))?;
    if !result.status.success() {
        let message = String::from_utf8_lossy(&result.stderr).trim().to_owned();
        return Err(CodegenError::Link { linker, message });
    }
    fs::read(&output).map_err(io(&output))
}

/// The linker: lld of our LLVM where it is installed, else any lld.
pub fn find_linker() -> Result<PathBuf, CodegenError> {
    let candidates =
        [format!("{}/bin/ld.lld", env!("LLVM_SYS_191_PREFIX")), format!("ld.lld-{LLVM_VERSION}"), "ld.lld".to_owned()];
    let folders: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    candidates
        .iter()
        .flat_map(|candidate| match Path::new(candidate).is_absolute() {
            true => vec![PathBuf::from(candidate)],
            false => folders.iter().map(|folder| folder.join(candidate)).collect(),
        })
        .find(|path| path.is_file())
        .ok_or_else(|| CodegenError::NoLinker { looked_for: candidates.join(", "), install: install_linker() })
}

/// What installs the linker.
pub(crate) fn install_linker() -> String {
    format!("install it with: apt-get install lld-{LLVM_VERSION} (compiler/setup does)")
}
