//! jambac-reference: the oracle. Every op of the layer graph as plain scalar Rust, and an interpreter that runs any graph.
//!
//! Arithmetic: values between ops are f32 (or i32); inside an op everything is f64, rounded to f32 once at the end. A fused op rounds
//! where the original ops would, so a correct fusion keeps the result bit for bit. The SSM state is rounded after every token, so a
//! prompt in chunks gives the same bits as the whole prompt.
//!
//! One file per op or small family: the formula, then the loop. [`interpret`](mod@interpret) runs graphs with them,
//! [`compare`](mod@compare) measures the difference of two tensors.
//!
//! The functions of single ops are for tests of kernels: they take row-major slices, and panic if a length does not match the
//! dimensions. The interpreter checks its inputs and returns [`ReferenceError`].

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
