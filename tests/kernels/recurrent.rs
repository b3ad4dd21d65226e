//! causal_conv1d and selective_scan: results, and states carried from one step to the next.

use jamba_plan::format::Layout;
use jambac_graph::Activation;
use jambac_kernels::catalog::AnySpec;
use jambac_kernels::kernel::{Elem, LANES, padded};
use jambac_kernels::selective_scan::{Projection, Selection};
use jambac_kernels::target::X86Level;
use jambac_kernels::{cases, causal_conv1d, selective_scan};
use jambac_reference::linear::{Linear, linear};
use jambac_reference::{Tolerance, causal_conv1d as conv, rms_norm, selective_scan as scan};

use super::harness::{Arg, Kernels, V3, Weight, assert_close, assert_same_bits, on_cpu, random};
use super::steps::{Batch, Division, Step};

/// Relative error of an f32 rounding.
const ROUNDING: f64 = 5.960_464_477_539_063e-8;

/// Slot of each sequence, in a pool of [`N_SLOTS`].
const SLOTS: [i32; 5] = [3, 0, 5, 1, 2];
const N_SLOTS: usize = 6;

/// Ragged: one sequence longer than a kernel's run of tokens, one with one token, one empty, some shorter than the convolution.
fn batch() -> Batch {
    Batch { lengths: vec![37, 1, 0, 2, 5] }
}

/// `[channels, n]` into panels `[ceil(channels / 16)][n][16]`.
fn panels(values: &[f32], n: usize, padding: f32) -> Vec<f32> {
    let channels = values.len().checked_div(n).unwrap_or(0);
    let mut packed = vec![padding; padded(channels) * n];
    for (i, &value) in values.iter().enumerate() {
        packed[(i / n / LANES * n + i % n) * LANES + i / n % LANES] = value;
    }
    packed
}

/// The inverse of [`panels`].
fn from_panels(packed: &[f32], channels: usize, n: usize) -> Vec<f32> {
    (0..channels * n).map(|i| packed[(i / n / LANES * n + i % n) * LANES + i / n % LANES]).collect()
}

/// Slots of state, `[channels, n]` per sequence. Gaps and unused slots are NaN and must stay NaN.
struct Pool {
    data: Vec<f32>,
    channels: usize,
    n: usize,
}

impl Pool {
    fn new(initial: &[f32], channels: usize, n: usize) -> Pool {
        let mut pool = Pool { data: Vec::new(), channels, n };
        pool.data = vec![f32::NAN; N_SLOTS * pool.stride()];
        for (sequence, state) in initial.chunks_exact((channels * n).max(1)).enumerate() {
            let start = SLOTS[sequence] as usize * pool.stride();
            pool.data[start..][..padded(channels) * n].copy_from_slice(&panels(state, n, f32::NAN));
        }
        pool
    }

    fn stride(&self) -> usize {
        padded(self.channels) * self.n + 2 * LANES
    }

    fn states(&self) -> Vec<f32> {
        let state = |&slot: &i32| from_panels(&self.data[slot as usize * self.stride()..], self.channels, self.n);
        SLOTS.iter().flat_map(state).collect()
    }

    fn assert_untouched_elsewhere(&self, what: &str) {
        let size = padded(self.channels) * self.n;
        for (slot, data) in self.data.chunks_exact(self.stride()).enumerate() {
            let start = if SLOTS.contains(&(slot as i32)) { size } else { 0 };
            assert!(data[start..].iter().all(|x| x.is_nan()), "{what}: wrote outside the states, in slot {slot}");
        }
    }
}

