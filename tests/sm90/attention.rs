//! kv_append and attention for sm_90a: pages in any order, contexts around the sizes of pages, tiles and splits, tokens divided
//! into any steps.

use jamba_plan::format::TargetKind;
use jambac_graph::DType;
use jambac_harness::{Runner, assert_close, assert_same_bits, random, rounded};
use jambac_kernels::attention;
use jambac_kernels::cases;
use jambac_kernels::catalog::AnySpec;
use jambac_kernels::hopper::facts;
use jambac_kernels::kernel::Kernel as _;
use jambac_kernels::kv_append::PAGE_TOKENS;
use jambac_kernels::kv_append::hopper::{BLOCK_COLUMNS, Side, blocks};
use jambac_kernels::node::Select as _;
use jambac_reference::Tolerance;
use jambac_reference::attention::{Heads as ReferenceHeads, attention as reference, kv_append as append};
use ptxsim::Options;

use super::pages::{Device, Heads};
use crate::kernels::steps::{Batch, Division};

const N_SMS: u32 = facts::N_SMS as u32;

pub const TINY: Heads = Heads { n_heads: 4, n_kv_heads: 2, d_head: 32 };
const MINI: Heads = Heads { n_heads: 32, n_kv_heads: 8, d_head: 128 };
const REASONING_3B: Heads = Heads { n_heads: 20, n_kv_heads: 1, d_head: 128 };

/// Fewer columns than a vector has, and more than a block.
const NARROW: Heads = Heads { n_heads: 3, n_kv_heads: 1, d_head: 9 };
const WIDE: Heads = Heads { n_heads: 2, n_kv_heads: 2, d_head: 72 };

/// The heads of the cases that Hopper supports, without those of whole models.
fn small_heads() -> Vec<Heads> {
    let of = |case: cases::Case| match case.kernel {
        AnySpec::Attention(spec) if spec.supports(TargetKind::Sm90a).is_ok() => {
            Some(Heads { n_heads: spec.n_heads, n_kv_heads: spec.n_kv_heads, d_head: spec.d_head })
        }
        _ => None,
    };
    attention::Spec::cases().into_iter().filter_map(of).filter(|heads| heads.q_cols() <= 512).collect()
}

/// Probabilities and results are rounded to bf16, with a relative error of up to 2⁻⁹ each; values are below 1.
pub const CLOSE: Tolerance = Tolerance { abs: 1.05 / 256.0, rel: 0.0 };

