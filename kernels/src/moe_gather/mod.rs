//! Rows of slots, sorted by expert: what a grouped product reads as contiguous rows.
//!
//!     out[p, :] = x[slots[p] / top_k, :]

pub mod hopper;
