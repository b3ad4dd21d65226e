//! linear with bf16 weights on levels with bf16 instructions: the bits of the instructions' arithmetic in plain Rust.

use half::bf16;
use jambac_graph::Activation;
use jambac_harness::{Arg, Conditions, Runner, assert_same_bits, counts, random};
use jambac_kernels::catalog::AnySpec;
use jambac_kernels::kernel::{Elem, LANES, padded};
use jambac_kernels::linear::Spec;

use super::{BF16_PAIRS, BF16_TILES};

/// Inputs that a tile multiplies at a time.
const STEP: usize = 32;

/// A subnormal number as zero, as both instructions read and write it.
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0.0f32.copysign(x) } else { x }
}

fn multiply_add(x: bf16, y: bf16, sum: f32) -> f32 {
    flush(flush(x.to_f32()).mul_add(flush(y.to_f32()), flush(sum)))
}

/// Inputs with zeros up to a multiple of `n`.
fn filled(x: &[bf16], n: usize) -> Vec<bf16> {
    let mut x = x.to_vec();
    x.resize(x.len().next_multiple_of(n), bf16::ZERO);
    x
}

/// VDPBF16PS: of each pair the second product is added first.
fn sum_of_pairs(x: &[bf16], weights: &[bf16]) -> f32 {
    let (x, weights) = (filled(x, 2), filled(weights, 2));
    let pairs = x.chunks_exact(2).zip(weights.chunks_exact(2));
    pairs.fold(0.0, |sum, (x, w)| multiply_add(x[0], w[0], multiply_add(x[1], w[1], sum)))
}

/// TDPBF16PS: even and odd inputs of each 32 have sums of their own.
fn sum_of_tiles(x: &[bf16], weights: &[bf16]) -> f32 {
    let (x, weights) = (filled(x, STEP), filled(weights, STEP));
    x.chunks_exact(STEP).zip(weights.chunks_exact(STEP)).fold(0.0, |sum, (x, w)| {
        let parts = [0, 1].map(|part| {
            let terms = x.iter().zip(w).skip(part).step_by(2);
            terms.fold(0.0, |sum, (&x, &w)| multiply_add(x, w, sum))
        });
        flush(sum + flush(parts[0] + parts[1]))
    })
}

/// Panels of 16 outputs, `[k][16]`.
fn pack(weights: &[bf16], n: usize, k: usize) -> Arg {
    let panels = (0..padded(n)).step_by(LANES);
    let lanes = panels.flat_map(|panel| (0..k).flat_map(move |j| (panel..panel + LANES).map(move |i| (i, j))));
    let numbers = lanes.map(|(i, j)| if i < n { weights[i * k + j] } else { bf16::ZERO });
    Arg::bytes(numbers.flat_map(|number| number.to_le_bytes()).collect()).of(Elem::Bf16)
}

/// Numbers of many magnitudes, zeros and subnormal numbers among them.
fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let scale = |at: usize| match at % 97 {
        13 => 0.0,
        29 => 1e-39,
        31 => 3e-20,
        53 => 1e6,
        _ => 1.0,
    };
    random(seed, n).iter().enumerate().map(|(at, x)| x * scale(at)).collect()
}

#[test]
fn linear_of_bf16_inputs_has_the_bits_of_its_arithmetic() {
    let spec = |n, k, bias| Spec { n, k, format: Elem::Bf16, bias, activation: Activation::None, out: Elem::F32 };
    // Remainders of rows, tiles of rows, panels, pairs, steps and blocks of inputs; more rows and inputs than a block.
    let cases = [
        (spec(96, 72, false), 13),
        (spec(96, 72, true), 1),
        (spec(173, 300, false), 7),
        (spec(16, 128, false), 64),
        (spec(40, 256, false), 150),
        (spec(48, 1100, false), 33),
        (spec(33, 513, true), 17),
        (spec(5, 1, false), 64),
        (spec(16, 8195, false), 3),
        (spec(20, 24577, false), 18),
        (spec(17, 40001, false), 2),
    ];
    let kernels: Vec<AnySpec> = cases.iter().map(|(spec, _)| spec.clone().into()).collect();
    for target in [BF16_PAIRS, BF16_TILES] {
        let Some(runner) = Runner::compile(target, &kernels) else { continue };
        for (case @ Spec { n, k, bias: has_bias, .. }, n_rows) in &cases {
            let (n, k) = (*n, *k);
            let (x, bias) = (numbers(1, n_rows * k), random(3, n));
            let weights: Vec<bf16> = numbers(2, n * k).into_iter().map(bf16::from_f32).collect();
            let mut args = vec![Arg::rows(k, &x), pack(&weights, n, k)];
            args.extend(has_bias.then(|| Arg::vector(&bias)));
            args.extend([Arg::unwritten(n, *n_rows), Arg::Scalar(*n_rows)]);
            let kernel: AnySpec = case.clone().into();
            let found = runner.run(Conditions::AnyThreads, &kernel, counts(0, 0, 0), &args)[0].f32();
            // Rows of more than 32768 inputs are no tiles: they do not fit the stack.
            let in_tiles = target == BF16_TILES && k <= 32768;
            let sum = if in_tiles { sum_of_tiles } else { sum_of_pairs };
            let rounded: Vec<bf16> = x.iter().map(|&x| bf16::from_f32(x)).collect();
            let mut expected = Vec::new();
            for x in rounded.chunks_exact(k) {
                let row = weights.chunks_exact(k).map(|weights| sum(x, weights));
                expected.extend(row.enumerate().map(|(i, sum)| if *has_bias { sum + bias[i] } else { sum }));
            }
            assert_same_bits(&format!("{n} x {k}, {n_rows} rows, {target}"), &found, &expected);
        }
    }
}
