//! jambac-reference: the oracle. Every op of the layer graph as plain scalar Rust, and an interpreter that runs any graph.
//!
//! Arithmetic: a value between two ops is f32 (or i32); inside an op everything is f64 and rounded to f32 once, at the
//! end. A fused op rounds where its parts would, so a fusion that is right keeps the oracle's answer to the bit. The SSM
//! state is rounded after every token, so a prompt in chunks gives the bits of the same prompt at once.
//!
//! One file per op or small family: the formula, then the loop. [`interpret`](mod@interpret) runs graphs with them,
//! [`compare`](mod@compare) says how far two tensors are apart.
//!
//! The functions of single ops are for tests of kernels: they take row-major slices, and panic when a length does not fit
//! its dimensions. The interpreter checks what comes from outside and returns [`ReferenceError`].

pub mod activation;
pub mod attention;
pub mod causal_conv1d;
pub mod compare;
pub mod elementwise;
mod error;
mod evaluate;
pub mod gather;
pub mod interpret;
pub mod linear;
pub mod moe;
pub mod rms_norm;
pub mod selective_scan;
pub mod softmax;
mod state;
mod tensor;

pub use compare::{Report, Tolerance, compare};
pub use error::ReferenceError;
pub use interpret::{Batch, Interpreter, Parameters, interpret, interpret_all};
pub use state::State;
pub use tensor::{Data, Tensor, Value, round_to};
