//! Lowers MLIR from the kernels' dialects to the LLVM dialect.

use crate::diagnostics::Diagnostics;
use crate::error::CodegenError;
use melior::Context;
use melior::dialect::DialectRegistry;
use melior::ir::Module;
use melior::pass::PassManager;
use melior::utility::{
    parse_pass_pipeline, register_all_dialects, register_all_llvm_translations, register_all_passes,
};

/// The dialects that kernels emit, including llvm for target intrinsics. Passes load the dialects that they produce.
const EMITTED_DIALECTS: [&str; 8] = ["func", "arith", "math", "memref", "vector", "scf", "llvm", "nvvm"];

/// The passes for the host, in order.
pub const HOST_PASSES: &[&str] = &[
    // The builder emits a constant at each use: merge duplicates of constants and computations.
    "cse",
    // Loops and branches become basic blocks.
    "convert-scf-to-cf",
    // Views become offsets and strides in plain arithmetic: first affine, then arith.
    "expand-strided-metadata",
    "lower-affine",
    // Vectors before memref: their loads and stores still need the memref's strides.
    "convert-vector-to-llvm",
    // fma, sqrt and roundeven become intrinsics that compile to one instruction each.
    "convert-math-to-llvm",
    "convert-arith-to-llvm",
    "finalize-memref-to-llvm",
    // Buffers of static shape become bare pointers, which the entry points pass.
    "convert-func-to-llvm{use-bare-ptr-memref-call-conv=true}",
    "convert-cf-to-llvm",
    // The casts left by the conversions cancel out; a remaining cast is an error here.
    "reconcile-unrealized-casts",
    "canonicalize",
    "cse",
];

/// The passes for a GPU, in order. GPU kernels use pointers from the start and no memrefs.
pub const NVVM_PASSES: &[&str] = &[
    "cse",
    "convert-scf-to-cf",
    "convert-vector-to-llvm",
    "convert-math-to-llvm",
    "convert-arith-to-llvm",
    // Instructions without an LLVM intrinsic become inline PTX.
    "convert-nvvm-to-llvm",
    "convert-func-to-llvm",
    "convert-cf-to-llvm",
    "reconcile-unrealized-casts",
    "canonicalize",
    "cse",
    // Operations carry their line of Rust; functions need a scope for the lines to reach the PTX.
    "ensure-debug-info-scope-on-llvm-func",
];

/// A context in which kernels can be emitted and lowered, for use by one thread.
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

/// Verifies a module as emitted.
pub fn verify(context: &Context, module: &Module) -> Result<(), CodegenError> {
    let diagnostics = Diagnostics::catch(context);
    match module.as_operation().verify() {
        true => Ok(()),
        false => Err(CodegenError::Emit { messages: diagnostics.take() }),
    }
}

/// Lowers a module to the LLVM dialect with a list of passes, and verifies the result.
pub fn lower(context: &Context, module: &mut Module, passes: &[&str]) -> Result<(), CodegenError> {
    let diagnostics = Diagnostics::catch(context);
    let manager = PassManager::new(context);
    // Verify once at the end: verification after every pass would take longer than the passes.
    manager.enable_verifier(false);
    parse_pass_pipeline(manager.as_operation_pass_manager(), &format!("builtin.module({})", passes.join(",")))
        .map_err(|error| CodegenError::Lower { messages: format!("\n  {error}") })?;
    if manager.run(module).is_err() || !module.as_operation().verify() {
        return Err(CodegenError::Lower { messages: diagnostics.take() });
    }
    Ok(())
}
