//! From rows of logits to tokens: the likeliest, or a draw from the likely ones, as the runtime's sampler on the host makes it.
//!
//!     tokens[i] = argmax logits[i, :]
//!     tokens[i] = the token at which the running sum of weights passes the row's uniform number
//!
//! For a GPU only: there the row need not travel to the host.

pub mod hopper;
