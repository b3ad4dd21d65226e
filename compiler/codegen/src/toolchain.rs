//! Lists the tools needed to build plans and whether they are installed, for `jambac doctor`.

use crate::llvm::Machine;
use jambac_kernels::target::CpuTarget;

/// Version of the linked LLVM: `19.1.7`.
pub fn llvm_version() -> String {
    let (major, minor, patch) = inkwell::support::get_llvm_version();
    format!("{major}.{minor}.{patch}")
}

/// Each tool by name, with the version or path found, or instructions to install it.
pub fn toolchain() -> Vec<(&'static str, Result<String, String>)> {
    let native = CpuTarget::native();
    let machine = native
        .as_ref()
        .map_err(ToString::to_string)
        .and_then(|&target| Machine::new(target).map(|_| target.name().to_owned()).map_err(|error| error.to_string()));
    vec![("LLVM, MLIR and lld, linked", Ok(llvm_version())), ("code for this machine", machine)]
}