/// Runs a batch in steps; `args` returns a step's arguments before and after `state`. Returns y and the states.
fn run(
    kernels: &Kernels,
    kernel: &AnySpec,
    mut pool: Pool,
    division: Division,
    args: impl Fn(&Step) -> (Vec<Arg>, Vec<Arg>),
) -> (Vec<f32>, Vec<f32>) {
    let batch = batch();
    let channels = pool.channels;
    let mut y = vec![f32::NAN; batch.n_tokens() * channels];
    for step in batch.steps(division) {
        let slots: Vec<i32> = step.sequences.iter().map(|&s| SLOTS[s]).collect();
        let (table, count) = match kernel {
            AnySpec::SelectiveScan(_) => (step.sequence_of(), step.n_tokens()),
            _ => (step.starts(), step.sequences.len()),
        };
        let (mut args, rest) = args(&step);
        args.push(Arg::f32(&pool.data));
        args.extend(rest);
        args.extend([
            Arg::i32(&table),
            Arg::i32(&slots),
            Arg::unwritten(channels, step.n_tokens()),
            Arg::Scalar(count),
            Arg::Scalar(pool.stride()),
        ]);
        let found = division.run(kernels, kernel, &args);
        pool.data = found[0].f32();
        step.scatter(channels, &found[1].f32(), &mut y);
    }
    pool.assert_untouched_elsewhere(&format!("{}, {division:?}", on_cpu(kernel).symbol));
    let states = pool.states();
    (y, states)
}

/// Compares the undivided batch with the reference's y and states, and divided batches bit for bit with the undivided one.
fn check(
    symbol: &str,
    run: impl Fn(Division) -> (Vec<f32>, Vec<f32>),
    expected: (Vec<f32>, Vec<f32>),
    tolerances: [Tolerance; 2],
) {
    let whole = run(Division::Whole);
    assert_close(&format!("{symbol}: y"), &whole.0, &expected.0, tolerances[0]);
    assert_close(&format!("{symbol}: state"), &whole.1, &expected.1, tolerances[1]);
    for division in &Division::ALL[1..] {
        let divided = run(*division);
        assert_same_bits(&format!("{symbol}: y, {division:?}"), &divided.0, &whole.0);
        assert_same_bits(&format!("{symbol}: state, {division:?}"), &divided.1, &whole.1);
    }
}

fn check_conv(kernels: &Kernels, spec: &causal_conv1d::Spec) {
    let causal_conv1d::Spec { channels, taps, bias, activation } = *spec;
    let (past, batch, kernel) = (taps - 1, batch(), spec.clone().into());
    let u = random(1, batch.n_tokens() * channels);
    let (weight, bias_values) = (random(2, channels * taps), random(3, channels));
    let state = random(4, batch.lengths.len() * channels * past);
    let args = |step: &Step| {
        let mut args = vec![Arg::rows(channels, &step.gather(channels, &u)), Arg::f32(&panels(&weight, taps, 0.0))];
        args.extend(bias.then(|| Arg::vector(&bias_values)));
        (args, vec![])
    };
    let expected = conv::causal_conv1d(&conv::Conv {
        u: &u,
        weight: &weight,
        bias: bias.then_some(&bias_values),
        state: &state,
        lengths: &batch.lengths,
        channels,
        activation,
    });
    // Products, sums and bias round at magnitudes below taps + 1; silu and softplus add a few units and have slopes of about 1
    // at most.
    let tolerance = Tolerance { abs: ((taps + 1) * (taps + 1)) as f64 * ROUNDING, rel: 6.0 * ROUNDING };
    let run = |division| run(kernels, &kernel, Pool::new(&state, channels, past), division, args);
    check(&on_cpu(&kernel).symbol, run, expected, [tolerance, Tolerance::EXACT]);
}

/// The inputs of a selection for all tokens, and the reference's outputs.
struct Selected {
    spec: selective_scan::Spec,
    /// Rows of slot `x`, or of `dt`, `b` and `c`.
    rows: Vec<(usize, Vec<f32>)>,
    norms: Vec<Vec<f32>>,
    weight: Option<(Weight, Vec<f32>)>,
    dt: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
}

