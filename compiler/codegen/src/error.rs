//! Errors of code generation; each names its phase.

use std::io;
use std::path::PathBuf;

/// An error of code generation. Except for files that cannot be written, each indicates a bug in the compiler or in a kernel, not a problem
/// with the model.
#[derive(Debug, thiserror::Error)]
pub enum CodegenError {
    /// MLIR's verifier rejects the emitted kernels.
    #[error("emit: MLIR refuses the module{messages}")]
    Emit {
        /// MLIR's messages, one per line, with the source line of the kernel that created the operation.
        messages: String,
    },
    /// A lowering pass failed or produced an invalid module.
    #[error("lower: MLIR's passes failed{messages}")]
    Lower {
        /// MLIR's messages, one per line.
        messages: String,
    },
    /// The translation from the LLVM dialect to LLVM IR failed.
    #[error("translate: no LLVM IR from the LLVM dialect: {message}")]
    Translate { message: String },
    /// LLVM's optimizer or its setup failed.
    #[error("optimize: {message}")]
    Optimize { message: String },
    /// LLVM failed to emit machine code.
    #[error("emit object: {message}")]
    EmitObject { message: String },
    /// ptxas rejected the PTX or could not be started.
    #[error("assemble: {assembler} failed: {message}")]
    Assemble {
        /// Path of the assembler.
        assembler: PathBuf,
        /// Its output.
        message: String,
    },
    /// lld rejected the object.
    #[error("link: lld failed: {message}")]
    Link {
        /// Its messages.
        message: String,
    },
    /// A file of the link step could not be written or read.
    #[error("link: {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    /// A parameter could not be read, or its packed bytes could not be written.
    #[error("pack: {parameter}: {source}")]
    Pack { parameter: String, source: io::Error },
    /// The plan could not be written.
    #[error("link: {0}")]
    Plan(#[from] jamba_plan::PlanError),
}
