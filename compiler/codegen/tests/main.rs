//! Kernels through the whole chain, in one binary.

mod kernels;
mod math;
mod ptx;
