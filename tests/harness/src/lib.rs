//! jambac-harness: runs single kernels outside a plan, for tests and benchmarks.
//!
//! There is one way to run a kernel. A test states the values of a node's operands ([`Call`]); the [`Runner`] lays them out as
//! the kernel's operands state, runs the launches on a target (code in this process, an emulated Arm CPU, or a simulated Hopper GPU) and
//! gives results without padding. [`each`] does so for every case of a list that a target supports. Tests of one target's own arguments state
//! them one by one ([`Arg`]). Launches on the simulator can be recorded, and run again on a real GPU (`tests/gpu`).

mod arg;
mod call;
mod cpu;
mod emulator;
mod fill;
mod hopper;
mod kernel;
mod layout;
pub mod loader;
mod numbers;
mod record;
mod runner;
pub mod toolkit;
mod weight;

pub use arg::{Arg, Array};
pub use call::{Call, Found};
pub use fill::{Filled, fill};
pub use hopper::ptx_of;
pub use kernel::{Kernel, Lower, counts, step_of};
pub use layout::rows;
pub use loader::{LoadError, LoadedKernels, Slot};
pub use numbers::{assert_close, assert_same_bits, random, random_indices, rounded};
pub use runner::{Conditions, Runner, SEEDS, Subject, Target, each, each_under};
pub use weight::{random_weights, stored};
