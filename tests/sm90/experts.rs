//! The gather of rows by expert, which precedes a product of experts on Hopper.

use jambac_harness::{Arg, Kernel, Runner, SEEDS, assert_same_bits, counts, random, rounded};
use jambac_kernels::kernel::{Elem, Rows};
use jambac_kernels::moe_gather::Spec;
use jambac_reference::moe;

#[test]
fn rows_go_to_their_experts() {
    for (cols, top_k, rows) in [(9, 2, 1), (4096, 2, 5), (130, 3, 20), (64, 1, 7)] {
        let kernel = Kernel { code: Spec { cols, top_k }.launch(1), rows: Rows::TOKENS };
        let runner = Runner::hopper([&kernel]);
        let experts: Vec<i32> = (0..rows * top_k).map(|slot| ((slot * 7 + slot / 3) % 4) as i32).collect();
        let (slots, _) = moe::moe_permute(&experts, 4).expect("experts that there are");
        let mut pairs = vec![0; 2 * slots.len()];
        for (place, &slot) in slots.iter().enumerate() {
            pairs[2 * place] = slot;
            pairs[2 * slot as usize + 1] = place as i32;
        }
        let x = rounded(&random(1, rows * cols));
        let args = [
            Arg::bf16_rows(cols, &x),
            Arg::I32(pairs),
            Arg::unwritten(cols, slots.len()).of(Elem::Bf16),
            Arg::Scalar(slots.len()),
        ];
        let row = |&slot: &i32| &x[slot as usize / top_k * cols..][..cols];
        let expected: Vec<f32> = slots.iter().flat_map(row).copied().collect();
        for seed in SEEDS {
            let found = runner.run(seed, &kernel, counts(rows + 1, 1, 1), &args);
            let what = format!("{cols} columns, {top_k} of {rows} rows, seed {seed}");
            assert_same_bits(&what, &found[0].f32(), &expected);
        }
    }
}
