//! Kernels through the whole toolchain, in one test binary.

mod kernels;
mod math;
mod ptx;
