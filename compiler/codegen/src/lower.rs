//! MLIR from the dialects that kernels are written in down to the LLVM dialect.

use crate::diagnostics::Diagnostics;
use crate::error::CodegenError;
use melior::Context;
use melior::dialect::DialectRegistry;
use melior::ir::Module;
use melior::pass::PassManager;
use melior::utility::{
    parse_pass_pipeline, register_all_dialects, register_all_llvm_translations, register_all_passes,
};

/// The dialects kernels are emitted in, llvm for the intrinsics of the target; passes load what they lower to by themselves.
const EMITTED_DIALECTS: [&str; 8] = ["func", "arith", "math", "memref", "vector", "scf", "llvm", "nvvm"];

/// The passes for the host, in order.
pub const HOST_PASSES: &[&str] = &[
    // The builder writes a constant where it is used: keep one of each, and what is computed twice once.
    "cse",
    // Loops and branches become blocks.
    "convert-scf-to-cf",
    // Views become offsets and strides in plain arithmetic, which is affine, which is arith.
    "expand-strided-metadata",
    "lower-affine",
    // Vectors before memref: their loads and stores still need the memref's strides.
    "convert-vector-to-llvm",
    // fma, sqrt and roundeven become intrinsics that are one instruction each.
    "convert-math-to-llvm",
    "convert-arith-to-llvm",
    "finalize-memref-to-llvm",
    // Buffers of static shape are passed as the bare pointers that the kernels' wrappers hold.
    "convert-func-to-llvm{use-bare-ptr-memref-call-conv=true}",
    "convert-cf-to-llvm",
    // The casts that the conversions left between them cancel out; one that does not is an error here.
    "reconcile-unrealized-casts",
    "canonicalize",
    "cse",
];

/// The passes for a GPU, in order. Its kernels have pointers from the start, and no memrefs.
pub const NVVM_PASSES: &[&str] = &[
    "cse",
    "convert-scf-to-cf",
    "convert-vector-to-llvm",
    "convert-math-to-llvm",
    "convert-arith-to-llvm",
    // Instructions that LLVM has no intrinsic for become inline PTX.
    "convert-nvvm-to-llvm",
    "convert-func-to-llvm",
    "convert-cf-to-llvm",
    "reconcile-unrealized-casts",
    "canonicalize",
    "cse",
    // Operations know their line of Rust: functions need a scope for the lines to reach the PTX.
    "ensure-debug-info-scope-on-llvm-func",
];

/// A context in which kernels can be emitted and lowered. It is for one thread.
pub fn context() -> Context {
    register_all_passes();
    let registry = DialectRegistry::new();
    register_all_dialects(&registry);
    let context = Context::new();
    context.enable_multi_threading(false);
    context.append_dialect_registry(&registry);
    register_all_llvm_translations(&context);
    for dialect in EMITTED_DIALECTS {
        context.get_or_load_dialect(dialect);
    }
    context
}

/// Checks a module as the kernels wrote it.
pub fn verify(context: &Context, module: &Module) -> Result<(), CodegenError> {
    let diagnostics = Diagnostics::catch(context);
    match module.as_operation().verify() {
        true => Ok(()),
        false => Err(CodegenError::Emit { messages: diagnostics.take() }),
    }
}

/// Lowers a module to the LLVM dialect by one of the lists of passes, and checks the result.
pub fn lower(context: &Context, module: &mut Module, passes: &[&str]) -> Result<(), CodegenError> {
    let diagnostics = Diagnostics::catch(context);
    let manager = PassManager::new(context);
    // Verified once at the end: after every pass would cost more than the passes.
    manager.enable_verifier(false);
    parse_pass_pipeline(manager.as_operation_pass_manager(), &format!("builtin.module({})", passes.join(",")))
        .map_err(|error| CodegenError::Lower { messages: format!("\n  {error}") })?;
    if manager.run(module).is_err() || !module.as_operation().verify() {
        return Err(CodegenError::Lower { messages: diagnostics.take() });
    }
    Ok(())
}
