//! Sampling on the device compared with the runtime's sampler on the host: equal tokens for equal logits, options and draws.

use std::panic::{AssertUnwindSafe, catch_unwind};

use jamba_runtime::sample::{Sampler, SamplerOptions, greedy};
use jambac_harness::{Arg, Kernel, Runner, SEEDS, counts, ptx_of, random};
use jambac_kernels::sample::hopper::NO_TOKEN;
use jambac_kernels::sample::hopper::argmax::Spec as Argmax;
use jambac_kernels::sample::hopper::draw::{Setting, Spec as Draw};
use ptxsim::mutate::{Kind, Site, sites};
use rand_pcg::Pcg64;
use rand_pcg::rand_core::{RngCore, SeedableRng};

const VOCABS: [usize; 5] = [1, 7, 130, 512, 5001];

/// Rows of a vocabulary in which few tokens dominate.
fn rows(vocab: usize, n: usize) -> Vec<f32> {
    random(1, vocab * n).iter().map(|x| 6.0 * x.powi(3) + 2.0 * x).collect()
}

fn run(kernels: &Runner, seed: u64, kernel: &Kernel, vocab: usize, logits: &[f32], more: &[Arg]) -> Vec<i32> {
    let n = logits.len() / vocab;
    let mut args = vec![Arg::f32_rows(vocab, logits)];
    args.extend_from_slice(more);
    args.extend([Arg::UnwrittenDense(n), Arg::Scalar(n)]);
    // More blocks than rows: the last find nothing to do.
    kernels.run(seed, kernel, counts(1, 1, n + 2), &args)[0].i32().to_vec()
}

fn argmax(vocab: usize) -> Kernel {
    Argmax { vocab }.into()
}

fn draw(vocab: usize) -> Kernel {
    Draw { vocab }.into()
}

/// A kernel for each way to pick tokens.
pub(super) fn kernels() -> [Kernel; 2] {
    [argmax(VOCABS[0]), draw(VOCABS[0])]
}

fn settings(settings: &[Setting]) -> Arg {
    Arg::I32(settings.iter().flat_map(Setting::words).collect())
}

/// The host's picks for the rows in order, and the settings that a device needs to reproduce them.
fn on_host(options: &SamplerOptions, vocab: usize, logits: &[f32]) -> (Vec<i32>, Vec<Setting>) {
    let seed = options.seed.unwrap_or(0);
    let options = &SamplerOptions { seed: Some(seed), ..options.clone() };
    let mut sampler = Sampler::new(options.clone(), vocab).expect("options in range");
    let mut random = Pcg64::seed_from_u64(seed);
    let &SamplerOptions { temperature, top_k, top_p, min_p, .. } = options;
    logits
        .chunks_exact(vocab)
        .map(|row| {
            let token = sampler.pick(row).map_or(NO_TOKEN, |token| token as i32);
            (token, Setting { temperature, top_k: top_k as u32, top_p, min_p, draw: random.next_u64() })
        })
        .unzip()
}

#[test]
fn the_likeliest_is_the_hosts() {
    let kernels: Vec<Kernel> = VOCABS.map(argmax).to_vec();
    let compiled = Runner::hopper(&kernels);
    for seed in SEEDS {
        for (kernel, vocab) in kernels.iter().zip(VOCABS) {
            let mut logits = rows(vocab, 6);
            if vocab > 100 {
                let at = |row: usize, token: usize| row * vocab + token;
                // Ties are broken by lowest index, in whichever thread; −0 equals 0; NaN is never picked.
                [90, 17, 120].iter().for_each(|&token| logits[at(0, token)] = 50.0);
                logits[at(1, 3)] = f32::NAN;
                logits[at(2, 0)] = -f32::NAN;
                logits[at(3, 0)..at(4, 0)].iter_mut().for_each(|x| *x = -1.0 - x.abs());
                [(40, 0.0), (39, -0.0), (50, 0.0)].iter().for_each(|&(token, x)| logits[at(3, token)] = x);
                logits[at(4, 100)] = f32::MAX;
            }
            let expected: Vec<i32> =
                logits.chunks_exact(vocab).map(|row| greedy(row).expect("finite") as i32).collect();
            assert_eq!(run(&compiled, seed, kernel, vocab, &logits, &[]), expected, "{vocab} logits, seed {seed}");
        }
    }
}

