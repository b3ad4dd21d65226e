//! Sampling: maps rows of logits to tokens, greedily or at random, as the runtime's sampler on the host does.
//!
//! ```text
//! tokens[i] = argmax logits[i, :]
//! tokens[i] = the token at which the running sum of weights exceeds the row's uniform number
//! ```
//!
//! Only for GPUs, where it avoids copying the row to the host.

pub mod hopper;
