//! The elementary functions compared with f64, through the whole toolchain, on every target that the host can run.

use jambac_codegen::compile;
use jambac_harness::{LoadedKernels, Slot};
use jambac_kernels::cpu::builder::Value;
use jambac_kernels::cpu::math;
use jambac_kernels::kernel::{Elem, Param};
use jambac_kernels::target::CpuTarget;

type Function = fn(Value) -> Value;

fn apply(target: CpuTarget, function: Function, x: &[f32]) -> Vec<f32> {
    let params = [Param::read("x", Elem::F32, &[]), Param::write("y", Elem::F32, &[]), Param::scalar("n")];
    let object = compile(target, None, |module| {
        module.kernel("apply", &params, |b| {
            b.for_each(0, b.scalar("n"), 16, |i| {
                let y = function(b.load_vector(b.buffer("x"), i, 16));
                b.store(y, b.buffer("y"), i);
            });
        });
    });
    let mut y = vec![0.0f32; x.len()];
    assert_eq!(x.len() % 16, 0);
    LoadedKernels::load(&object.unwrap())
        .unwrap()
        .call("apply", 1, vec![Slot::read(x), Slot::write(&mut y), Slot::Scalar(x.len() as u64)])
        .unwrap();
    y
}

/// Floats of both signs from `least` to `greatest`: evenly spaced bit patterns, then evenly spaced values.
fn sweep(least: f32, greatest: f32) -> Vec<f32> {
    let patterns = (0..=u32::MAX / 16_001).map(|i| f32::from_bits(i * 16_001));
    let steps = (0..150_000).map(|i| least + (greatest - least) * i as f32 / 150_000.0);
    let mut x: Vec<f32> = patterns.chain(steps).filter(|x| (least..=greatest).contains(x)).collect();
    x.truncate(x.len() / 16 * 16);
    x
}

/// Distance of a float from the exact value, in units in the last place of the float nearest to the exact value.
fn ulps(found: f32, exact: f64) -> f64 {
    let nearest = (exact as f32).abs().max(f32::MIN_POSITIVE);
    let unit = f64::from(f32::from_bits(nearest.to_bits() + 1)) - f64::from(nearest);
    (f64::from(found) - exact).abs() / unit
}

fn check(function: Function, exact: fn(f64) -> f64, least: f32, greatest: f32, bound: f64) {
    for target in CpuTarget::ALL.into_iter().take(3) {
        if !target.runs_here() {
            continue;
        }
        let x = sweep(least, greatest);
        let y = apply(target, function, &x);
        let worst = x.iter().zip(&y).map(|(&x, &y)| (ulps(y, exact(x.into())), x));
        let (worst, at) = worst.max_by(|(x, _), (y, _)| x.total_cmp(y)).unwrap();
        println!("{target}: {worst:.3} ulp at {at:e}, {} points", x.len());
        assert!(worst <= bound, "{target}: {worst} ulp at {at:e}, bound {bound}");
    }
}

/// Checks limits and special values, outside the range of `check`.
fn check_ends(function: Function, cases: &[(f32, f32)]) {
    let mut x: Vec<f32> = cases.iter().map(|case| case.0).collect();
    x.resize(x.len().next_multiple_of(16), 0.0);
    for target in CpuTarget::ALL.into_iter().take(3) {
        if !target.runs_here() {
            continue;
        }
        for (&(x, expected), y) in cases.iter().zip(apply(target, function, &x)) {
            assert_eq!(y.to_bits(), expected.to_bits(), "{target}: at {x} {y}, not {expected}");
        }
    }
}

#[test]
fn exp() {
    check(math::exp, f64::exp, -87.336, 88.722_83, 2.0);
    let infinity = f32::INFINITY;
    check_ends(math::exp, &[(-87.4, 0.0), (-1e30, 0.0), (-infinity, 0.0), (0.0, 1.0), (-0.0, 1.0)]);
    check_ends(math::exp, &[(88.73, infinity), (1e30, infinity), (infinity, infinity), (f32::NAN, f32::NAN)]);
}

#[test]
fn exp2() {
    check(math::exp2, f64::exp2, -126.0, 127.999_99, 2.0);
    let infinity = f32::INFINITY;
    check_ends(math::exp2, &[(-126.1, 0.0), (-infinity, 0.0), (-126.0, f32::MIN_POSITIVE), (0.0, 1.0), (10.0, 1024.0)]);
    check_ends(math::exp2, &[(128.0, infinity), (1e30, infinity), (f32::NAN, f32::NAN)]);
}

#[test]
fn exp2_nonpositive() {
    check(math::exp2_nonpositive, f64::exp2, -126.0, 0.0, 2.0);
    check_ends(
        math::exp2_nonpositive,
        &[(-1e30, f32::MIN_POSITIVE), (f32::NEG_INFINITY, f32::MIN_POSITIVE), (f32::NAN, f32::NAN)],
    );
}

#[test]
fn sigmoid() {
    check(math::sigmoid, |x| 1.0 / (1.0 + (-x).exp()), -87.0, 100.0, 3.0);
    check_ends(
        math::sigmoid,
        &[(-100.0, 0.0), (f32::NEG_INFINITY, 0.0), (0.0, 0.5), (100.0, 1.0), (f32::NAN, f32::NAN)],
    );
}

#[test]
fn silu() {
    check(math::silu, |x| x / (1.0 + (-x).exp()), -87.0, 1e6, 3.0);
    check_ends(math::silu, &[(-100.0, -0.0), (0.0, 0.0), (1e6, 1e6), (f32::NAN, f32::NAN)]);
}

#[test]
fn softplus() {
    check(math::softplus, |x| x.max(0.0) + (-x.abs()).exp().ln_1p(), -87.336, 1e6, 4.0);
    check_ends(
        math::softplus,
        &[(-88.0, 0.0), (f32::NEG_INFINITY, 0.0), (20.0, 20.0), (1e6, 1e6), (f32::NAN, f32::NAN)],
    );
}
