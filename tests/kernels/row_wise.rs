//! embed, rms_norm, elementwise, slice, select_rows: kernels that process one row or one element at a time.

use jamba_plan::format::Layout;
use jambac_kernels::cases;
use jambac_kernels::catalog::AnySpec;
use jambac_kernels::elementwise::Function;
use jambac_kernels::kernel::Elem;
use jambac_kernels::target::X86Level;
use jambac_kernels::{elementwise, embed, rms_norm};
use jambac_reference::{Tolerance, activation, elementwise as scalar, gather, rms_norm as norm};

use super::harness::{Arg, Array, Kernels, V3, Weight, assert_close, assert_same_bits, on_cpu, random, random_indices};

/// Relative error of an f32 rounding.
const ROUNDING: f64 = 5.960_464_477_539_063e-8;

/// Compiles the small cases of a list and calls `check` for each with its number of tokens.
fn each(level: X86Level, cases: Vec<cases::Case>, check: impl Fn(&Kernels, &AnySpec, usize)) {
    let small: Vec<_> = cases.into_iter().filter(|case| case.bytes() < 1e6).collect();
    let Some(kernels) = Kernels::compile(level, small.iter().map(|case| &case.kernel)) else { return };
    for case in &small {
        check(&kernels, &case.kernel, case.counts.tokens * case.rows.per as usize);
    }
}

#[test]
fn embed_widens_rows_exactly() {
    each(V3, cases::embed(), |kernels, kernel, n_tokens| {
        let AnySpec::Embed(embed::Spec { d_model, format, lanes, .. }) = *kernel else { panic!("{kernel:?}") };
        let vocab = 173;
        let layout = Layout::in_panels(1, vocab as u64, d_model as u64, lanes as u64);
        let table = Weight::pack(&random(1, vocab * d_model), layout, format);
        let mut ids = random_indices(2, n_tokens, vocab);
        // The last row: its last vector extends beyond the table.
        ids.iter_mut().take(1).for_each(|id| *id = vocab as i32 - 1);
        let args = [Arg::i32(&ids), Arg::weight(&table), Arg::unwritten(d_model, n_tokens), Arg::Scalar(n_tokens)];
        let found = kernels.run(kernel, &args)[0].f32();
        let expected = gather::gather_rows(&table.values, d_model, &ids).expect("ids below vocab");
        assert_same_bits(&format!("{} of {n_tokens} tokens", on_cpu(kernel).symbol), &found, &expected);
    });
}

fn check_rms_norm(kernels: &Kernels, kernel: &AnySpec, n_rows: usize) {
    let AnySpec::RmsNorm(rms_norm::Spec { cols, eps, residual, .. }) = *kernel else { panic!("{kernel:?}") };
    let (a, b, weight) = (random(1, n_rows * cols), random(2, n_rows * cols), random(3, cols));
    let what = format!("{} of {n_rows} rows", on_cpu(kernel).symbol);
    let mut args = vec![Arg::rows(cols, &a)];
    args.extend(residual.then(|| Arg::rows(cols, &b)));
    args.push(Arg::vector(&weight));
    args.extend(residual.then(|| Arg::unwritten(cols, n_rows)));
    args.extend([Arg::unwritten(cols, n_rows), Arg::Scalar(n_rows)]);
    let found = kernels.run(kernel, &args);
    let (sum, normed) =
        if residual { norm::add_rms_norm(&a, &b, &weight, eps) } else { (a.clone(), norm::rms_norm(&a, &weight, eps)) };
    if residual {
        assert_same_bits(&what, &found[0].f32(), &sum);
    }
    // Each lane sums cols/16 positive squares: fewer than cols/16 roundings, most of which cancel, and the root halves them;
    // then division, root and two products.
    let tolerance = Tolerance { abs: 0.0, rel: (4.0 + cols as f64 / 32.0) * ROUNDING };
    assert_close(&what, &found.last().map_or(Vec::new(), Array::f32), &normed, tolerance);
}

#[test]
fn rms_norm_agrees_with_the_reference() {
    each(V3, cases::rms_norm(), check_rms_norm);
    each(X86Level::V2, cases::rms_norm(), check_rms_norm);
}

#[test]
fn parts_of_rows_are_normed_each_by_itself() {
    for level in [V3, X86Level::V2] {
        each(level, cases::split_rms_norm(), |kernels, kernel, n_rows| {
            let AnySpec::SplitRmsNorm(spec) = kernel else { panic!("{kernel:?}") };
            let cols: usize = spec.parts.iter().map(|&(cols, _)| cols).sum();
            let x = random(1, n_rows * cols);
            let weights: Vec<Vec<f32>> =
                spec.parts.iter().zip(2..).map(|(&(cols, _), seed)| random(seed, cols)).collect();
            let mut args = vec![Arg::rows(cols, &x)];
            args.extend(weights.iter().map(|weight| Arg::vector(weight)));
            args.extend(spec.parts.iter().map(|&(cols, _)| Arg::unwritten(cols, n_rows)));
            args.push(Arg::Scalar(n_rows));
            let found = kernels.run(kernel, &args);
            let weights: Vec<&[f32]> = weights.iter().map(Vec::as_slice).collect();
            let expected = norm::split_rms_norm(&x, &weights, spec.eps);
            for (part, (found, expected)) in found.iter().zip(&expected).enumerate() {
                // As for a whole row.
                let rel = (4.0 + spec.parts[part].0 as f64 / 32.0) * ROUNDING;
                let what = format!("{} of {n_rows} rows, part {part}", on_cpu(kernel).symbol);
                assert_close(&what, &found.f32(), expected, Tolerance { abs: 0.0, rel });
            }
        });
    }
}

