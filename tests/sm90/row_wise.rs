//! Kernels that work on rows by themselves: norms, embedding, chosen rows.

use jambac_kernels::kernel::{Elem, Rows};
use jambac_kernels::rms_norm::sm90::Spec as RmsNorm;
use jambac_kernels::sm90::Kernel;
use jambac_reference::{Tolerance, rms_norm};

use super::harness::{Arg, Kernels, SEEDS, counts, rounded};
use crate::kernels::harness::{assert_close, assert_same_bits, random};

/// Half a unit in the last place of bf16, at most, relative.
pub const BF16: f64 = 1.0 / 256.0;

/// Rounding of f32 sums.
pub const F32: f64 = 1e-6;

fn norm(kernels: &Kernels, seed: u64, spec: &RmsNorm, operands: &[&[f32]], weight: &[f32]) -> Vec<Vec<f32>> {
    let n = operands[0].len() / spec.cols;
    let mut args: Vec<Arg> = operands.iter().map(|x| Arg::f32_rows(spec.cols, x)).collect();
    args.push(Arg::F32(weight.to_vec()));
    if spec.residual {
        args.push(Arg::Unwritten { elem: Elem::F32, cols: spec.cols, n });
    }
    args.push(Arg::Unwritten { elem: Elem::Bf16, cols: spec.cols, n });
    args.push(Arg::Count(n));
    // More blocks than rows: the last find nothing to do.
    let found = kernels.run(seed, &spec.clone().into(), counts(n + 2, 1, 1), &args);
    found.iter().map(|array| array.f32().to_vec()).collect()
}

#[test]
fn norms_agree_with_the_reference() {
    let spec = |cols, residual| RmsNorm { cols, eps: 1e-5, residual, rows: Rows::Tokens };
    let specs: Vec<RmsNorm> =
        [1, 7, 64, 130, 2560, 4096, 9001].map(|cols| [spec(cols, false), spec(cols, true)]).concat();
    let kernels: Vec<Kernel> = specs.iter().map(|spec| spec.clone().into()).collect();
    let kernels = Kernels::compile(&kernels);
    for seed in SEEDS {
        for spec in &specs {
            let cols = spec.cols;
            let what = format!("{spec:?}, seed {seed}");
            let (a, b, weight) = (random(1, 3 * cols), random(2, 3 * cols), random(3, cols));
            let operands: Vec<&[f32]> = if spec.residual { vec![&a, &b] } else { vec![&a] };
            let found = norm(&kernels, seed, spec, &operands, &weight);
            let expected = match spec.residual {
                true => {
                    let (sum, normed) = rms_norm::add_rms_norm(&a, &b, &weight, 1e-5);
                    assert_same_bits(&what, &found[0], &sum);
                    normed
                }
                false => rms_norm::rms_norm(&a, &weight, 1e-5),
            };
            let last = found.last().expect("a norm has a result");
            assert_close(&what, last, &expected, Tolerance { abs: 1e-30, rel: BF16 + 3.0 * F32 });
            assert_eq!(rounded(last), *last);
            // A row alone has the bits that it has among others.
            let second: Vec<&[f32]> = operands.iter().map(|x| &x[cols..2 * cols]).collect();
            let alone = norm(&kernels, seed, spec, &second, &weight);
            assert_same_bits(&what, alone.last().expect("a norm has a result"), &last[cols..2 * cols]);
        }
    }
}
