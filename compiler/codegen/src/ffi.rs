//! Wrappers for the raw calls that melior and inkwell lack. All `unsafe` code of this crate is here.

use inkwell::context::AsContextRef;
use inkwell::llvm_sys::core::{LLVMGetCalledValue, LLVMGetInlineAsmHasSideEffects, LLVMIsAInlineAsm};
use inkwell::llvm_sys::support::LLVMParseCommandLineOptions;
use inkwell::values::{AsValueRef, InstructionOpcode, InstructionValue};
use std::ffi::{CStr, CString, c_char, c_int};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

/// Translates a module in the LLVM dialect to LLVM IR. Returns `None` on failure, which MLIR reports as a diagnostic.
pub fn translate<'ctx>(
    module: &melior::ir::Module,
    context: &'ctx inkwell::context::Context,
) -> Option<inkwell::module::Module<'ctx>> {
    // SAFETY: the operation is a live module and the context outlives the call. MLIR only reads the module and creates objects
    // in the context. The caller owns the returned module, which belongs to `context` and carries its lifetime.
    unsafe {
        let operation = mlir_sys::mlirModuleGetOperation(module.to_raw());
        let raw = mlir_sys::mlirTranslateModuleToLLVMIR(operation, context.as_ctx_ref().cast());
        (!raw.is_null()).then(|| inkwell::module::Module::new(raw.cast()))
    }
}

/// Whether an instruction is a call of inline assembly with side effects.
pub fn is_asm_with_effects(instruction: InstructionValue) -> bool {
    if instruction.get_opcode() != InstructionOpcode::Call {
        return false;
    }
    // SAFETY: the instruction is a live call. LLVM returns the called value, or null if it is not inline assembly.
    unsafe {
        let called = LLVMGetCalledValue(instruction.as_value_ref());
        !LLVMIsAInlineAsm(called).is_null() && LLVMGetInlineAsmHasSideEffects(called) != 0
    }
}

/// LLVM's options are global, and lld resets them. Code generation takes the read lock, lld the write lock.
static OPTIONS: RwLock<()> = RwLock::new(());
/// Whether [`shorten_nvptx_pointers`] holds.
static HAS_SHORT_POINTERS: Mutex<bool> = Mutex::new(false);

/// Held while LLVM generates code.
pub fn generating() -> RwLockReadGuard<'static, ()> {
    OPTIONS.read().unwrap_or_else(PoisonError::into_inner)
}

/// Makes shared-memory addresses 32 bits wide in the NVPTX target, for the whole process. Other targets ignore the option. The
/// caller holds [`generating`].
pub fn shorten_nvptx_pointers() {
    let mut has_short_pointers = HAS_SHORT_POINTERS.lock().unwrap_or_else(PoisonError::into_inner);
    if !*has_short_pointers {
        let arguments = [c"jambac".as_ptr(), c"--nvptx-short-ptr".as_ptr()];
        // SAFETY: the arguments are two zero-terminated strings that LLVM reads and does not keep. The lock keeps other threads from
        // making the same call.
        unsafe { LLVMParseCommandLineOptions(arguments.len() as i32, arguments.as_ptr(), std::ptr::null()) }
        *has_short_pointers = true;
    }
}

/// Most bytes of lld's messages.
const MESSAGES: usize = 1 << 16;
/// The bit of `jambac_lld`'s status for a linker that cannot run again.
const IS_LAST: c_int = 0x100;

unsafe extern "C" {
    /// `lld.cpp`.
    fn jambac_lld(arguments: *const *const c_char, count: usize, messages: *mut c_char, room: usize) -> c_int;
}

/// Runs `ld.lld` with arguments, of which the first is its name. Waits until no thread holds [`generating`].
///
/// # Errors
/// Fails with lld's messages.
pub fn lld(arguments: &[CString]) -> Result<(), String> {
    static MAY_RUN: AtomicBool = AtomicBool::new(true);
    let alone = OPTIONS.write().unwrap_or_else(PoisonError::into_inner);
    if !MAY_RUN.load(Ordering::Relaxed) {
        return Err("lld failed earlier and cannot run again in this process".to_owned());
    }
    let pointers: Vec<*const c_char> = arguments.iter().map(|text| text.as_ptr()).collect();
    let mut messages = vec![0; MESSAGES];
    // SAFETY: the pointers are those of `arguments`, which outlive the call, and `messages` has MESSAGES bytes, of which the
    // function writes as many at most. The lock keeps other threads out of lld and of LLVM's options.
    let status = unsafe { jambac_lld(pointers.as_ptr(), pointers.len(), messages.as_mut_ptr().cast(), MESSAGES) };
    *HAS_SHORT_POINTERS.lock().unwrap_or_else(PoisonError::into_inner) = false;
    MAY_RUN.store(status & IS_LAST == 0, Ordering::Relaxed);
    drop(alone);
    if status == 0 {
        return Ok(());
    }
    let text = CStr::from_bytes_until_nul(&messages).unwrap_or_default().to_string_lossy();
    Err(format!("status {}: {}", status & !IS_LAST, text.trim()))
}