impl Selected {
    fn new(spec: &selective_scan::Spec, n_tokens: usize) -> Selected {
        let (channels, d_state) = (spec.channels, spec.d_state);
        let mut made = Selected {
            spec: spec.clone(),
            rows: Vec::new(),
            norms: Vec::new(),
            weight: None,
            dt: Vec::new(),
            b: random(4, n_tokens * d_state),
            c: random(5, n_tokens * d_state),
        };
        let Some(Projection { dt_rank, format }) = spec.selection.projection() else {
            // From 0 to 1.
            made.dt = random(1, n_tokens * channels).iter().map(|x| x * x).collect();
            made.rows = vec![(channels, made.dt.clone()), (d_state, made.b.clone()), (d_state, made.c.clone())];
            return made;
        };
        let mut low = random(1, n_tokens * dt_rank);
        if let Selection::Normed { eps, .. } = spec.selection {
            let x = random(1, n_tokens * (dt_rank + 2 * d_state));
            made.norms = [(9, dt_rank), (10, d_state), (11, d_state)].map(|(seed, n)| random(seed, n)).to_vec();
            let weights: Vec<&[f32]> = made.norms.iter().map(Vec::as_slice).collect();
            let parts = rms_norm::split_rms_norm(&x, &weights, eps);
            [low, made.b, made.c] = parts.try_into().expect("three parts");
            made.rows = vec![(dt_rank + 2 * d_state, x)];
        } else {
            made.rows = vec![(dt_rank, low.clone()), (d_state, made.b.clone()), (d_state, made.c.clone())];
        }
        // Rows of dt_rank values with mean square at most 1, times as many weights below 1 / dt_rank: sums from −3 to 1, Δ from
        // 0.05 to 1.3.
        let layout = Layout::in_panels(1, channels as u64, dt_rank as u64, LANES as u64);
        let weight: Vec<f32> = random(12, channels * dt_rank).iter().map(|x| x / dt_rank as f32).collect();
        let weight = Weight::pack(&weight, layout, format);
        let bias: Vec<f32> = random(13, channels).iter().map(|x| x - 1.0).collect();
        let shape = Linear { n_in: dt_rank, n_out: channels, activation: Activation::Softplus };
        made.dt = linear(&low, &weight.values, Some(&bias), shape);
        made.weight = Some((weight, bias));
        made
    }

    /// The arguments of a step.
    fn args(&self, step: &Step) -> Vec<Arg> {
        let mut args: Vec<Arg> =
            self.rows.iter().map(|(cols, rows)| Arg::rows(*cols, &step.gather(*cols, rows))).collect();
        args.extend(self.norms.iter().map(|weight| Arg::vector(weight)));
        if let Some((weight, bias)) = &self.weight {
            args.extend([Arg::weight(weight), Arg::vector(bias)]);
        }
        args
    }

    /// Roundings of Δ, B and C, which scale the input of a state: sums of dt_rank products below 1 / dt_rank, the softplus, and
    /// the norms with 8 roundings.
    fn roundings(&self) -> f64 {
        let sums = self.spec.selection.projection().map_or(0.0, |projection| 4.0 + (projection.dt_rank as f64).sqrt());
        sums + if self.norms.is_empty() { 0.0 } else { 3.0 * 8.0 }
    }
}

fn check_scan(kernels: &Kernels, spec: &selective_scan::Spec) {
    let &selective_scan::Spec { channels, d_state, gated, .. } = spec;
    let (batch, kernel) = (batch(), spec.clone().into());
    let n_tokens = batch.n_tokens();
    let selected = Selected::new(spec, n_tokens);
    // A from −e² to −e⁻²: from decays that lose one part in ten thousand to decays that lose all state in a token.
    let a_log: Vec<f32> = random(2, channels * d_state).iter().map(|x| 2.0 * x).collect();
    let u = random(3, n_tokens * channels);
    let (d, z) = (random(6, channels), random(7, n_tokens * channels));
    let state = random(8, batch.lengths.len() * channels * d_state);
    let args = |step: &Step| {
        let rows = |operand: &[f32]| Arg::rows(channels, &step.gather(channels, operand));
        let skip_and_gate = if gated { vec![Arg::vector(&d), rows(&z)] } else { vec![] };
        let mut args = vec![rows(&u), Arg::f32(&panels(&decay_rates(&a_log), d_state, 0.0))];
        args.extend(selected.args(step));
        (args, skip_and_gate)
    };
    let operands = scan::Scan {
        dt: &selected.dt,
        u: &u,
        a_log: &a_log,
        b: &selected.b,
        c: &selected.c,
        state: &state,
        lengths: &batch.lengths,
        d_inner: channels,
        d_state,
    };
    let expected = if gated { scan::gated_selective_scan(&operands, &d, &z) } else { scan::selective_scan(&operands) };
    // A state of magnitude up to 4 is updated with every token. dt · a is up to 7 · log₂(e); its rounding and that of its rate
    // change the decay by 10 roundings at e⁻⁷, by less for larger decays. exp2 adds 4 roundings and the sums add 2. y sums
    // d_state states.
    let roundings = 8.0 + selected.roundings();
    let states = Tolerance::abs(4.0 * roundings * ROUNDING);
    let sums = Tolerance { abs: 4.0 * roundings * (d_state as f64).sqrt() * ROUNDING, rel: 8.0 * ROUNDING };
    let run = |division| run(kernels, &kernel, Pool::new(&state, channels, d_state), division, args);
    check(&on_cpu(&kernel).symbol, run, expected, [sums, states]);
}

