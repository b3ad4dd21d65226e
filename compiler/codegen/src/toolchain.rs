//! What building plans needs, and what of it is here: for `jambac doctor`.

use crate::llvm::Machine;
use crate::object::find_linker;
use jambac_kernels::target::CpuTarget;

/// Version of LLVM that is linked: `19.1.7`.
pub fn llvm_version() -> String {
    let (major, minor, patch) = inkwell::support::get_llvm_version();
    format!("{major}.{minor}.{patch}")
}

/// Each tool by name, with what was found, or what to do where nothing was.
pub fn toolchain() -> Vec<(&'static str, Result<String, String>)> {
    let linker = find_linker().map(|path| path.display().to_string()).map_err(|error| error.to_string());
    let native = CpuTarget::native();
    let machine = native
        .as_ref()
        .map_err(ToString::to_string)
        .and_then(|&target| Machine::new(target).map(|_| target.name().to_owned()).map_err(|error| error.to_string()));
    vec![("LLVM and MLIR, linked", Ok(llvm_version())), ("lld", linker), ("code for this machine", machine)]
}
