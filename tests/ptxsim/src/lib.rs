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
//!
//! [`driver::Simulated`] is the same device behind the runtime's [`jamba_runtime::gpu::Driver`].
//!
//! # How it runs
//!
//! Text is decoded once: registers, immediates and special registers become slots of 32 lanes. The lanes of a warp that stand at
//! the same instruction run together; the group that stands earliest goes first, and instructions for several lanes wait until
//! all of them are there. Warps take turns in shuffled order. Copies and `wgmma` are done at once, sometime, or when a wait
//! forces them. All of it is drawn from [`Options::seed`]: the same seed gives the same run, whatever the number of threads.
//! Blocks of kernels without atomics or strong accesses in global memory run on several threads; others take turns on one.
//!
//! # What is checked
//!
//! - **Addresses**: bounds, with guard space between allocations; alignment; what tensor maps and bulk copies ask for.
//! - **Unwritten memory**: a bit a byte in global and shared memory, a bit for each half of a lane in registers. It is carried through arithmetic,
//!   copies and products (by row and column); it may be stored, or dropped by `selp`, by `and` with zero, by a decided predicate.
//!   A branch, a predicate, an address, a descriptor or an atomic that depends on it is a fault, and so is a read by the host.
//! - **Races in shared memory**, by vector clocks: every two bytes know their last writer and their last reader of each kind
//!   (warp, `cp.async` of a warp, bulk stores of a warp, `wgmma` of a warpgroup, bulk loads of an mbarrier). An access that no
//!   barrier, mbarrier or wait orders behind the other is a fault whatever the order in this run.
//! - **Proxies**: what ordinary stores and `cp.async` wrote needs `fence.proxy.async`, of any thread on the way, before `wgmma` or a
//!   bulk store reads it and before a bulk load overwrites it. A bulk load needs its mbarrier's initialisation fenced.
//! - **wgmma**: registers of a product on its way are not touched until `wgmma.wait_group`, and registers touched otherwise have a
//!   `wgmma.fence` before the next product; all four warps take part.
//! - **mbarriers**: over-arrival, bytes beyond those announced, use before initialisation, ordinary stores on top.
//! - **Deadlocks**, with what each warp waits for; copies and products that nobody waited for; launches that break the bounds.
//!
//! # What is not
//!
//! - Races between the lanes of one warp, which [`Options::split_lanes`] may show by wrong results; between single bytes of a
//!   pair, in global memory, and among atomics.
//! - `bulk` stores are done when they have read: `wait_group` and `wait_group.read` are one, and groups of `cp.async` belong to
//!   the warp, not to each thread.
//! - Reads by the generic proxy before a bulk load overwrites them need an mbarrier, no proxy fence.
//! - Cluster of more than one block, local memory, textures, calls, `.rz`, `.rm`, `.rp` arithmetic: errors when the text is read.
//! - Time, bank conflicts, the register file's size.
//!
//! Sums of `mma` and `wgmma` are in f32, in order of K, then added to the accumulator: near the hardware's, not its bits.
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
