//! What can go wrong in code generation, each error naming its phase.

use std::io;
use std::path::PathBuf;

/// Why code generation failed. Apart from a missing linker, every one of these is a fault of the compiler or of a kernel,
/// not of the model.
#[derive(Debug, thiserror::Error)]
pub enum CodegenError {
    /// MLIR's verifier refuses the kernels as they were emitted.
    #[error("emit: MLIR refuses the module{messages}")]
    Emit {
        /// MLIR's messages, one a line, with the line of the kernel that made the operation.
        messages: String,
    },
    /// A lowering pass failed, or left a module that does not verify.
    #[error("lower: MLIR's passes failed{messages}")]
    Lower {
        /// MLIR's messages, one a line.
        messages: String,
    },
    /// The LLVM dialect did not become LLVM IR.
    #[error("translate: no LLVM IR from the LLVM dialect: {message}")]
    Translate {
        /// MLIR's or LLVM's message.
        message: String,
    },
    /// LLVM's optimizer or its set-up failed.
    #[error("optimize: {message}")]
    Optimize {
        /// LLVM's message.
        message: String,
    },
    /// LLVM did not write machine code.
    #[error("emit object: {message}")]
    EmitObject {
        /// LLVM's message.
        message: String,
    },
    /// ptxas refused the PTX, or could not be run.
    #[error("assemble: {assembler} failed: {message}")]
    Assemble {
        /// The assembler that ran.
        assembler: PathBuf,
        /// What it wrote.
        message: String,
    },
    /// There is no linker.
    #[error("link: no linker; looked for {looked_for}; {install}")]
    NoLinker {
        /// The names and paths tried.
        looked_for: String,
        /// What installs it.
        install: String,
    },
    /// The linker refused the object.
    #[error("link: {linker} failed: {message}")]
    Link {
        /// The linker that ran.
        linker: PathBuf,
        /// What it wrote.
        message: String,
    },
    /// A file of the link step could not be written or read.
    #[error("link: {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A parameter could not be read or its packed bytes not written.
    #[error("pack: {parameter}: {source}")]
    Pack {
        /// The parameter.
        parameter: String,
        /// Why.
        source: io::Error,
    },
    /// The plan could not be written.
    #[error("link: {0}")]
    Plan(#[from] jamba_plan::PlanError),
}
