//! softmax, top_k, moe_permute, moe_route, moe_combine: from a router's logits to the weighted sum of its experts.

use jambac_kernels::catalog::AnySpec;
use jambac_kernels::{cases, moe_combine, moe_permute, moe_route, softmax, top_k};
use jambac_reference::{Tolerance, moe, softmax as scalar};

use super::harness::{Arg, Kernels, V3, assert_close, assert_same_bits, on_cpu, random, random_indices};

/// Relative error of an f32 rounding.
const ROUNDING: f64 = 5.960_464_477_539_063e-8;

/// Compiles the small cases of a list and calls `check` for each with its number of tokens.
fn each(cases: Vec<cases::Case>, check: impl Fn(&Kernels, &AnySpec, usize)) {
    let small: Vec<_> = cases.into_iter().filter(|case| case.bytes() < 1e6).collect();
    let Some(kernels) = Kernels::compile(V3, small.iter().map(|case| &case.kernel)) else { return };
    for case in &small {
        check(&kernels, &case.kernel, case.counts.tokens);
    }
}

fn run_softmax(kernels: &Kernels, kernel: &AnySpec, cols: usize, x: &[f32]) -> Vec<f32> {
    let n_rows = x.len() / cols;
    kernels.run(kernel, &[Arg::rows(cols, x), Arg::unwritten(cols, n_rows), Arg::Scalar(n_rows)])[0].f32()
}

#[test]
fn softmax_agrees_with_the_reference() {
    each(cases::softmax(), |kernels, kernel, n_rows| {
        let AnySpec::Softmax(softmax::Spec { cols }) = *kernel else { panic!("{kernel:?}") };
        // Differences of up to 60: the smallest probabilities are 10⁻²⁶.
        let x: Vec<f32> = random(1, n_rows * cols).iter().map(|x| 30.0 * x).collect();
        let what = format!("{} of {n_rows} rows", on_cpu(kernel).symbol);
        let found = run_softmax(kernels, kernel, cols, &x);
        // Differences round at 64, which exp turns into a relative error of the same size; exp itself adds 4 roundings; the sum
        // adds cols / 16 per lane and 4 for the lanes; then the quotient.
        let tolerance = Tolerance { abs: 1e-37, rel: (64.0 + 9.0 + cols as f64 / 16.0) * ROUNDING };
        assert_close(&what, &found, &scalar::softmax(&x, cols), tolerance);
        for (row, x) in x.chunks_exact(cols).enumerate() {
            assert_same_bits(&what, &run_softmax(kernels, kernel, cols, x), &found[row * cols..][..cols]);
        }
    });
}

fn run_top_k(kernels: &Kernels, spec: &top_k::Spec, p: &[f32]) -> (Vec<f32>, Vec<i32>) {
    let n_rows = p.len() / spec.cols;
    let args = [
        Arg::rows(spec.cols, p),
        Arg::unwritten(spec.k, n_rows),
        Arg::i32(&vec![-1; n_rows * spec.k]),
        Arg::Scalar(n_rows),
    ];
    let found = kernels.run(&spec.clone().into(), &args);
    (found[0].f32(), found[1].i32().to_vec())
}

#[test]
fn top_k_agrees_with_the_reference() {
    each(cases::top_k(), |kernels, kernel, n_rows| {
        let AnySpec::TopK(spec) = kernel else { panic!("{kernel:?}") };
        let what = format!("{} of {n_rows} rows", on_cpu(kernel).symbol);
        let any = random(1, n_rows * spec.cols);
        // Only three values, which gives many ties.
        let tied: Vec<f32> = random_indices(2, n_rows * spec.cols, 3).iter().map(|&x| x as f32 / 4.0).collect();
        for p in [any, tied] {
            let (weights, experts) = run_top_k(kernels, spec, &p);
            let expected = moe::top_k(&p, spec.cols, spec.k);
            assert_eq!(experts, expected.1, "{what}");
            assert_same_bits(&what, &weights, &expected.0);
        }
    });
}

#[test]
fn top_k_of_nan_gives_indices_that_exist() {
    let spec = top_k::Spec { cols: 5, k: 3 };
    let Some(kernels) = Kernels::compile(V3, [&spec.clone().into()]) else { return };
    let nan = f32::NAN;
    let (weights, experts) = run_top_k(&kernels, &spec, &[nan, 0.25, nan, nan, 0.75, nan, nan, nan, nan, nan]);
    assert_eq!(experts, [4, 1, 2, 0, 1, 2]);
    assert_eq!(weights[..2], [0.75, 0.25]);
    assert!(weights[2..].iter().all(|weight| weight.is_nan()), "{weights:?}");
}

