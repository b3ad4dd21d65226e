//! embed, rms_norm, split_rms_norm, elementwise, slice, select_rows: kernels that work on one row, or one element, at a time.

use std::ops::Range;

use jambac_harness::{
    Call, Conditions, Runner, Subject, Target, assert_close, assert_same_bits, each, random, random_indices,
    random_weights, rounded,
};
use jambac_kernels::cases::Case;
use jambac_kernels::catalog::AnySpec;
use jambac_kernels::elementwise::Function;
use jambac_kernels::kernel::Elem;
use jambac_kernels::node::Select as _;
use jambac_kernels::{elementwise, embed, rms_norm, select_rows, slice, split_rms_norm};
use jambac_reference::{Tolerance, activation, elementwise as scalar, gather, rms_norm as norm};

use super::{ARM, BF16, ROUNDING, V2, V3};

/// Checks the small cases of a list on each target.
fn on_each_target(cases: fn() -> Vec<Case>, check: impl Fn(&Subject)) {
    for target in [V3, V2, ARM, Target::Hopper] {
        each(target, cases().into_iter().filter(|case| case.bytes() < 1e6), &check);
    }
}

/// The relative error of a rounding to the stored type of a result.
fn rounding_of(on: &Subject, out: Elem) -> f64 {
    if out == Elem::Bf16 && !on.is_cpu() { BF16 } else { 0.0 }
}

/// Values as an activation of a type holds them.
fn held(elem: Elem, values: Vec<f32>) -> Vec<f32> {
    if elem == Elem::Bf16 { rounded(&values) } else { values }
}

#[test]
fn embed_widens_rows_exactly() {
    on_each_target(embed::Spec::cases, |on| {
        let AnySpec::Embed(embed::Spec { vocab, d_model, format, .. }) = on.case.kernel else { panic!("{on}") };
        let table = random_weights(1, format, d_model, vocab * d_model);
        let ids = random_indices(2, on.n_tokens(), vocab);
        let call = Call::tokens(on.n_tokens()).integers(&ids).parameter(&table).gives(d_model);
        let mut expected = gather::gather_rows(&table, d_model, &ids).expect("indices of the vocabulary");
        if format == Elem::I8 {
            // Integers have one zero.
            expected.iter_mut().for_each(|x| *x += 0.0);
        }
        assert_same_bits(&on.to_string(), &on.call(&call).rows(0), &expected);
    });
}

/// On CPUs a sum of cols/16 squares a lane, all positive: its roundings are below cols/16, most of which cancel, and the root
/// halves them; then division, root and two products. On Hopper the root is approximate.
fn norm_tolerance(on: &Subject, cols: usize, out: Elem) -> Tolerance {
    match on.is_cpu() {
        true => Tolerance { abs: 0.0, rel: (4.0 + cols as f64 / 32.0) * ROUNDING },
        false => Tolerance { abs: 1e-30, rel: rounding_of(on, out) + 3e-6 },
    }
}

#[test]
fn rms_norm_agrees_with_the_reference() {
    on_each_target(rms_norm::Spec::cases, |on| {
        let AnySpec::RmsNorm(rms_norm::Spec { cols, eps, residual, out }) = on.case.kernel else { panic!("{on}") };
        let n = on.n_tokens();
        let (a, b, weight) = (random(1, n * cols), random(2, n * cols), random(3, cols));
        let run = |rows: Range<usize>| {
            let of = |x: &[f32]| x[rows.start * cols..rows.end * cols].to_vec();
            let call = Call::tokens(rows.len()).rows(cols, &of(&a));
            on.call(&match residual {
                false => call.parameter(&weight).gives(cols),
                true => call.rows(cols, &of(&b)).parameter(&weight).gives(cols).gives(cols),
            })
        };
        let (found, what) = (run(0..n), on.to_string());
        let (sum, normed) = match residual {
            false => (Vec::new(), norm::rms_norm(&a, &weight, eps)),
            true => norm::add_rms_norm(&a, &b, &weight, eps),
        };
        if residual {
            assert_same_bits(&what, &found.rows(0), &sum);
        }
        let last = found.rows(usize::from(residual));
        assert_close(&what, &last, &normed, norm_tolerance(on, cols, out));
        assert!(on.is_cpu() || out == Elem::F32 || rounded(&last) == last, "{what}");
        // A row has the same bits alone and in a batch. One suffices on the simulator.
        for row in (0..n).take(if on.is_cpu() { n } else { 1 }) {
            let alone = run(row..row + 1).rows(usize::from(residual));
            assert_same_bits(&what, &alone, &last[row * cols..][..cols]);
        }
    });
}

#[test]
fn parts_of_rows_are_normed_each_by_itself() {
    on_each_target(split_rms_norm::Spec::cases, |on| {
        let AnySpec::SplitRmsNorm(spec) = &on.case.kernel else { panic!("{on}") };
        let (n, cols) = (on.n_tokens(), spec.parts.iter().map(|&(cols, _)| cols).sum::<usize>());
        let x = random(1, n * cols);
        let weights: Vec<Vec<f32>> = spec.parts.iter().map(|&(cols, _)| random(cols as u64, cols)).collect();
        let weights: Vec<&[f32]> = weights.iter().map(Vec::as_slice).collect();
        let run = |rows: Range<usize>| {
            let x = &x[rows.start * cols..rows.end * cols];
            let call = Call::tokens(rows.len()).rows(cols, x).parameters(weights.iter().copied());
            on.call(&spec.parts.iter().fold(call, |call, &(cols, _)| call.gives(cols)))
        };
        let (found, expected) = (run(0..n), norm::split_rms_norm(&x, &weights, spec.eps));
        let alone = (n > 1).then(|| run(1..2));
        for (part, (&(cols, out), expected)) in spec.parts.iter().zip(&expected).enumerate() {
            let (what, found) = (format!("{on}, part {part}"), found.rows(part));
            assert_close(&what, &found, expected, norm_tolerance(on, cols, out));
            if let Some(alone) = &alone {
                assert_same_bits(&what, &alone.rows(part), &found[cols..2 * cols]);
            }
        }
    });
}