#[test]
fn a_row_is_normed_alike_alone_and_in_a_batch() {
    let cases = cases::rms_norm();
    let kernel = &cases[0].kernel;
    let AnySpec::RmsNorm(rms_norm::Spec { cols, .. }) = *kernel else { panic!("{kernel:?}") };
    let Some(kernels) = Kernels::compile(V3, [kernel]) else { return };
    let (x, weight) = (random(1, 13 * cols), random(2, cols));
    let run = |x: &[f32]| {
        let n_rows = x.len() / cols;
        let args = [Arg::rows(cols, x), Arg::vector(&weight), Arg::unwritten(cols, n_rows), Arg::Scalar(n_rows)];
        kernels.run(kernel, &args)[0].f32()
    };
    let together = run(&x);
    for (row, normed) in x.chunks_exact(cols).zip(together.chunks_exact(cols)) {
        assert_same_bits("a row", &run(row), normed);
    }
}

#[test]
fn rms_norm_takes_the_activations_of_jamba() {
    // Values up to 10⁶ (far below the square root of the largest f32), and rows of zeros.
    let spec = rms_norm::Spec { cols: 72, eps: 1e-6, residual: false, out: Elem::F32 };
    let kernel = AnySpec::from(spec);
    let Some(kernels) = Kernels::compile(V3, [&kernel]) else { return };
    let x: Vec<f32> = random(1, 72).iter().map(|x| x * 1e6).chain([0.0; 72]).collect();
    let weight = random(2, 72);
    let args = [Arg::rows(72, &x), Arg::vector(&weight), Arg::unwritten(72, 2), Arg::Scalar(2)];
    let found = kernels.run(&kernel, &args)[0].f32();
    let expected = norm::rms_norm(&x, &weight, 1e-6);
    assert_close("large and zero", &found, &expected, Tolerance { abs: 0.0, rel: 8.0 * ROUNDING });
}

fn check_elementwise(kernels: &Kernels, kernel: &AnySpec, n_rows: usize) {
    let AnySpec::Elementwise(elementwise::Spec { function, cols, .. }) = *kernel else { panic!("{kernel:?}") };
    // Wide enough that exp underflows and overflows at the ends.
    let spread = |seed, n| random(seed, n).iter().map(|x| x * x * x * 120.0).collect::<Vec<f32>>();
    let (a, b, row) = (spread(1, n_rows * cols), spread(2, n_rows * cols), spread(3, cols));
    let mut args = vec![Arg::rows(cols, &a)];
    let map = |f: fn(f32) -> f32| a.iter().map(|&x| f(x)).collect::<Vec<f32>>();
    // Few roundings, and no result is a small difference of large terms. An exponential below the normal range, 2⁻¹²⁶, becomes
    // 0: silu(x) may then be off by |x| ≤ 120 times as much, and its product with b by another 120.
    let few = Tolerance { abs: 120.0 * 120.0 * f64::from(f32::MIN_POSITIVE), rel: 6.0 * ROUNDING };
    let (expected, tolerance) = match function {
        Function::Silu => (map(activation::silu), few),
        Function::Softplus => (map(activation::softplus), few),
        Function::Add => (scalar::add(&a, &b), Tolerance::EXACT),
        Function::Mul => (scalar::mul(&a, &b), Tolerance::EXACT),
        Function::MulRow => (scalar::mul(&a, &row), Tolerance::EXACT),
        Function::Swiglu => (activation::swiglu(&a, &b), few),
    };
    match function {
        Function::Silu | Function::Softplus => {}
        Function::MulRow => args.push(Arg::vector(&row)),
        Function::Add | Function::Mul | Function::Swiglu => args.push(Arg::rows(cols, &b)),
    }
    args.extend([Arg::unwritten(cols, n_rows), Arg::Scalar(n_rows)]);
    let found = kernels.run(kernel, &args)[0].f32();
    assert_close(&format!("{} of {n_rows} rows", on_cpu(kernel).symbol), &found, &expected, tolerance);
}

#[test]
fn elementwise_agrees_with_the_reference() {
    each(V3, cases::elementwise(), check_elementwise);
    each(X86Level::V2, cases::elementwise(), check_elementwise);
}

#[test]
fn slice_copies_columns() {
    each(V3, cases::slice(), |kernels, kernel, n_rows| {
        let AnySpec::Slice(spec) = kernel else { panic!("{kernel:?}") };
        let x = random(1, n_rows * spec.cols);
        let args = [Arg::rows(spec.cols, &x), Arg::unwritten(spec.len, n_rows), Arg::Scalar(n_rows)];
        let found = kernels.run(kernel, &args)[0].f32();
        let expected = scalar::slice(&x, spec.cols, spec.start, spec.len);
        assert_same_bits(&format!("{} of {n_rows} rows", on_cpu(kernel).symbol), &found, &expected);
    });
}

#[test]
fn select_rows_takes_them_in_the_order_wanted() {
    each(V3, cases::select_rows(), |kernels, kernel, n_wanted| {
        let AnySpec::SelectRows(spec) = kernel else { panic!("{kernel:?}") };
        let n_rows = 17;
        let x = random(1, n_rows * spec.cols);
        let wanted = random_indices(2, n_wanted, n_rows);
        let args =
            [Arg::rows(spec.cols, &x), Arg::i32(&wanted), Arg::unwritten(spec.cols, n_wanted), Arg::Scalar(n_wanted)];
        let found = kernels.run(kernel, &args)[0].f32();
        let expected = gather::gather_rows(&x, spec.cols, &wanted).expect("rows of x");
        assert_same_bits(&format!("{} of {n_wanted} rows", on_cpu(kernel).symbol), &found, &expected);
    });
}