/// −exp(a_log) · log₂(e), as the weight is packed.
fn decay_rates(a_log: &[f32]) -> Vec<f32> {
    a_log.iter().map(|&x| (-f64::from(x).exp() * std::f64::consts::LOG2_E) as f32).collect()
}

#[test]
fn conv_agrees_with_the_reference_however_divided() {
    for level in [V3, X86Level::V2] {
        let specs = cases::causal_conv1d();
        let small: Vec<_> = specs.iter().filter(|case| case.bytes() < 2.5e5).collect();
        let Some(kernels) = Kernels::compile(level, small.iter().map(|case| &case.kernel)) else { return };
        for case in small {
            let AnySpec::CausalConv1d(spec) = &case.kernel else { panic!("a case of another kernel: {case:?}") };
            check_conv(&kernels, spec);
        }
    }
}

#[test]
fn scan_agrees_with_the_reference_however_divided() {
    for level in [V3, X86Level::V2] {
        let specs = cases::selective_scan();
        let is_half = |case: &cases::Case| case.on_cpu().params().iter().any(|param| param.elem() == Some(Elem::F16));
        let fits = |case: &&cases::Case| level == V3 || !is_half(case); // Half precision needs F16C.
        let small = specs.iter().filter(|case| case.bytes() < 2.5e5).filter(fits);
        let small: Vec<_> = small.collect();
        let Some(kernels) = Kernels::compile(level, small.iter().map(|case| &case.kernel)) else { return };
        for case in small {
            let AnySpec::SelectiveScan(spec) = &case.kernel else { panic!("a case of another kernel: {case:?}") };
            check_scan(&kernels, spec);
        }
    }
}

/// One token of one sequence, d_state 1, b = c = 1, u = 1: y is the next state, decay · h + dt.
fn one_step(kernels: &Kernels, kernel: &AnySpec, dt: &[f32], rate: &[f32], h: &[f32]) -> Vec<f32> {
    let one = vec![1.0; dt.len()];
    let args = [
        Arg::rows(dt.len(), &one),
        Arg::f32(rate),
        Arg::rows(dt.len(), dt),
        Arg::rows(1, &[1.0]),
        Arg::rows(1, &[1.0]),
        Arg::f32(h),
        Arg::i32(&[0]),
        Arg::i32(&[0]),
        Arg::unwritten(dt.len(), 1),
        Arg::Scalar(1),
        Arg::Scalar(dt.len()),
    ];
    let found = kernels.run(kernel, &args);
    assert_same_bits("state and y", &found[0].f32(), &found[1].f32());
    found[1].f32()
}

#[test]
fn scan_keeps_and_forgets_entirely() {
    let kernel =
        AnySpec::from(selective_scan::Spec { channels: 16, d_state: 1, selection: Selection::Given, gated: false });
    let Some(kernels) = Kernels::compile(V3, [&kernel]) else { return };
    let h = random(1, 16);
    let rate = vec![-1.5; 16];
    // A step size of zero keeps every bit; one beyond the exponent range clears h.
    assert_same_bits("dt = 0", &one_step(&kernels, &kernel, &[0.0; 16], &rate, &h), &h);
    assert_same_bits("dt = 10⁴", &one_step(&kernels, &kernel, &[1e4; 16], &rate, &h), &[1e4; 16]);
    // NaN propagates.
    assert!(one_step(&kernels, &kernel, &[f32::NAN; 16], &rate, &h).iter().all(|x| x.is_nan()));
}