#[test]
fn rms_norm_takes_the_activations_of_jamba() {
    // Values up to 10⁶ (far below the square root of the largest f32), and rows of zeros.
    let kernel = AnySpec::from(rms_norm::Spec { cols: 72, eps: 1e-6, residual: false, out: Elem::F32 });
    let Some(runner) = Runner::compile(V3, [&kernel]) else { return };
    let x: Vec<f32> = random(1, 72).iter().map(|x| x * 1e6).chain([0.0; 72]).collect();
    let weight = random(2, 72);
    let call = Call::tokens(2).rows(72, &x).parameter(&weight).gives(72);
    let found = runner.call(Conditions::AnyThreads, &kernel, &call).rows(0);
    let expected = norm::rms_norm(&x, &weight, 1e-6);
    assert_close("large and zero", &found, &expected, Tolerance { abs: 0.0, rel: 8.0 * ROUNDING });
}

#[test]
fn elementwise_agrees_with_the_reference() {
    on_each_target(elementwise::Spec::cases, |on| {
        let AnySpec::Elementwise(elementwise::Spec { function, cols, a: a_type, b: b_type, out }) = on.case.kernel
        else {
            panic!("{on}")
        };
        let n_rows = on.n_tokens() * on.case.rows.per as usize;
        // On CPUs wide enough that exp underflows and overflows at the ends.
        let spread = |x: &f32| if on.is_cpu() { x * x * x * 120.0 } else { 12.0 * x };
        let spread = |seed, n| random(seed, n).iter().map(spread).collect::<Vec<f32>>();
        let a = held(a_type, spread(1, n_rows * cols));
        let b = held(b_type.unwrap_or(Elem::F32), spread(2, n_rows * cols));
        let row = spread(3, cols);
        let map = |f: fn(f32) -> f32| a.iter().map(|&x| f(x)).collect::<Vec<f32>>();
        // Few roundings; a result is never a small difference of large terms. An exponential below the normal numbers, 2⁻¹²⁶, is
        // 0: silu(x) may be off by |x| ≤ 120 times as much, and its product with b by another 120. On Hopper exponentials and
        // logarithms are approximate.
        let rounding = rounding_of(on, out);
        let few = match on.is_cpu() {
            true => Tolerance { abs: 120.0 * 120.0 * f64::from(f32::MIN_POSITIVE), rel: 6.0 * ROUNDING },
            false => Tolerance { abs: 1e-6, rel: rounding + 4e-6 },
        };
        let exact = Tolerance { abs: 0.0, rel: rounding };
        let (expected, tolerance) = match function {
            Function::Silu => (map(activation::silu), few),
            Function::Softplus => (map(activation::softplus), few),
            Function::Add => (scalar::add(&a, &b), exact),
            Function::Mul => (scalar::mul(&a, &b), exact),
            Function::MulRow => (scalar::mul(&a, &row), exact),
            Function::Swiglu => (activation::swiglu(&a, &b), few),
        };
        let call = Call::tokens(on.n_tokens()).rows(cols, &a);
        let call = match function {
            Function::Silu | Function::Softplus => call,
            Function::MulRow => call.parameter(&row),
            Function::Add | Function::Mul | Function::Swiglu => call.rows(cols, &b),
        };
        assert_close(&on.to_string(), &on.call(&call.gives(cols)).rows(0), &expected, tolerance);
    });
}

#[test]
fn slice_copies_columns() {
    on_each_target(slice::Spec::cases, |on| {
        let AnySpec::Slice(spec) = &on.case.kernel else { panic!("{on}") };
        let x = held(spec.x, random(1, on.n_tokens() * spec.cols));
        let found = on.call(&Call::tokens(on.n_tokens()).rows(spec.cols, &x).gives(spec.len)).rows(0);
        let expected = scalar::slice(&x, spec.cols, spec.start, spec.len);
        let expected = if on.is_cpu() { expected } else { held(spec.out, expected) };
        assert_same_bits(&on.to_string(), &found, &expected);
    });
}

#[test]
fn select_rows_takes_them_in_the_order_wanted() {
    on_each_target(select_rows::Spec::cases, |on| {
        let AnySpec::SelectRows(spec) = &on.case.kernel else { panic!("{on}") };
        let n_rows = 17;
        let x = held(spec.elem, random(1, n_rows * spec.cols));
        let wanted = random_indices(2, on.n_tokens(), n_rows);
        let call = Call::tokens(on.n_tokens()).rows(spec.cols, &x).integers(&wanted).gives(spec.cols);
        let expected = gather::gather_rows(&x, spec.cols, &wanted).expect("rows of x");
        assert_same_bits(&on.to_string(), &on.call(&call).rows(0), &expected);
    });
}
