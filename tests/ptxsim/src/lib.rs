//! A functional simulator for the PTX that the compiler emits for sm_90a.
//!
//! It executes kernels on the CPU, block by block and warp by warp, and reports errors that a GPU does not detect.
//!
//! ```text
//! let module = Module::parse(ptx)?;
//! let mut gpu = Gpu::new(Options { seed: 1, ..Options::default() });
//! let x = gpu.alloc("x", 4096);
//! gpu.write(x, &bytes)?;
//! gpu.launch(&module, "scale_sm90", Launch { grid: [8, 1, 1], block: [128, 1, 1], shared_bytes: 0 }, &[x])?;
//! gpu.read(x, &mut bytes)?;
//! ```
//!
//! [`driver::Simulated`] is the same device as a [`jamba_runtime::gpu::Driver`] of the runtime.
//!
//! # Execution
//!
//! Text is decoded once. Registers, immediates and special registers become slots of 32 lanes, and an instruction becomes an
//! operation on slots. Lanes of a warp at the same instruction run together. The group of lanes that is earliest in the text
//! runs first, and an instruction for several lanes waits until all of them have reached it. Warps run in shuffled order.
//! Asynchronous copies and `wgmma` complete immediately, at a random time, or when a wait forces them. [`Options::seed`]
//! determines all of these choices: the same seed gives the same run for any number of threads. Blocks run on several threads
//! unless the kernel has atomics or strong accesses in global memory; such blocks are interleaved on one thread.
//!
//! # Checks
//!
//! - **Addresses**: bounds, with guard space between allocations; alignment; the rules of tensor maps and bulk copies.
//! - **Unwritten memory** (poison): one bit per byte of global and shared memory, one bit per half of a lane in registers.
//!   Arithmetic, copies and products (by row and column) propagate it. Poison may be stored, and it disappears in a `selp` that
//!   selects the other operand, in an `and` with zero, and in predicate logic that the other operand decides. A branch, a
//!   predicate, an address, a descriptor or an atomic that depends on poison is a fault, and so is a read by the host.
//! - **Races in shared memory**, by vector clocks: each two bytes record their last writer, and their last read by each agent.
//!   Agents are warps, the `cp.async` of a warp, the bulk stores of a warp, the `wgmma` of a warpgroup, and the bulk loads of an
//!   mbarrier. Two conflicting accesses are a fault unless a barrier, an mbarrier or a wait orders them, even if this run
//!   executed them in the right order.
//! - **Proxies**: after ordinary stores and `cp.async`, a `fence.proxy.async` is required before `wgmma` or a bulk store reads the
//!   data and before a bulk load overwrites it. Any thread between the two may execute it. A bulk load requires that the
//!   initialisation of its mbarrier was fenced.
//! - **wgmma**: no access to registers of a product in flight before `wgmma.wait_group`; a `wgmma.fence` between other accesses
//!   to its registers and the product; all four warps execute it.
//! - **mbarriers**: too many arrivals, more bytes than announced, use before initialisation, ordinary stores to them.
//! - **Deadlocks**, with the instruction that each warp waits at; copies and products without a wait; launches that exceed the
//!   bounds of the kernel.
//!
//! # Limits
//!
//! - Not detected: races between the lanes of one warp ([`Options::split_lanes`] can expose them as wrong results), between the
//!   two bytes of a pair, in global memory, and among atomics.
//! - Bulk stores complete when they have read their source: `wait_group` and `wait_group.read` are the same. Groups of `cp.async`
//!   belong to the warp, not to each thread.
//! - If the generic proxy has read data that a bulk load overwrites, an mbarrier between the two suffices; no proxy fence is
//!   required.
//! - Clusters of more than one block, local memory, textures, calls, and rounding modes `.rz`, `.rm`, `.rp` in arithmetic are
//!   errors of [`Module::parse`].
//! - Time, bank conflicts and the size of the register file are not modelled.
//! - Sums of `mma` and `wgmma` are in f32, in order of K, then added to the accumulator: close to the hardware, not bit-identical.
//!
//! # Confidence
//!
//! Tests compare instructions with formulas in Rust, and run small kernels with each fence, wait or barrier removed: every
//! such kernel must fault, or give a wrong result, under some seed. [`mutate`] applies the same to the kernels of the compiler.
mod decode;
pub mod driver;
mod exec;
mod fault;
mod gpu;
mod isa;
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
