//! jambac-harness: runs single kernels outside a plan, for tests and benchmarks.

pub mod loader;

pub use loader::{Call, LoadError, LoadedKernels, Slot};
