//! Causal attention over paged keys and values, softmax online (arXiv 2205.14135), no positions.
//!
//!     out[t, h, :] = Σⱼ softmaxⱼ(scale · q[t, h, :] · key[j]) · value[j]       j from 0 to the token's own position
//!
//! On a CPU one page holds 16 tokens of one layer and one KV head as keys transposed, `[d_head][16]` (lanes are tokens), then
//! values `[16][padded(d_head)]` (lanes are dimensions); the KV heads of a layer follow each other. page_stride is in elements.
//! Query head h reads KV head h / (n_heads / n_kv_heads). One page after the other, from the first: the order of the
//! sums depends on the token's position alone. Threads split (block of tokens, head).
//! Where it appends, each sequence has one token: its key and value (`k`, `v`) join the cache, rounded to the stored type, as
//! [`crate::kv_append`] has it, and it sees them; the sums are those of appending first.
//! Bound by memory when decoding (the cache once), by multiply-adds when prefilling.

use crate::kernel::{Cost, Counts, Elem, Param, padded};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
pub mod hopper;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Query heads.
    pub n_heads: usize,
    /// KV heads.
    pub n_kv_heads: usize,
    /// Dimensions of a head.
    pub d_head: usize,
    /// Multiplies the scores.
    pub scale: f64,
    /// Stored type of the cache: f32 or bf16.
    pub format: Elem,
    /// True when the keys and values of the step's tokens, one of each sequence, join the cache here.
    pub appends: bool,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        let appends = if self.appends { "append_" } else { "" };
        format!(
            "{appends}attention_{}_h{}_g{}_e{}_s{:x}",
            self.format.name(),
            self.n_heads,
            self.n_kv_heads,
            self.d_head,
            (self.scale as f32).to_bits()
        )
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        let row = &[padded(self.n_heads * self.d_head)];
        let kv_row = &[padded(self.n_kv_heads * self.d_head)];
        let mut params = vec![Param::read("q", Elem::F32, row)];
        if self.appends {
            params.extend(["k", "v"].map(|name| Param::read(name, Elem::F32, kv_row)));
            params.push(Param::read_write("cache", self.format, &[]));
        } else {
            params.push(Param::read("cache", self.format, &[]));
        }
        params.extend([
            Param::read("sequence_of", Elem::I32, &[]),
            Param::read("starts", Elem::I32, &[]),
            Param::read("past", Elem::I32, &[]),
            Param::read("pages", Elem::I32, &[]),
            Param::write("out", Elem::F32, row),
            Param::scalar("tokens"),
            Param::scalar("page_stride"),
            Param::scalar("pages_per_sequence"),
        ]);
        params
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let cached = (counts.sequences * counts.context * 2 * self.n_kv_heads * self.d_head) as f64;
        let rows = (counts.tokens * self.n_heads * self.d_head) as f64;
        Cost { bytes: cached * self.format.bytes() as f64 + rows * 8.0, flops: 4.0 * rows * counts.context as f64 }
    }
}
