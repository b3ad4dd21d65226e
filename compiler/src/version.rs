//! The version of the program, in one line and in full.

use std::sync::LazyLock;

use jambac_kernels::target::Target;

/// `0.1.0 (1a2b3c4)`: the version and the commit.
pub const SHORT: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("JAMBA_COMMIT"), ")");

/// [`SHORT`], the plan format, LLVM's version and the targets.
pub fn long() -> &'static str {
    static LONG: LazyLock<String> = LazyLock::new(|| {
        format!(
            "{SHORT}\nplan format: {}\nLLVM: {}\ntargets: {}",
            jamba_plan::header::VERSION,
            jambac_codegen::toolchain::llvm_version(),
            Target::NAMES.join(", ")
        )
    });
    &LONG
}
