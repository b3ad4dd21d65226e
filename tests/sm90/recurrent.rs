//! causal_conv1d and selective_scan: results, and states carried from one step to the next.

use jambac_graph::Activation;
use jambac_kernels::causal_conv1d::Spec as Conv;
use jambac_kernels::hopper::row_stride;
use jambac_kernels::kernel::{Config, Elem};
use jambac_kernels::selective_scan::Selection;
use jambac_kernels::selective_scan::Spec as Scan;
use jambac_reference::{Tolerance, causal_conv1d as conv, selective_scan as scan};

use super::harness::{Arg, Kernel, Kernels, counts, rounded};
use crate::kernels::harness::{assert_close, assert_same_bits, random};
use crate::kernels::steps::{Batch, Division, Step};

/// Relative error bound of a bf16 rounding: half a unit in the last place.
const BF16: f64 = 1.0 / 256.0;

/// Slot of each sequence, in a pool of [`N_SLOTS`].
const SLOTS: [i32; 5] = [3, 0, 5, 1, 2];
const N_SLOTS: usize = 6;

/// Elements of a slot after the state.
const BEHIND: usize = 20;

/// Ragged: one sequence longer than a run or a stretch of tokens, one with one token, one empty, some shorter than the
/// convolution.
fn batch() -> Batch {
    Batch { lengths: vec![75, 1, 0, 2, 5] }
}

/// A pool of states. Gaps and unused slots are NaN and must stay NaN.
struct Pool {
    data: Vec<f32>,
    size: usize,
}

impl Pool {
    /// `initial` holds the states of the sequences in the layout of a slot.
    fn new(initial: &[Vec<f32>]) -> Pool {
        let size = initial[0].len();
        let mut pool = Pool { data: vec![f32::NAN; N_SLOTS * (size + BEHIND)], size };
        for (state, &slot) in initial.iter().zip(&SLOTS) {
            pool.data[slot as usize * (size + BEHIND)..][..size].copy_from_slice(state);
        }
        pool
    }

    fn stride(&self) -> usize {
        self.size + BEHIND
    }

    fn states(&self) -> Vec<&[f32]> {
        SLOTS.iter().map(|&slot| &self.data[slot as usize * self.stride()..][..self.size]).collect()
    }

    fn assert_untouched_elsewhere(&self, what: &str) {
        for (slot, data) in self.data.chunks_exact(self.stride()).enumerate() {
            let start = if SLOTS.contains(&(slot as i32)) { self.size } else { 0 };
            assert!(data[start..].iter().all(|x| x.is_nan()), "{what}: wrote outside the states, in slot {slot}");
        }
    }
}

/// Runs a batch in steps; `args` returns a step's arguments, with the pool's data as the state. Returns y and the pool.
fn run(
    (compiled, seed): (&Kernels, u64),
    kernel: &Kernel,
    mut pool: Pool,
    channels: usize,
    division: Division,
    args: impl Fn(&Step, &Pool) -> Vec<Arg>,
) -> (Vec<f32>, Pool) {
    let batch = batch();
    let mut y = vec![f32::NAN; batch.n_tokens() * channels];
    for step in batch.steps(division) {
        let n = step.n_tokens();
        if n == 0 {
            continue;
        }
        let found = compiled.run(seed, kernel, counts(n + 1, step.sequences.len() + 1, 1), &args(&step, &pool));
        pool.data = found[0].f32().to_vec();
        step.scatter(channels, found[1].f32(), &mut y);
    }
    pool.assert_untouched_elsewhere(&format!("{}, {division:?}", kernel.symbol()));
    (y, pool)
}

fn slots(step: &Step) -> Arg {
    Arg::I32(step.sequences.iter().map(|&s| SLOTS[s]).collect())
}

/// Tokens per run in plans.
const RUN_PREFILL: u32 = 32;
const RUN_DECODE: u32 = 1;

