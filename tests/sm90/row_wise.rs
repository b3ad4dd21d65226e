//! Kernels that process rows independently: norms, embedding, row selection.

use jambac_kernels::embed::Spec as Embed;
use jambac_kernels::kernel::Elem;
use jambac_kernels::rms_norm::Spec as RmsNorm;
use jambac_kernels::select_rows::Spec as SelectRows;
use jambac_kernels::split_rms_norm::Spec as SplitRmsNorm;
use jambac_reference::{Tolerance, gather, rms_norm};

use super::harness::{Arg, Kernel, Kernels, SEEDS, counts, rounded};
use crate::kernels::harness::{assert_close, assert_same_bits, random, random_indices};

/// Relative error bound of a bf16 rounding: half a unit in the last place.
pub const BF16: f64 = 1.0 / 256.0;

/// Relative error of f32 sums.
pub const F32: f64 = 1e-6;

fn norm(kernels: &Kernels, seed: u64, spec: &RmsNorm, operands: &[&[f32]], weight: &[f32]) -> Vec<Vec<f32>> {
    let n = operands[0].len() / spec.cols;
    let mut args: Vec<Arg> = operands.iter().map(|x| Arg::f32_rows(spec.cols, x)).collect();
    args.push(Arg::F32(weight.to_vec()));
    if spec.residual {
        args.push(Arg::Unwritten { elem: Elem::F32, cols: spec.cols, n });
    }
    args.push(Arg::Unwritten { elem: spec.out, cols: spec.cols, n });
    args.push(Arg::Count(n));
    // More blocks than rows: the last blocks have no work.
    let found = kernels.run(seed, &spec.clone().into(), counts(n + 2, 1, 1), &args);
    found.iter().map(|array| array.f32().to_vec()).collect()
}

#[test]
fn norms_agree_with_the_reference() {
    let spec = |cols, residual, out| RmsNorm { cols, eps: 1e-5, residual, out };
    let specs: Vec<RmsNorm> = [1, 7, 64, 130, 2560, 4096, 9001]
        .map(|cols| [spec(cols, false, Elem::Bf16), spec(cols, true, Elem::Bf16), spec(cols, false, Elem::F32)])
        .concat();
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
            let rel = if spec.out == Elem::Bf16 { BF16 + 3.0 * F32 } else { 3.0 * F32 };
            assert_close(&what, last, &expected, Tolerance { abs: 1e-30, rel });
            assert!(spec.out == Elem::F32 || rounded(last) == *last, "{what}");
            // A row has the same bits alone and in a batch.
            let second: Vec<&[f32]> = operands.iter().map(|x| &x[cols..2 * cols]).collect();
            let alone = norm(&kernels, seed, spec, &second, &weight);
            assert_same_bits(&what, alone.last().expect("a norm has a result"), &last[cols..2 * cols]);
        }
    }
}

#[test]
fn split_norms_agree_with_the_reference() {
    let part = |cols, elem| (cols, elem);
    let specs = [
        vec![part(256, Elem::Bf16), part(16, Elem::F32), part(16, Elem::F32)],
        vec![part(160, Elem::Bf16), part(16, Elem::F32), part(16, Elem::F32)],
        vec![part(7, Elem::Bf16), part(33, Elem::F32), part(1, Elem::Bf16)],
        vec![part(512, Elem::F32)],
    ]
    .map(|parts| SplitRmsNorm { parts, eps: 1e-6 });
    let kernels: Vec<Kernel> = specs.iter().map(|spec| spec.clone().into()).collect();
    let compiled = Kernels::compile(&kernels);
    for seed in SEEDS {
        for (spec, kernel) in specs.iter().zip(&kernels) {
            let cols: usize = spec.parts.iter().map(|part| part.0).sum();
            let x = random(1, 6 * cols);
            let weights: Vec<Vec<f32>> = spec.parts.iter().map(|part| random(2, part.0)).collect();
            let run = |x: &[f32]| -> Vec<Vec<f32>> {
                let n = x.len() / cols;
                let mut args = vec![Arg::f32_rows(cols, x)];
                args.extend(weights.iter().map(|weight| Arg::F32(weight.clone())));
                args.extend(spec.parts.iter().map(|&(cols, elem)| Arg::Unwritten { elem, cols, n }));
                args.push(Arg::Count(n));
                let found = compiled.run(seed, kernel, counts(n, 1, 1), &args);
                found.iter().map(|array| array.f32().to_vec()).collect()
            };
            let found = run(&x);
            let weights: Vec<&[f32]> = weights.iter().map(Vec::as_slice).collect();
            let expected = rms_norm::split_rms_norm(&x, &weights, 1e-6);
            let alone = run(&x[cols..2 * cols]);
            for (number, &(cols, elem)) in spec.parts.iter().enumerate() {
                let what = format!("{spec:?}, part {number}, seed {seed}");
                let rel = if elem == Elem::Bf16 { BF16 + 3.0 * F32 } else { 3.0 * F32 };
                assert_close(&what, &found[number], &expected[number], Tolerance { abs: 1e-30, rel });
                assert_same_bits(&what, &alone[number], &found[number][cols..2 * cols]);
            }
        }
    }
}

#[test]
fn embeddings_are_rows_of_the_table() {
    for cols in [1, 9, 128, 4096] {
        let kernel: Kernel = Embed { vocab: 40, d_model: cols, format: Elem::Bf16, lanes: 1 }.into();
        let compiled = Kernels::compile([&kernel]);
        let table = rounded(&random(1, 11 * cols));
        let ids = [3, 0, 10, 3, 7];
        let args = [
            Arg::I32(ids.to_vec()),
            Arg::bf16_rows(cols, &table),
            Arg::Unwritten { elem: Elem::F32, cols, n: 5 },
            Arg::Count(5),
        ];
        for seed in SEEDS {
            let found = compiled.run(seed, &kernel, counts(8, 1, 1), &args);
            let expected = gather::gather_rows(&table, cols, &ids).expect("rows of the table");
            assert_same_bits(&format!("{cols} columns"), found[0].f32(), &expected);
        }
    }
}

#[test]
fn chosen_rows_are_copied() {
    for (cols, elem) in [(1, Elem::Bf16), (75, Elem::F32), (4096, Elem::Bf16), (4096, Elem::F32)] {
        let kernel: Kernel = SelectRows { cols, elem }.into();
        let compiled = Kernels::compile([&kernel]);
        let x = rounded(&random(1, 9 * cols));
        let wanted = random_indices(2, 4, 9);
        let rows = Arg::Rows { elem, cols, values: x.clone() };
        let args = [rows, Arg::I32(wanted.clone()), Arg::Unwritten { elem, cols, n: 4 }, Arg::Count(4)];
        for seed in SEEDS {
            let found = compiled.run(seed, &kernel, counts(9, 1, 6), &args);
            let expected = gather::gather_rows(&x, cols, &wanted).expect("rows that there are");
            assert_same_bits(&format!("{cols} columns"), found[0].f32(), &expected);
        }
    }
}
