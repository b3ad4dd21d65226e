//! jambac-codegen: kernels to machine code, parameters to packed weights, both to a plan. The only crate that links MLIR
//! and LLVM.
//!
//! [`compile`](mod@compile) is the way of the code: MLIR that kernels emit, lowered by the passes of [`lower`], through
//! [`llvm`] to an object, linked by [`object`]; for a GPU, by [`ptx`](mod@ptx) to PTX, which [`assemble`](mod@assemble) can
//! check where ptxas is at hand. [`pack`](mod@pack) packs weights, and [`loss`] says what that cost; [`link`](mod@link) writes the
//! plan.

pub mod assemble;
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
