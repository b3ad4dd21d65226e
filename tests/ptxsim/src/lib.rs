//! A functional simulator of the PTX that the compiler emits for sm_90a.
//!
//! It executes kernels on the CPU, block by block and warp by warp, and stops at what a GPU would pass over in silence.
//!
//! ```text
//! let module = Module::parse(ptx)?;
//! let mut gpu = Gpu::new(Options { seed: 1, ..Options::default() });
//! let x = gpu.alloc("x", 4096);
//! gpu.write(x, &bytes)?;
//! gpu.launch(&module, "scale_sm90", Launch { grid: [8, 1, 1], block: [128, 1, 1], shared_bytes: 0 }, &[x])?;
//! gpu.read(x, &mut bytes)?;
//! ```
mod decode;
mod exec;
mod family;
mod fault;
mod gpu;
mod memory;
pub mod mutate;
mod parse;
mod program;
mod registers;
mod rng;
mod stats;
mod tensor_map;

pub use fault::{Fault, FaultKind, ParseError};
pub use gpu::{Gpu, Launch, Module, Options};
pub use program::Class;
pub use stats::Stats;
pub use tensor_map::{Element, Swizzle, TensorMap};