#[test]
fn moe_permute_agrees_with_the_reference() {
    each(cases::moe_permute(), |kernels, kernel, n_tokens| {
        let AnySpec::MoePermute(moe_permute::Spec { n_experts, top_k }) = *kernel else { panic!("{kernel:?}") };
        let what = format!("{} of {n_tokens} tokens", on_cpu(kernel).symbol);
        let n_slots = n_tokens * top_k;
        // Slots spread over all experts, and all slots at the last expert.
        for experts in [random_indices(1, n_slots, n_experts), vec![n_experts as i32 - 1; n_slots]] {
            let args = [
                Arg::i32(&experts),
                Arg::i32(&vec![-1; n_slots]),
                Arg::i32(&vec![-1; n_experts + 1]),
                Arg::Scalar(n_tokens),
            ];
            let found = kernels.run(kernel, &args);
            let (slots, offsets) = moe::moe_permute(&experts, n_experts).expect("indices of experts");
            assert_eq!(found[0].i32(), slots, "{what}: slots");
            assert_eq!(found[1].i32(), offsets, "{what}: offsets");
        }
    });
}

fn run_moe_route(kernels: &Kernels, spec: &moe_route::Spec, logits: &[f32]) -> (Vec<f32>, Vec<i32>, Vec<i32>) {
    let n_rows = logits.len() / spec.n_experts;
    let n_slots = n_rows * spec.top_k;
    let args = [
        Arg::rows(spec.n_experts, logits),
        Arg::unwritten(spec.top_k, n_rows),
        Arg::i32(&vec![-1; n_slots]),
        Arg::i32(&vec![-1; spec.n_experts + 1]),
        Arg::i32(&vec![-1; n_slots]),
        Arg::Scalar(n_rows),
    ];
    let found = kernels.run(&spec.clone().into(), &args);
    (found[0].f32(), found[1].i32().to_vec(), found[2].i32().to_vec())
}

#[test]
fn moe_route_agrees_with_the_reference() {
    each(cases::moe_route(), |kernels, kernel, n_tokens| {
        let AnySpec::MoeRoute(spec) = kernel else { panic!("{kernel:?}") };
        let what = format!("{} of {n_tokens} tokens", on_cpu(kernel).symbol);
        let logits: Vec<f32> = random(1, n_tokens * spec.n_experts).iter().map(|x| 4.0 * x).collect();
        let (weights, slots, offsets) = run_moe_route(kernels, spec, &logits);
        let (expected, experts) = moe::top_k(&scalar::softmax(&logits, spec.n_experts), spec.n_experts, spec.top_k);
        // As in softmax, with differences below 8.
        assert_close(&what, &weights, &expected, Tolerance { abs: 1e-37, rel: 40.0 * ROUNDING });
        let sorted = moe::moe_permute(&experts, spec.n_experts).expect("indices of experts");
        assert_eq!((slots, offsets), sorted, "{what}");
    });
}

#[test]
fn moe_route_gives_the_bits_of_three_kernels() {
    let spec = moe_route::Spec { n_experts: 17, top_k: 3 };
    let largest = top_k::Spec { cols: 17, k: 3 };
    let kernels = [AnySpec::from(softmax::Spec { cols: 17 }), largest.clone().into(), spec.clone().into()];
    let Some(compiled) = Kernels::compile(V3, &kernels) else { return };
    // Only three logits, which gives many ties.
    let tied: Vec<f32> = random_indices(2, 40 * 17, 3).iter().map(|&x| x as f32 * 1.7).collect();
    let (weights, slots, offsets) = run_moe_route(&compiled, &spec, &tied);
    let probabilities = run_softmax(&compiled, &kernels[0], 17, &tied);
    let (expected, experts) = run_top_k(&compiled, &largest, &probabilities);
    assert_same_bits("weights", &weights, &expected);
    assert_eq!((slots, offsets), moe::moe_permute(&experts, 17).expect("indices of experts"));
}

#[test]
fn moe_combine_agrees_with_the_reference() {
    each(cases::moe_combine(), |kernels, kernel, n_tokens| {
        let AnySpec::MoeCombine(moe_combine::Spec { cols, top_k }) = *kernel else { panic!("{kernel:?}") };
        let (y, weights) = (random(1, n_tokens * top_k * cols), random(2, n_tokens * top_k));
        let args =
            [Arg::rows(cols, &y), Arg::rows(top_k, &weights), Arg::unwritten(cols, n_tokens), Arg::Scalar(n_tokens)];
        let found = kernels.run(kernel, &args)[0].f32();
        // One product and top_k − 1 multiply-adds, of magnitudes below top_k.
        let tolerance = Tolerance::abs((top_k * top_k) as f64 * ROUNDING);
        let what = format!("{} of {n_tokens} tokens", on_cpu(kernel).symbol);
        assert_close(&what, &found, &moe::moe_combine(&y, &weights, top_k, cols), tolerance);
    });
}
