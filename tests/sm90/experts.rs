//! Kernels from a router's logits to the weighted sum of its experts.

use jambac_kernels::kernel::{Elem, Rows};
use jambac_kernels::moe_combine::Spec as Combine;
use jambac_kernels::moe_gather::Spec as Gather;
use jambac_kernels::moe_route::Spec as Route;
use jambac_reference::{Tolerance, moe, softmax};

use super::harness::{Arg, Kernel, Kernels, SEEDS, counts, rounded};
use crate::kernels::harness::{assert_close, assert_same_bits, random, random_indices};

/// Weights, sorted slots, positions of slots, offsets.
type Routed = (Vec<f32>, Vec<i32>, Vec<i32>, Vec<i32>);

fn route(compiled: &Kernels, seed: u64, spec: &Route, logits: &[f32]) -> Routed {
    let &Route { n_experts, top_k, .. } = spec;
    let rows = logits.len() / n_experts;
    let args = [
        Arg::f32_rows(n_experts, logits),
        Arg::Unwritten { elem: Elem::F32, cols: top_k, n: rows },
        Arg::UnwrittenDense(2 * rows * top_k),
        Arg::UnwrittenDense(n_experts + 1),
        Arg::UnwrittenDense(rows * top_k),
        Arg::Count(rows),
    ];
    let found = compiled.run(seed, &spec.clone().into(), counts(rows, 1, 1), &args);
    let pairs = found[1].i32();
    let of = |which: usize| pairs.iter().skip(which).step_by(2).copied().collect();
    (found[0].f32().to_vec(), of(0), of(1), found[2].i32().to_vec())
}

#[test]
fn routes_agree_with_the_reference() {
    for (n_experts, top_k) in [(16, 2), (4, 2), (1, 1), (7, 3), (64, 6)] {
        let spec = Route { n_experts, top_k };
        let compiled = Kernels::compile([&spec.clone().into()]);
        for rows in [1, 3, 33, 512, 1100] {
            let any: Vec<f32> = random(1, rows * n_experts).iter().map(|x| 8.0 * x).collect();
            // Only three values, which gives many ties.
            let tied: Vec<f32> = random_indices(2, rows * n_experts, 3).iter().map(|&x| x as f32).collect();
            for (logits, seed) in [(any, 1), (tied, 2)] {
                let what = format!("{spec:?}, {rows} rows, seed {seed}");
                let (weights, slots, places, offsets) = route(&compiled, seed, &spec, &logits);
                let p = softmax::softmax(&logits, n_experts);
                let expected = moe::top_k(&p, n_experts, top_k);
                assert_close(&what, &weights, &expected.0, Tolerance { abs: 1e-30, rel: 1e-5 });
                let (expected_slots, expected_offsets) =
                    moe::moe_permute(&expected.1, n_experts).expect("experts that there are");
                assert_eq!((&slots, &offsets), (&expected_slots, &expected_offsets), "{what}");
                for (place, &slot) in slots.iter().enumerate() {
                    assert_eq!(places[slot as usize], place as i32, "{what}: slot {slot}");
                }
            }
        }
    }
}

#[test]
fn a_token_of_nan_has_experts_that_exist() {
    let spec = Route { n_experts: 5, top_k: 3 };
    let compiled = Kernels::compile([&spec.clone().into()]);
    let nan = f32::NAN;
    let logits = [nan, 0.25, nan, nan, 0.75, nan, nan, nan, nan, nan, 0.0, 1.0, 2.0, 3.0, 4.0];
    let (_, slots, _, offsets) = route(&compiled, 1, &spec, &logits);
    let mut sorted = slots.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..9).collect::<Vec<i32>>(), "{slots:?}");
    assert_eq!((offsets[0], offsets[5]), (0, 9), "{offsets:?}");
    assert!(offsets.is_sorted(), "{offsets:?}");
}

#[test]
fn rows_go_to_their_experts_and_back() {
    for (cols, top_k, rows) in [(9, 2, 1), (4096, 2, 5), (130, 3, 20), (64, 1, 7)] {
        let gather = Kernel { code: Gather { cols, top_k }.launch(1), rows: Rows::TOKENS };
        let kernels: [Kernel; 2] = [gather, Combine { cols, top_k }.into()];
        let compiled = Kernels::compile(&kernels);
        let n_experts = 4;
        let experts: Vec<i32> = (0..rows * top_k).map(|slot| ((slot * 7 + slot / 3) % n_experts) as i32).collect();
        let (slots, _) = moe::moe_permute(&experts, n_experts).expect("experts that there are");
        let mut pairs = vec![0; 2 * slots.len()];
        for (place, &slot) in slots.iter().enumerate() {
            pairs[2 * place] = slot;
            pairs[2 * slot as usize + 1] = place as i32;
        }
        let x = rounded(&random(1, rows * cols));
        let weights = random(2, rows * top_k);
        let y = random(3, rows * top_k * cols);
        for seed in SEEDS {
            let what = format!("{cols} columns, {top_k} of {rows} rows, seed {seed}");
            let args = [
                Arg::bf16_rows(cols, &x),
                Arg::I32(pairs.clone()),
                Arg::Unwritten { elem: Elem::Bf16, cols, n: slots.len() },
                Arg::Count(slots.len()),
            ];
            let found = compiled.run(seed, &kernels[0], counts(rows + 1, 1, 1), &args);
            let expected: Vec<f32> =
                slots.iter().flat_map(|&slot| &x[slot as usize / top_k * cols..][..cols]).copied().collect();
            assert_same_bits(&what, found[0].f32(), &expected);

            // y is sorted by expert; the reference expects slot order.
            let sorted: Vec<f32> = slots.iter().flat_map(|&slot| &y[slot as usize * cols..][..cols]).copied().collect();
            let args = [
                Arg::f32_rows(cols, &sorted),
                Arg::f32_rows(top_k, &weights),
                Arg::I32(pairs.clone()),
                Arg::Unwritten { elem: Elem::F32, cols, n: rows },
                Arg::Count(rows),
            ];
            let found = compiled.run(seed, &kernels[1], counts(rows + 1, 1, 1), &args);
            let expected = moe::moe_combine(&y, &weights, top_k, cols);
            assert_close(&what, found[0].f32(), &expected, Tolerance { abs: 3e-7, rel: 0.0 });
        }
    }
}