#[test]
fn a_row_without_a_finite_largest_gives_no_token() {
    let vocab = 130;
    let compiled = Runner::hopper(&[argmax(vocab), draw(vocab)]);
    let mut logits = rows(vocab, 4);
    logits[..vocab].fill(f32::NAN);
    logits[vocab..2 * vocab].fill(f32::NEG_INFINITY);
    logits[2 * vocab + 77] = f32::INFINITY;
    assert!(logits.chunks_exact(vocab).take(3).all(|row| greedy(row).is_err()));
    let last = greedy(&logits[3 * vocab..]).expect("finite") as i32;
    let expected = [NO_TOKEN, NO_TOKEN, NO_TOKEN, last];
    assert_eq!(run(&compiled, 1, &argmax(vocab), vocab, &logits, &[]), expected);
    // The largest draw is still below the sum.
    let setting = Setting { temperature: 0.001, top_k: 0, top_p: 1.0, min_p: 0.0, draw: u64::MAX };
    assert_eq!(run(&compiled, 1, &draw(vocab), vocab, &logits, &[settings(&[setting; 4])]), expected);
}

/// Each option alone and in combination, also at the limits of its range.
fn all_options() -> Vec<SamplerOptions> {
    let warm = SamplerOptions { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..SamplerOptions::GREEDY };
    let with = |change: &dyn Fn(&mut SamplerOptions)| {
        let mut options = warm.clone();
        change(&mut options);
        options
    };
    vec![
        warm.clone(),
        with(&|o| o.temperature = 0.0),
        with(&|o| o.temperature = 0.01),
        with(&|o| o.temperature = 30.0),
        with(&|o| o.top_k = 1),
        with(&|o| o.top_k = 5),
        with(&|o| o.top_k = 100_000),
        with(&|o| o.top_p = 0.9),
        with(&|o| o.top_p = 1e-6),
        with(&|o| o.top_p = 0.999_999),
        with(&|o| o.min_p = 0.05),
        with(&|o| (o.top_k, o.top_p) = (40, 0.95)),
        with(&|o| (o.temperature, o.top_k, o.top_p, o.min_p) = (0.8, 200, 0.9, 0.01)),
    ]
}

#[test]
fn draws_are_the_hosts() {
    let kernels: Vec<Kernel> = VOCABS.map(draw).to_vec();
    let compiled = Runner::hopper(&kernels);
    for (kernel, vocab) in kernels.iter().zip(VOCABS) {
        let n = if vocab > 1000 { 6 } else { 24 };
        let mut logits = rows(vocab, n);
        if vocab > 100 {
            (0..n).for_each(|row| logits[row * vocab + 3 + row] = f32::NAN);
            (0..n).for_each(|row| logits[row * vocab + 60 + row] = f32::NEG_INFINITY);
        }
        for (number, options) in all_options().into_iter().enumerate() {
            let options = SamplerOptions { seed: Some(number as u64), ..options };
            let (expected, rows) = on_host(&options, vocab, &logits);
            for seed in [1, 2] {
                let found = run(&compiled, seed, kernel, vocab, &logits, &[settings(&rows)]);
                assert_eq!(found, expected, "{vocab} logits, {options:?}, seed {seed}");
            }
        }
    }
}

