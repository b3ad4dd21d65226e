//! Keys and values of the step's tokens into the pages of their sequences.
//!
//!     position = past[s] + t − starts[s], page = pages[s, position / 16], place = position % 16     s = sequence_of[t]
//!     keys[page, g, e, place] = k[t, g · d_head + e];  values[page, g, place, e] = v[t, g · d_head + e]
//!
//! On a CPU one page holds 16 tokens of one layer and one KV head as keys transposed, `[d_head][16]` (lanes are tokens), then
//! values `[16][padded(d_head)]` (lanes are dimensions); the KV heads of a layer follow each other. page_stride is in elements.
//! Bound by memory.

use crate::kernel::{Cost, Counts, Elem, Param, padded};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
pub mod hopper;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// KV heads.
    pub n_kv_heads: usize,
    /// Dimensions of a head.
    pub d_head: usize,
    /// Stored type of the cache: f32 or bf16.
    pub format: Elem,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        format!("kv_append_{}_g{}_e{}", self.format.name(), self.n_kv_heads, self.d_head)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        let row = &[padded(self.n_kv_heads * self.d_head)];
        vec![
            Param::read("k", Elem::F32, row),
            Param::read("v", Elem::F32, row),
            Param::read_write("cache", self.format, &[]),
            Param::read("sequence_of", Elem::I32, &[]),
            Param::read("starts", Elem::I32, &[]),
            Param::read("past", Elem::I32, &[]),
            Param::read("pages", Elem::I32, &[]),
            Param::scalar("tokens"),
            Param::scalar("page_stride"),
            Param::scalar("pages_per_sequence"),
        ]
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let elements = (counts.tokens * 2 * self.n_kv_heads * self.d_head) as f64;
        Cost { bytes: elements * (4 + self.format.bytes()) as f64, flops: 0.0 }
    }
}

/// Elements of one page's keys and values in one layer.
pub fn page_elements(n_kv_heads: usize, d_head: usize) -> usize {
    n_kv_heads * head_elements(d_head)
}

/// Elements of one KV head's keys and values in one page.
pub fn head_elements(d_head: usize) -> usize {
    PAGE_TOKENS * (d_head + padded(d_head))
}

/// Tokens of a page.
pub const PAGE_TOKENS: usize = jamba_plan::format::KV_PAGE_TOKENS as usize;
