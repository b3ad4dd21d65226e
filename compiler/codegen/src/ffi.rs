//! Wrappers for the raw calls that melior and inkwell lack. All `unsafe` code of this crate is here.

use inkwell::context::AsContextRef;
use inkwell::llvm_sys::core::{LLVMGetCalledValue, LLVMGetInlineAsmHasSideEffects, LLVMIsAInlineAsm};
use inkwell::llvm_sys::support::LLVMParseCommandLineOptions;
use inkwell::values::{AsValueRef, InstructionOpcode, InstructionValue};
use std::sync::Once;

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

/// Makes shared-memory addresses 32 bits wide in the NVPTX target, for the whole process. Other targets ignore the option.
pub fn shorten_nvptx_pointers() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let arguments = [c"jambac".as_ptr(), c"--nvptx-short-ptr".as_ptr()];
        // SAFETY: the arguments are two zero-terminated strings that LLVM reads and does not keep. The call happens once, so no
        // two threads make it concurrently.
        unsafe { LLVMParseCommandLineOptions(arguments.len() as i32, arguments.as_ptr(), std::ptr::null()) }
    });
}