/// Queries, keys and values of a batch.
pub struct Setup {
    heads: Heads,
    batch: Batch,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Setup {
    pub fn new(heads: Heads, lengths: &[usize]) -> Setup {
        let batch = Batch { lengths: lengths.to_vec() };
        let n = batch.n_tokens();
        let rounded = |seed: u64, cols: usize| rounded(&random(seed, n * cols));
        Setup {
            heads,
            // Scaled so that a few keys dominate.
            q: rounded(1, heads.q_cols()).iter().map(|q| 8.0 * q).collect(),
            k: rounded(2, heads.kv_cols()),
            v: rounded(3, heads.kv_cols()),
            batch,
        }
    }

    /// Attention in token order, with the prefill kernel.
    pub fn prefill(&self, kernels: &Runner, options: &Options, division: Division) -> Vec<f32> {
        let mut device = Device::new(self.heads, kernels, options.clone(), &self.batch);
        let mut out = vec![f32::NAN; self.q.len()];
        for step in self.batch.steps(division) {
            device.append(&step, &self.k, &self.v);
            step.scatter(self.heads.q_cols(), &device.prefill(&step, &self.q), &mut out);
        }
        out
    }

    /// Attention of the last `n` tokens of each sequence, one after the other, with the decode kernels.
    pub fn decode(&self, kernels: &Runner, options: &Options, n: usize) -> Vec<f32> {
        let mut device = Device::new(self.heads, kernels, options.clone(), &self.batch);
        let mut out = vec![f32::NAN; self.q.len()];
        let before: Vec<usize> = self.batch.lengths.iter().map(|length| length.saturating_sub(n)).collect();
        let all = |lengths: &[usize]| (0..lengths.len()).filter(|&s| lengths[s] > 0).collect::<Vec<_>>();
        let sequences = all(&before);
        let lengths: Vec<usize> = sequences.iter().map(|&s| before[s]).collect();
        if !sequences.is_empty() {
            device.append(&self.batch.step(sequences, vec![0; lengths.len()], lengths), &self.k, &self.v);
        }
        for nth in 0..n {
            let sequences: Vec<usize> =
                (0..before.len()).filter(|&s| before[s] + nth < self.batch.lengths[s]).collect();
            let past: Vec<usize> = sequences.iter().map(|&s| before[s] + nth).collect();
            let step = self.batch.step(sequences.clone(), past, vec![1; sequences.len()]);
            device.append(&step, &self.k, &self.v);
            step.scatter(self.heads.q_cols(), &device.decode(&step, &self.q), &mut out);
        }
        out
    }

    /// Attention of the last token of a single sequence whose pages occur `times` times in the page table, which gives the same
    /// result as once.
    pub fn decode_repeated(&self, kernels: &Runner, options: &Options, times: usize) -> Vec<f32> {
        let length = self.batch.lengths[0];
        assert!(self.batch.lengths.len() == 1 && length.is_multiple_of(PAGE_TOKENS), "one sequence of whole pages");
        let mut device = Device::new(self.heads, kernels, options.clone(), &self.batch);
        self.batch.steps(Division::Whole).iter().for_each(|step| device.append(step, &self.k, &self.v));
        device.repeat(0, times);
        let mut step = self.batch.step(vec![0], vec![length - 1], vec![1]);
        step.past = vec![times * length - 1];
        device.decode(&step, &self.q)
    }

    pub fn expected(&self) -> Vec<f32> {
        let Heads { n_heads, n_kv_heads, d_head } = self.heads;
        let empty: Vec<Vec<f32>> = vec![Vec::new(); self.batch.lengths.len()];
        let caches = append(&empty, &self.k, &self.v, self.heads.kv_cols(), &self.batch.lengths, DType::Bf16);
        let heads = ReferenceHeads { n_heads, n_kv_heads, d_head, scale: self.heads.scale() };
        reference(&self.q, &caches, &self.batch.lengths, heads)
    }

    /// Combines two results: rows of the last `n` tokens of each sequence from `result`, the others from `other`.
    pub fn last(&self, n: usize, result: &[f32], other: &[f32]) -> Vec<f32> {
        let cols = self.heads.q_cols();
        let is_last = self.batch.lengths.iter().flat_map(|&length| (0..length).map(move |t| t + n >= length));
        is_last
            .enumerate()
            .flat_map(
                |(row, is_last)| if is_last { &result[row * cols..][..cols] } else { &other[row * cols..][..cols] },
            )
            .copied()
            .collect()
    }
}

/// A device with few multiprocessors: blocks process several pieces of work.
fn options(seed: u64, n_sms: u32) -> Options {
    Options { seed, n_sms, ..Options::default() }
}

#[test]
fn appended_keys_and_values_lie_where_they_should() {
    for heads in [TINY, NARROW, WIDE, MINI] {
        let kernels = heads.kernels();
        let setup = Setup::new(heads, &[1, 15, 16, 17, 35]);
        for division in Division::ALL {
            let mut device = Device::new(heads, &kernels, options(1, N_SMS), &setup.batch);
            for step in setup.batch.steps(division) {
                device.append(&step, &setup.k, &setup.v);
            }
            let mut first = 0;
            for (s, &length) in setup.batch.lengths.iter().enumerate() {
                for position in 0..length.next_multiple_of(PAGE_TOKENS) {
                    for (side, rows) in [(Side::Key, &setup.k), (Side::Value, &setup.v)] {
                        for (head, column) in (0..heads.n_kv_heads).flat_map(|head| {
                            (0..blocks(heads.d_head) * BLOCK_COLUMNS).map(move |column| (head, column))
                        }) {
                            let inside = position < length && column < heads.d_head;
                            let at = (first + position) * heads.kv_cols() + head * heads.d_head + column;
                            let expected = if inside { rows[at] } else { 0.0 };
                            let found = device.cached([s, position], head, side, column);
                            assert_eq!(
                                found,
                                Some(expected),
                                "{heads:?} {division:?}: {side:?} {s} {position} {column}"
                            );
                        }
                    }
                }
                first += length;
            }
        }
    }
}

#[test]
fn prefill_agrees_with_the_reference_however_divided() {
    for heads in small_heads() {
        let kernels = heads.kernels();
        let setup = Setup::new(heads, &[1, 15, 16, 17, 70]);
        let whole = setup.prefill(&kernels, &options(1, 3), Division::Whole);
        assert_close(&format!("{heads:?}"), &whole, &setup.expected(), CLOSE);
        for (division, n_sms) in [(Division::Chunks(5), N_SMS), (Division::Chunks(16), 2), (Division::OneByOne, 1)] {
            let found = setup.prefill(&kernels, &options(1, n_sms), division);
            assert_same_bits(&format!("{heads:?}, {division:?}"), &found, &whole);
        }
    }
}

#[test]
fn prefill_of_the_family_agrees() {
    for heads in [MINI, REASONING_3B] {
        let kernels = heads.kernels();
        let setup = Setup::new(heads, &[3, 150]);
        let expected = setup.expected();
        let whole = setup.prefill(&kernels, &options(2, 5), Division::Whole);
        assert_close(&format!("{heads:?}"), &whole, &expected, CLOSE);
        let found = setup.prefill(&kernels, &options(2, N_SMS), Division::Chunks(77));
        assert_same_bits(&format!("{heads:?} in chunks"), &found, &whole);
    }
}

#[test]
fn any_order_of_warps_and_copies_gives_the_same_prefill() {
    let kernels = TINY.kernels();
    let setup = Setup::new(TINY, &[200, 7]);
    // Approximate functions depend on the seed.
    let exact = |seed| Options { exact_math: true, ..options(seed, 2) };
    let first = setup.prefill(&kernels, &exact(0), Division::Whole);
    for seed in 1..6 {
        assert_same_bits(&format!("seed {seed}"), &setup.prefill(&kernels, &exact(seed), Division::Whole), &first);
    }
}

#[test]
fn decode_agrees_with_the_reference() {
    for heads in small_heads().into_iter().chain([MINI, REASONING_3B]) {
        let kernels = heads.kernels();
        let setup = Setup::new(heads, &[1, 15, 16, 17, 66, 300]);
        let expected = setup.expected();
        let found = setup.decode(&kernels, &options(1, 3), 2);
        assert_close(&format!("{heads:?}"), &setup.last(2, &found, &expected), &expected, CLOSE);
    }
}

#[test]
fn decode_has_the_same_bits_alone_and_in_a_batch() {
    let kernels = TINY.kernels();
    let exact = |seed, n_sms| Options { exact_math: true, ..options(seed, n_sms) };
    // Around the split sizes, 256 and 512 tokens.
    let setup = Setup::new(TINY, &[256, 3, 257, 513, 40]);
    let found = setup.decode(&kernels, &exact(0, N_SMS), 1);
    assert_close("in a batch", &setup.last(1, &found, &setup.expected()), &setup.expected(), CLOSE);
    for seed in 1..4 {
        assert_same_bits(&format!("seed {seed}"), &setup.decode(&kernels, &exact(seed, 1), 1), &found);
    }
    let (q_cols, kv_cols) = (TINY.q_cols(), TINY.kv_cols());
    let mut first = 0;
    for &length in &setup.batch.lengths {
        let rows = |cols: usize, all: &[f32]| all[first * cols..(first + length) * cols].to_vec();
        let alone = Setup {
            heads: TINY,
            batch: Batch { lengths: vec![length] },
            q: rows(q_cols, &setup.q),
            k: rows(kv_cols, &setup.k),
            v: rows(kv_cols, &setup.v),
        };
        let alone = alone.decode(&kernels, &exact(9, 7), 1);
        assert_same_bits(&format!("{length} tokens alone"), &alone, &rows(q_cols, &found));
        first += length;
    }
}

/// Ten pages per warp in each split, so that its ring of eight wraps around.
pub const LONG: usize = 2640;

#[test]
fn a_long_context_goes_round_the_ring() {
    let setup = Setup::new(TINY, &[2 * PAGE_TOKENS]);
    assert_eq!(TINY.decode().splits(LONG * 2 * PAGE_TOKENS), (40, N_SMS as usize));
    let found = setup.decode_repeated(&TINY.kernels(), &options(1, 3), LONG);
    let expected = setup.expected();
    assert_close("as once", &found, &expected[expected.len() - TINY.q_cols()..], CLOSE);
}

#[test]
fn an_even_context_is_a_mean() {
    // Zero queries weight all keys equally: the mean of the values 1 … n is (n + 1) / 2.
    let heads = Heads { n_heads: 2, n_kv_heads: 1, d_head: 16 };
    let kernels = heads.kernels();
    let mut setup = Setup::new(heads, &[40]);
    setup.q.fill(0.0);
    setup.v = (0..40).flat_map(|position| [position as f32 + 1.0; 16]).collect();
    let expected: Vec<f32> = (0..40).flat_map(|position| [(position as f32 + 2.0) / 2.0; 32]).collect();
    let found = setup.prefill(&kernels, &options(1, 1), Division::Chunks(7));
    assert_close("prefill", &found, &expected, Tolerance { abs: 0.0, rel: 1.0 / 256.0 });
    let found = setup.decode(&kernels, &options(1, 1), 40);
    assert_close("decode", &found, &expected, Tolerance { abs: 0.0, rel: 1.0 / 256.0 });
}

#[test]
fn a_broken_query_shows() {
    let kernels = TINY.kernels();
    let mut setup = Setup::new(TINY, &[20]);
    let broken = 19 * TINY.q_cols()..19 * TINY.q_cols() + TINY.d_head;
    setup.q[broken.start] = f32::NAN;
    for found in [setup.prefill(&kernels, &options(1, 1), Division::Whole), setup.decode(&kernels, &options(1, 1), 20)]
    {
        for (at, x) in found.iter().enumerate() {
            assert_eq!(x.is_nan(), broken.contains(&at), "element {at}: {x}");
        }
    }
}
