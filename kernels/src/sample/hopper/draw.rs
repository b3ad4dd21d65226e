//! A token of each row, drawn from its likely ones: temperature, top-k, top-p and min-p as the host's sampler applies them.
//!
//!     w[v] = exp((logits[v] − largest) / temperature), NaN left out
//!     of the tokens, the likelier first, of equals the lower: the top_k first; of these as many as together reach
//!     top_p · their sum; of these those with w ≥ min_p
//!     tokens[i] = the first of them, in the order of tokens, with u · sum < the sum up to it;  u = ⌊draw / 2¹¹⌋ / 2⁵³
//!
//! A temperature of 0 takes the likeliest, as [`argmax`](super::argmax) does; −1 where no logit is largest and finite.
//!
//! The token is the host's for the same draw, unless `u · sum` is within rounding of a boundary between two tokens, or
//! `top_p · sum` of one between two prefixes. Weights and sums are f64 on both sides. They differ in two things: the exponential
//! is good to 2⁻⁵¹, the host's to 2⁻⁵³, and is 0 below e⁻⁷⁰⁰; and sums run over 4 tokens of a thread, then over threads, the
//! host's over tokens one by one. Both move a boundary by some 10⁻¹⁴ of the sum.
//!
//! A bisection of the keys finds the tokens to keep: no order of threads reaches a result.
//! Bound by latency: a draw with top-k and top-p reads its row some sixty times from the second-level cache, by one
//! multiprocessor; exponentials are taken of the likelier half only.
//!
//! 1. the largest
//! 2. top-k: the k-th largest key, and the last token that is kept of those that have it exactly
//! 3. top-p: the same by weight
//! 4. the sum of the kept weights, and the walk to its share u

use jamba_plan::format::{Table, TargetKind};

use crate::hopper::facts::WARP;
use crate::hopper::operand::read;
use crate::hopper::row_threads;
use crate::kernel::{
    Amount, Blocks, Config, Cost, Elem, Grid, Kernel, Launch, Operand, Param, Per, Unsupported, hopper_body,
};

pub use jamba_plan::format::Setting;

#[cfg(feature = "emit")]
pub(crate) use emit::emit;

#[cfg(feature = "emit")]
mod emit;

/// What the kernel computes.
///
/// A plan runs it as the last step of an entry: `logits` is the entry's logits in the arena; `settings` a table of
/// [`Setting::WORDS`] i32 for each row, which the host fills before a step with [`Setting::words`]; `tokens` a buffer that the
/// host reads. The generator stays on the host: one `next_u64` of the sequence's own for each
/// token, as for a draw there, so that a sequence may change between host and device from token to token. Penalties, biases and
/// constraints are the host's alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Logits in a row.
    pub vocab: usize,
}

impl Kernel for Spec {
    fn supports(&self, target: TargetKind) -> Result<(), Unsupported> {
        super::on_gpus(target)
    }

    fn lower(&self, _: TargetKind, _: Config) -> Vec<Launch> {
        let vocab = self.vocab;
        // With 1024 threads each would have 64 registers, too few for four exponentials at a time.
        let threads = row_threads(vocab).min(512);
        let settings =
            Operand { param: Param::read("settings", Elem::I32, &[Setting::WORDS]), ..Operand::table(Table::Settings) };
        vec![Launch {
            op: "sample",
            symbol: format!("sample_draw_v{vocab}_sm90"),
            operands: vec![
                read("logits", Elem::F32, vocab, 0),
                settings,
                super::tokens(),
                Operand::count("outputs", Per::Output),
            ],
            cost: Cost {
                bytes: Amount { outputs: 4.0 * (vocab + Setting::WORDS + 1) as f64, ..Amount::default() },
                operations: Amount { outputs: 20.0 * vocab as f64, ..Amount::default() },
            },
            grid: Some(Grid::along_x(
                Blocks::Of { per: Per::Output, factor: 1, per_block: 1 },
                threads,
                8 * (threads / WARP),
            )),
            body: hopper_body!(self, emit),
        }]
    }
}