#[test]
fn convolutions_agree_with_the_reference() {
    let spec = |channels, taps, bias, activation| Conv { channels, taps, bias, activation };
    let base = spec(600, 4, true, Activation::Silu);
    let cases = [
        (base.clone(), RUN_PREFILL),
        (base.clone(), RUN_DECODE),
        (Conv { bias: false, activation: Activation::None, ..base.clone() }, RUN_PREFILL),
        (spec(7, 4, true, Activation::Silu), 8),
        (spec(33, 2, true, Activation::Silu), RUN_PREFILL),
        (spec(5, 7, false, Activation::Softplus), 3),
        (spec(33, 1, true, Activation::Silu), RUN_PREFILL),
        (spec(600, 1, false, Activation::Silu), RUN_DECODE),
    ];
    let specs = cases.each_ref().map(|(spec, _)| spec.clone());
    let kernels: Vec<Kernel> = cases.iter().map(|(spec, run)| Kernel::of(spec.clone(), Config::Run(*run))).collect();
    let compiled = Kernels::compile(&kernels);
    let mut whole_of_base: Option<Vec<f32>> = None;
    for (spec, kernel) in specs.iter().zip(&kernels) {
        let &Conv { channels, taps, bias, activation } = spec;
        let (past, batch) = (taps - 1, batch());
        let u = rounded(&random(1, batch.n_tokens() * channels));
        let (weight, bias_values) = (random(2, channels * taps), random(3, channels));
        let state = random(4, SLOTS.len() * channels * past);
        let expected = conv::causal_conv1d(&conv::Conv {
            u: &u,
            weight: &weight,
            bias: bias.then_some(&bias_values),
            state: &state,
            lengths: &batch.lengths,
            channels,
            activation,
        });
        // The reference has `[channel][past]`, the slot `[past][channel]`.
        let row = row_stride(Elem::F32, channels);
        let state_elements = kernel.code.operand("state").expect("a state").extent.fixed;
        assert_eq!(state_elements, past * row);
        let slot_of = |state: &[f32]| -> Vec<f32> {
            let at = |i: usize| if i % row < channels { state[i % row * past + i / row] } else { f32::NAN };
            (0..past * row).map(at).collect()
        };
        // A slot of the state; nothing for one tap.
        let slots_of = |state: &[f32]| -> Vec<Vec<f32>> {
            let slot = channels * past;
            (0..SLOTS.len()).map(|i| slot_of(&state[i * slot..(i + 1) * slot])).collect()
        };
        let initial = slots_of(&state);
        let args = |step: &Step, pool: &Pool| {
            let mut args = vec![Arg::bf16_rows(channels, &step.gather(channels, &u)), Arg::F32(weight.clone())];
            args.extend(bias.then(|| Arg::F32(bias_values.clone())));
            args.extend([
                Arg::F32(pool.data.clone()),
                Arg::I32(step.sequence_of()),
                Arg::I32(step.starts()),
                slots(step),
                Arg::Unwritten { elem: Elem::Bf16, cols: channels, n: step.n_tokens() },
                Arg::Count(step.n_tokens()),
                Arg::Scalar(pool.stride()),
            ]);
            args
        };
        for seed in [1, 2] {
            let what = |division: Division| format!("{}, {division:?}, seed {seed}", kernel.symbol());
            let run = |division| run((&compiled, seed), kernel, Pool::new(&initial), channels, division, args);
            let whole = run(Division::Whole);
            let abs = 1e-6 * (taps as f64 + 2.0);
            assert_close(&what(Division::Whole), &whole.0, &expected.0, Tolerance { abs, rel: BF16 + 1e-6 });
            let states: Vec<f32> = slots_of(&expected.1).concat();
            for (found, expected) in whole.1.states().concat().iter().zip(&states) {
                assert!(expected.is_nan() || found.to_bits() == expected.to_bits(), "{}", what(Division::Whole));
            }
            for &division in &Division::ALL[1..] {
                let divided = run(division);
                assert_same_bits(&what(division), &divided.0, &whole.0);
            }
            if seed == 1 && (channels, bias) == (base.channels, true) {
                // The bits do not depend on the length of runs.
                let first = whole_of_base.get_or_insert_with(|| whole.0.clone());
                assert_same_bits(&what(Division::Whole), &whole.0, first);
            }
        }
    }
}

