//! jambac-codegen: compiles kernels to machine code, packs weights, and writes plans. The only crate that links MLIR and LLVM.
//!
//! [`compile`](mod@compile) is the code path: the passes of [`lower`] lower the MLIR that kernels emit, [`llvm`] turns it into
//! an object, and [`object`] links it. For a GPU, [`ptx`](mod@ptx) produces PTX, which [`assemble`](mod@assemble) can check if
//! ptxas is installed. [`pack`](mod@pack) packs weights, [`loss`] measures their rounding error, and [`link`](mod@link) writes
//! the plan.

pub mod assemble;
mod cache;
pub mod compile;
pub mod diagnostics;
pub mod error;
pub mod ffi;
pub mod link;
pub mod llvm;
pub mod loss;
pub mod lower;
pub mod object;
pub mod pack;
pub mod ptx;
pub mod toolchain;

pub use compile::{compile, compile_kernels};
pub use error::CodegenError;
pub use ptx::compile_ptx;
pub use toolchain::toolchain;
