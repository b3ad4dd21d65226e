//! linear with fp8 weights: the bits of the same arithmetic in plain Rust, over every E4M3 number.

use jambac_graph::Activation;
use jambac_harness::{Arg, Conditions, Runner, Target, assert_same_bits, counts, random};
use jambac_kernels::catalog::AnySpec;
use jambac_kernels::kernel::{Elem, LANES, padded};
use jambac_kernels::linear::Spec;
use jambac_kernels::target::{CpuTarget, X86Level};

use super::{ARM, V2, V3};

/// Inputs per scale.
const GROUP: usize = 128;

/// The value of an E4M3 number: sign, 4 bits of exponent with a bias of 7, 3 bits of mantissa.
fn value(code: u8) -> f32 {
    let (sign, exponent, mantissa) = (code >> 7, i32::from(code >> 3 & 15), f64::from(code & 7));
    let magnitude = match exponent {
        0 => mantissa / 8.0 * 2f64.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
    };
    (if sign == 1 { -magnitude } else { magnitude }) as f32
}

/// `[n][k]` codes, each of the 254 numbers in turn.
fn codes(n: usize, k: usize) -> Vec<u8> {
    let numbers: Vec<u8> = (0..=255).filter(|code| code & 0x7f != 0x7f).collect();
    (0..n * k).map(|at| numbers[(at * 89 + at / 254) % numbers.len()]).collect()
}

/// Panels of 16 outputs: `[k][16]` bytes, and `[ceil(k / 128)][16]` scales.
fn pack(codes: &[u8], scales: &[f32], n: usize, k: usize) -> [Arg; 2] {
    let groups = k.div_ceil(GROUP);
    let (mut bytes, mut packed) = (Vec::new(), Vec::new());
    for panel in (0..padded(n)).step_by(LANES) {
        let lanes = || panel..panel + LANES;
        for j in 0..k {
            bytes.extend(lanes().map(|i| if i < n { codes[i * k + j] } else { 0 }));
        }
        for group in 0..groups {
            packed.extend(lanes().map(|i| if i < n { scales[i * groups + group] } else { 0.0 }));
        }
    }
    [Arg::bytes(bytes).of(Elem::F8), Arg::F32(packed)]
}

/// x times the matrix, in the kernel's order: a sum for each group, scaled and added to those before it.
fn product(x: &[f32], codes: &[u8], scales: &[f32], k: usize, fma: impl Fn(f32, f32, f32) -> f32) -> Vec<f32> {
    let groups = k.div_ceil(GROUP);
    let mut sums = Vec::new();
    for row in x.chunks_exact(k) {
        for (codes, scales) in codes.chunks_exact(k).zip(scales.chunks_exact(groups)) {
            let mut total = 0.0;
            for ((x, codes), &scale) in row.chunks(GROUP).zip(codes.chunks(GROUP)).zip(scales) {
                let sum = x.iter().zip(codes).fold(0.0, |sum, (&x, &code)| fma(x, value(code), sum));
                total = fma(sum, scale, total);
            }
            sums.push(total);
        }
    }
    sums
}

#[test]
fn linear_of_fp8_has_the_bits_of_its_arithmetic_at_every_level() {
    let spec = |n, k, bias| Spec { n, k, format: Elem::F8, bias, activation: Activation::None, out: Elem::F32 };
    let cases = [
        (spec(96, 72, false), 13),
        (spec(96, 72, true), 1),
        (spec(173, 300, false), 1),
        (spec(173, 300, false), 7),
        (spec(16, 128, false), 64),
        (spec(40, 256, false), 150),
        (spec(5, 1, false), 64),
        (spec(16, 8195, false), 3),
    ];
    let v4 = Target::Cpu(CpuTarget::X86(X86Level::V4));
    let kernels: Vec<AnySpec> = cases.iter().map(|(spec, _)| spec.clone().into()).collect();
    for level in [V2, V3, v4, ARM] {
        let Some(runner) = Runner::compile(level, &kernels) else { continue };
        for (Spec { n, k, bias: has_bias, .. }, n_rows) in &cases {
            let (n, k) = (*n, *k);
            let (x, codes, bias) = (random(1, n_rows * k), codes(n, k), random(3, n));
            let mut scales = random(2, n * k.div_ceil(GROUP));
            scales[0] = 0.0;
            let mut args = vec![Arg::rows(k, &x)];
            args.extend(pack(&codes, &scales, n, k));
            args.extend(has_bias.then(|| Arg::vector(&bias)));
            args.extend([Arg::unwritten(n, *n_rows), Arg::Scalar(*n_rows)]);
            let kernel: AnySpec = spec(n, k, *has_bias).into();
            let found = runner.run(Conditions::AnyThreads, &kernel, counts(0, 0, 0), &args)[0].f32();
            let mut expected = match level == V2 {
                true => product(&x, &codes, &scales, k, |x, y, z| x * y + z),
                false => product(&x, &codes, &scales, k, f32::mul_add),
            };
            if *has_bias {
                expected.iter_mut().enumerate().for_each(|(at, sum)| *sum += bias[at % n]);
            }
            assert_same_bits(&format!("{n} x {k}, {n_rows} rows, {level}"), &found, &expected);
        }
    }
}