/// Logits with few distinct values: the cutoffs of top-k and top-p fall among ties, and lower indices are kept.
#[test]
fn of_tokens_alike_the_lower_are_kept() {
    let vocab = 512;
    let compiled = Runner::hopper(&[draw(vocab)]);
    let n = 24;
    let logits: Vec<f32> = rows(vocab, n).iter().map(|x| x.round() / 2.0).collect();
    for (number, options) in all_options().into_iter().enumerate() {
        for top_k in [options.top_k, 7, 100] {
            let options = SamplerOptions { seed: Some(90 + number as u64), top_k, ..options.clone() };
            let (expected, rows) = on_host(&options, vocab, &logits);
            assert_eq!(run(&compiled, 1, &draw(vocab), vocab, &logits, &[settings(&rows)]), expected, "{options:?}");
        }
    }
}

#[test]
fn rows_have_settings_of_their_own() {
    let vocab = 512;
    let compiled = Runner::hopper(&[draw(vocab)]);
    let options = all_options();
    let logits = rows(vocab, options.len());
    let (expected, rows): (Vec<i32>, Vec<Setting>) = options
        .iter()
        .zip(logits.chunks_exact(vocab))
        .map(|(options, row)| {
            let (tokens, settings) = on_host(options, vocab, row);
            (tokens[0], settings[0])
        })
        .unzip();
    assert_eq!(run(&compiled, 3, &draw(vocab), vocab, &logits, &[settings(&rows)]), expected);
}

/// The vocabulary of the family.
#[test]
fn a_large_vocabulary_draws_as_the_host() {
    let vocab = 65_536;
    let compiled = Runner::hopper(&[argmax(vocab), draw(vocab)]);
    let logits = rows(vocab, 3);
    let likeliest: Vec<i32> = logits.chunks_exact(vocab).map(|row| greedy(row).expect("finite") as i32).collect();
    assert_eq!(run(&compiled, 1, &argmax(vocab), vocab, &logits, &[]), likeliest);
    let warm =
        SamplerOptions { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: Some(11), ..SamplerOptions::GREEDY };
    for options in
        [warm.clone(), SamplerOptions { top_k: 50, top_p: 0.9, ..warm.clone() }, SamplerOptions { top_p: 0.95, ..warm }]
    {
        let (expected, rows) = on_host(&options, vocab, &logits);
        assert_eq!(run(&compiled, 1, &draw(vocab), vocab, &logits, &[settings(&rows)]), expected, "{options:?}");
    }
}

/// Every barrier is necessary: without it the draw faults or differs.
#[test]
fn mutants_of_the_draw_are_caught() {
    let (vocab, n) = (512, 8);
    let ptx = ptx_of(&[draw(vocab)]);
    let logits: Vec<f32> = rows(vocab, n).iter().map(|x| x.round() / 2.0).collect();
    let options = SamplerOptions { temperature: 1.0, top_k: 7, top_p: 0.9, seed: Some(97), ..SamplerOptions::GREEDY };
    let (expected, rows) = on_host(&options, vocab, &logits);
    let is_right = |ptx: &str, seed: u64| {
        let draw = || run(&Runner::of_ptx(ptx), seed, &draw(vocab), vocab, &logits, &[settings(&rows)]);
        catch_unwind(AssertUnwindSafe(draw)).is_ok_and(|found| found == expected)
    };
    assert!(is_right(&ptx, 1), "the kernel itself is wrong");
    let sites = sites(&ptx).unwrap_or_else(|error| panic!("{error}"));
    // Shuffles are arithmetic, which the tests above cover.
    let sites: Vec<Site> = sites.into_iter().filter(|site| site.kind != Kind::DropShuffle).collect();
    assert!(sites.len() >= 20, "{} mutants", sites.len());
    let caught = |site: &Site| (1..4).any(|seed| !is_right(&site.apply(&ptx), seed));
    let missed: Vec<String> = sites.iter().filter(|site| !caught(site)).map(ToString::to_string).collect();
    assert!(missed.is_empty(), "of {} mutants these are not caught:\n{}", sites.len(), missed.join("\n"));
}
