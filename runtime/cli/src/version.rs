//! The version of the program, in one line and in full.

use std::sync::LazyLock;

/// `0.1.0 (1a2b3c4)`: the version and the commit.
pub(crate) const SHORT: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("JAMBA_COMMIT"), ")");

/// [`SHORT`], the plan format, and the devices and targets.
pub(crate) fn long() -> &'static str {
    static LONG: LazyLock<String> = LazyLock::new(|| {
        let devices = if cfg!(feature = "cuda") { "cpu, cuda" } else { "cpu" };
        format!(
            "{SHORT}\nplan format: {}\ndevices: {devices}\ntargets of this CPU: {}",
            jamba_plan::header::VERSION,
            jamba_runtime::cpu_targets().join(", ")
        )
    });
    &LONG
}