#[test]
fn scans_agree_with_the_reference() {
    let spec = |channels, d_state, gated| Scan { channels, d_state, selection: Selection::Given, gated };
    // The first has four states per lane; the last few have odd numbers of channels or states.
    let specs = [
        spec(7700, 16, true),
        spec(160, 16, true),
        spec(40, 16, false),
        spec(9, 64, true),
        spec(40, 5, true),
        spec(3, 1, false),
        spec(11, 40, true),
    ];
    let kernels: Vec<Kernel> = specs.iter().map(|spec| spec.clone().into()).collect();
    let compiled = Kernels::compile(&kernels);
    for (spec, kernel) in specs.iter().zip(&kernels) {
        let &Scan { channels, d_state, gated, .. } = spec;
        let batch = batch();
        let tokens = batch.n_tokens();
        let wide = |seed, n: usize| rounded(&random(seed, n));
        let (u, z) = (wide(1, tokens * channels), wide(2, tokens * channels));
        let dt: Vec<f32> = random(3, tokens * channels).iter().map(|x| 0.05 * (1.0 + x)).collect();
        let (b, c) = (random(4, tokens * d_state), random(5, tokens * d_state));
        let a_log: Vec<f32> = random(6, channels * d_state).iter().map(|x| 1.5 * (1.0 + x)).collect();
        let rates: Vec<f32> = a_log.iter().map(|&x| (-f64::from(x).exp() * std::f64::consts::LOG2_E) as f32).collect();
        let d = random(7, channels);
        let state = random(8, SLOTS.len() * channels * d_state);
        let operands = scan::Scan {
            dt: &dt,
            u: &u,
            a_log: &a_log,
            b: &b,
            c: &c,
            state: &state,
            lengths: &batch.lengths,
            d_inner: channels,
            d_state,
        };
        let expected = match gated {
            true => scan::gated_selective_scan(&operands, &d, &z),
            false => scan::selective_scan(&operands),
        };
        let state_elements = kernel.code.operand("state").expect("a state").extent.fixed;
        assert_eq!(state_elements, channels * d_state);
        let initial: Vec<Vec<f32>> = state.chunks_exact(channels * d_state).map(<[f32]>::to_vec).collect();
        let args = |step: &Step, pool: &Pool| {
            let mut args = vec![
                Arg::bf16_rows(channels, &step.gather(channels, &u)),
                Arg::F32(rates.clone()),
                Arg::f32_rows(channels, &step.gather(channels, &dt)),
                Arg::f32_rows(d_state, &step.gather(d_state, &b)),
                Arg::f32_rows(d_state, &step.gather(d_state, &c)),
                Arg::F32(pool.data.clone()),
            ];
            if gated {
                args.push(Arg::F32(d.clone()));
                args.push(Arg::bf16_rows(channels, &step.gather(channels, &z)));
            }
            args.extend([
                Arg::I32(step.starts()),
                slots(step),
                Arg::Unwritten { elem: Elem::Bf16, cols: channels, n: step.n_tokens() },
                Arg::Count(step.sequences.len()),
                Arg::Scalar(pool.stride()),
            ]);
            args
        };
        let seeds: &[u64] = if channels > 1000 { &[1] } else { &[1, 2] };
        for &seed in seeds {
            let what = |division: Division| format!("{}, {division:?}, seed {seed}", kernel.symbol());
            let run = |division| run((&compiled, seed), kernel, Pool::new(&initial), channels, division, args);
            let whole = run(Division::Whole);
            // The products sum to less than d_state; a decay has an error of 2⁻²², and a decaying value lasts some 1 / (Δ ·
            // |A|) tokens.
            let abs = 4e-6 * d_state as f64;
            assert_close(&what(Division::Whole), &whole.0, &expected.0, Tolerance { abs, rel: BF16 + 1e-6 });
            let states = whole.1.states().concat();
            assert_close(&what(Division::Whole), &states, &expected.1, Tolerance { abs: 1e-5, rel: 1e-5 });
            let divisions: &[Division] = if channels > 1000 { &[] } else { &Division::ALL[1..] };
            for &division in divisions {
                let divided = run(division);
                assert_same_bits(&what(division), &divided.0, &whole.0);
                assert_same_bits(&what(division), &divided.1.states().concat(), &states);
            }
        }
    }
}
