//! The combination of attention's splits, with hand-made partial sums: maxima so far apart that every lane needs the global
//! maximum, more splits than lanes, and no data after the last split.

use std::panic::{AssertUnwindSafe, catch_unwind};

use jambac_harness::{Arg, Kernel, Runner, SEEDS, counts, ptx_of, random};
use jambac_kernels::attention::{self, hopper::decode};
use jambac_kernels::hopper::facts::N_SMS;
use jambac_kernels::kernel::{Config, Elem};
use jambac_kernels::kv_append::PAGE_TOKENS;
use jambac_reference::compare;
use ptxsim::mutate::{Kind, sites};

use super::attention::{CLOSE, TINY};
use super::pages::Heads;

const WIDE: Heads = Heads { n_heads: 3, n_kv_heads: 3, d_head: 136 };

/// Smallest number of tokens in the pages of a split.
const SPLIT_TOKENS: usize = 16 * PAGE_TOKENS;

/// Partial results of each sequence's splits, and the expected attention.
struct Splits {
    spec: decode::Spec,
    /// Tokens of each sequence.
    lengths: Vec<usize>,
    partials: Vec<f32>,
    expected: Vec<f32>,
}

impl Splits {
    /// Sequences with these numbers of splits. If one maximum is far larger than the others, a lane that does not know it
    /// divides infinities.
    fn new(heads: Heads, n_splits: &[usize]) -> Splits {
        let spec = heads.decode();
        let (stride, rows) = (spec.partial_stride(), spec.max_splits());
        let mut partials = vec![f32::NAN; n_splits.len() * heads.n_heads * rows * stride];
        let mut expected = Vec::new();
        for (row, (s, head)) in (0..n_splits.len()).flat_map(|s| (0..heads.n_heads).map(move |h| (s, h))).enumerate() {
            let n = n_splits[s];
            let greatest = (7 * s + 5 * head + 1) % n;
            let (mut sums, mut total) = (vec![0.0_f64; heads.d_head], 0.0_f64);
            let numbers = random(row as u64 + 1, n * (heads.d_head + 2));
            for (i, numbers) in numbers.chunks_exact(heads.d_head + 2).enumerate() {
                // In odd rows the maxima are similar, so every split has weight.
                let far = if row % 2 == 0 && i == greatest { 200.0 } else { 0.0 };
                let (maximum, of_split) = (far + 3.0 * numbers[0], 1.5 + numbers[1]);
                let at = (row * rows + i) * stride;
                partials[at..at + heads.d_head].copy_from_slice(&numbers[2..]);
                partials[at + stride - 4..at + stride - 2].copy_from_slice(&[maximum, of_split]);
                let weight = f64::from(maximum).exp2();
                sums.iter_mut().zip(&numbers[2..]).for_each(|(sum, &x)| *sum += weight * f64::from(x));
                total += weight * f64::from(of_split);
            }
            expected.extend(sums.iter().map(|sum| (sum / total) as f32));
        }
        let lengths = n_splits.iter().map(|n| n * SPLIT_TOKENS).collect();
        Splits { spec, lengths, partials, expected }
    }

    fn kernel(&self) -> Kernel {
        let decode::Spec { n_heads, n_kv_heads, d_head, scale } = self.spec;
        let attention = attention::Spec { n_heads, n_kv_heads, d_head, scale, format: Elem::Bf16, appends: false };
        Kernel::of(attention, Config::Decode)
    }

    /// Whether the kernel computes the expected attention.
    fn are_summed(&self, kernels: &Runner, seed: u64) -> bool {
        let n = self.lengths.len();
        let past = self.lengths.iter().map(|&length| length as i32 - 1).collect();
        let out = Arg::unwritten(self.spec.n_heads * self.spec.d_head, n).of(Elem::Bf16);
        let args = [Arg::F32(self.partials.clone()), Arg::I32(past), out, Arg::Scalar(n)];
        let found = kernels.run(seed, &self.kernel(), counts(n, n, 0), &args);
        compare(&found[0].f32(), &self.expected, CLOSE).ok()
    }
}

#[test]
fn splits_are_summed_by_their_weight() {
    for (heads, n_splits) in [(TINY, &[1, 2, 31, 32, 33, 70, N_SMS][..]), (WIDE, &[1, 40, 88])] {
        let splits = Splits::new(heads, n_splits);
        assert!(n_splits.iter().all(|&n| splits.spec.splits(n * SPLIT_TOKENS).1 == n), "{n_splits:?}");
        let kernels = Runner::hopper(&[splits.kernel()]);
        assert!(SEEDS.iter().all(|&seed| splits.are_summed(&kernels, seed)), "{heads:?}");
    }
}

/// If one of the five shuffles is missing, some lane does not know the global maximum.
#[test]
fn mutants_of_combine_are_caught() {
    let splits = Splits::new(TINY, &[N_SMS, 33, 70]);
    let ptx = ptx_of(&[splits.kernel()]);
    let is_right =
        |ptx: &str| catch_unwind(AssertUnwindSafe(|| splits.are_summed(&Runner::of_ptx(ptx), 1))).unwrap_or(false);
    assert!(is_right(&ptx), "the kernel itself is wrong");
    let sites = sites(&ptx).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(sites.iter().map(|site| site.kind).collect::<Vec<_>>(), [Kind::DropShuffle; 5]);
    let missed: Vec<String> =
        sites.iter().filter(|site| is_right(&site.apply(&ptx))).map(ToString::to_string).collect();
    assert!(missed.is_empty(), "not caught:\n{}", missed.join("\n"));
}
