//! AMX: whether the CPU has it, and whether the system lets this process use the tile registers.
//!
//! Linux saves the 8 KiB of tile data only for processes that asked for it (Documentation/arch/x86/xstate.rst). The right holds for
//! every thread, those that run already included.

/// `arch_prctl` of Linux: asks for a component of the extended state.
#[cfg(target_os = "linux")]
const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;

/// The extended state's component of tile data.
#[cfg(target_os = "linux")]
const XFEATURE_XTILEDATA: libc::c_ulong = 18;

/// The bit of an AMX feature in EDX of CPUID leaf 7, subleaf 0; None for other features.
pub(super) fn bit(feature: &str) -> Option<u32> {
    match feature {
        "amx-bf16" => Some(22),
        "amx-tile" => Some(24),
        "amx-int8" => Some(25),
        _ => None,
    }
}

/// Whether the CPU has the feature of a bit, and this process may use tiles.
pub(super) fn usable(bit: u32) -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    // Older compilers than 1.95 may call these functions unsafe.
    #[allow(unused_unsafe)]
    // SAFETY: Every x86-64 CPU has the instruction; leaf 7 is read where leaf 0 says that it exists.
    let has = unsafe { __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & (1 << bit) != 0 };
    has && permitted()
}

#[cfg(target_os = "linux")]
fn permitted() -> bool {
    static PERMITTED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *PERMITTED.get_or_init(|| {
        // SAFETY: The call takes two integers and changes only what later context switches save. It fails with an error where the
        // kernel, the machine or a filter of system calls does not allow it.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    })
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}
