//! Every raw call that melior and inkwell lack, each wrapped once. All `unsafe` of this crate is here.

use inkwell::context::AsContextRef;
use inkwell::llvm_sys::core::{LLVMGetCalledValue, LLVMGetInlineAsmHasSideEffects, LLVMIsAInlineAsm};
use inkwell::llvm_sys::support::LLVMParseCommandLineOptions;
use inkwell::values::{AsValueRef, InstructionOpcode, InstructionValue};
use std::sync::Once;

/// The LLVM IR of a module in the LLVM dialect; nothing if MLIR cannot translate it (it has said why by then).
pub fn translate<'ctx>(
    module: &melior::ir::Module,
    context: &'ctx inkwell::context::Context,
) -> Option<inkwell::module::Module<'ctx>> {
    // SAFETY: the operation is a live module, the context outlives the call, and MLIR only reads the one and creates in
    // the other. The module that comes back is owned by the caller, belongs to `context`, and its lifetime says so.
    unsafe {
        let operation = mlir_sys::mlirModuleGetOperation(module.to_raw());
        let raw = mlir_sys::mlirTranslateModuleToLLVMIR(operation, context.as_ctx_ref().cast());
        (!raw.is_null()).then(|| inkwell::module::Module::new(raw.cast()))
    }
}

/// Whether an instruction is a call of inline assembly that has effects.
pub fn is_asm_with_effects(instruction: InstructionValue) -> bool {
    if instruction.get_opcode() != InstructionOpcode::Call {
        return false;
    }
    // SAFETY: the instruction is a live call; LLVM reads what it calls and gives that back, or null where it is no inline
    // assembly.
    unsafe {
        let called = LLVMGetCalledValue(instruction.as_value_ref());
        !LLVMIsAInlineAsm(called).is_null() && LLVMGetInlineAsmHasSideEffects(called) != 0
    }
}

/// Makes addresses of shared memory 32 bits wide in the NVPTX target, for the process. No other target looks at this.
pub fn shorten_nvptx_pointers() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let arguments = [c"jambac".as_ptr(), c"--nvptx-short-ptr".as_ptr()];
        // SAFETY: two strings that end in zero, which LLVM reads and does not keep; once, so by no two threads at a time.
        unsafe { LLVMParseCommandLineOptions(arguments.len() as i32, arguments.as_ptr(), std::ptr::null()) }
    });
}
