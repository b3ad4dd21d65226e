//! Random sampling of one token per row, with the temperature, top-k, top-p and min-p of the host's sampler.
//!
//! ```text
//! w[v] = exp((logits[v] − largest) / temperature), NaN excluded
//! of the tokens in descending order of likelihood, ties ascending: the first top_k; of these the fewest whose sum reaches
//! top_p · their sum; of these those with w ≥ min_p
//! tokens[i] = the first of them, in token order, with u · sum < the sum up to it;  u = ⌊draw / 2¹¹⌋ / 2⁵³
//! ```
//!
//! A temperature of 0 selects the most likely token, as [`argmax`](super::argmax) does; −1 if no logit is largest and
//! finite.
//!
//! The token equals the host's for the same draw, unless `u · sum` is within rounding of a boundary between two tokens, or
//! `top_p · sum` of a boundary between two prefixes. Weights and sums are f64 on both sides. There are two differences: the
//! exponential has a relative error of 2⁻⁵¹, on the host 2⁻⁵³, and is 0 below e⁻⁷⁰⁰; and sums run over 4 tokens of a
//! thread, then over threads, on the host over tokens one by one. Both move a boundary by about 10⁻¹⁴ of the sum.
//!
//! A bisection of the keys finds the tokens to keep, so the order of threads does not affect the result.
//! Bound by latency: for a draw with top-k and top-p, one SM reads the row about sixty times from L2; exponentials are
//! computed only for the likelier half.
//!
//! 1. the largest logit
//! 2. top-k: the k-th largest key, and the last token to keep among those with exactly this key
//! 3. top-p: the same by weight
//! 4. the sum of the kept weights, and the walk to the fraction u of it

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

/// Random sampling.
///
/// A plan runs it as the last step of an entry: `logits` are the entry's logits in the arena; `settings` is a table of
/// [`Setting::WORDS`] i32 per row, which the host fills before a step with [`Setting::words`]; `tokens` is a buffer that
/// the host reads. The generator stays on the host: one `next_u64` of the sequence's generator per token, as for a draw on
/// the host, so that a sequence may switch between host and device at any token. Penalties, biases and constraints are
/// applied only on the host.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    /// Logits per row.
    pub vocab: usize,
}

impl Kernel for Spec {
    fn supports(&self, target: TargetKind) -> Result<(), Unsupported> {
        super::on_gpus(target)
    }

    fn lower(&self, _: TargetKind, _: Config) -> Vec<Launch> {
        let vocab = self.vocab;
        // With 1024 threads, each would have 64 registers, too few for four exponentials at a time.
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
