//! causal_conv1d and selective_scan: results, and states carried from one step to the next.

use jamba_plan::format::{Table, TargetKind};
use jambac_graph::Activation;
use jambac_harness::{
    Arg, Call, Conditions, Lower, Runner, Subject, Target, assert_close, assert_same_bits, counts, each, each_under,
    random, rounded, stored,
};
use jambac_kernels::cases::{Case, Counts};
use jambac_kernels::catalog::AnySpec;
use jambac_kernels::hopper::row_stride;
use jambac_kernels::kernel::{Config, Elem, LANES, Rows, padded};
use jambac_kernels::node::Select as _;
use jambac_kernels::selective_scan::{Projection, Selection};
use jambac_kernels::{causal_conv1d, selective_scan};
use jambac_reference::linear::{Linear, linear};
use jambac_reference::{Tolerance, causal_conv1d as conv, rms_norm, selective_scan as scan};
use ptxsim::Options;

use super::steps::{Batch, Division, Step};
use super::{ARM, BF16, ROUNDING, V2, V3};

/// Slot of each sequence, in a pool of [`N_SLOTS`].
const SLOTS: [i32; 5] = [3, 0, 5, 1, 2];
const N_SLOTS: usize = 6;

/// One token of each sequence.
const COUNTS: Counts = Counts { tokens: SLOTS.len(), sequences: SLOTS.len(), outputs: 1, context: 0 };

/// Ragged: one sequence longer than a kernel's run of tokens, one with one token, one empty, some shorter than the convolution.
fn batch(target: TargetKind) -> Batch {
    Batch { lengths: vec![if target == TargetKind::Cpu { 37 } else { 75 }, 1, 0, 2, 5] }
}

/// The order of a state's elements `[channels, n]` in a slot.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// `[ceil(channels / 16)][n][16]`.
    Panels,
    /// `[channels][n]`.
    Channels,
    /// `[n][channels]`, rows padded as activations on Hopper.
    Rows,
}

impl Order {
    /// Elements of a slot.
    fn len(self, channels: usize, n: usize) -> usize {
        match self {
            Order::Panels => padded(channels) * n,
            Order::Channels => channels * n,
            Order::Rows => n * row_stride(Elem::F32, channels),
        }
    }

    /// Where element `i` is in the slot.
    fn place(self, i: usize, channels: usize, n: usize) -> usize {
        match self {
            Order::Panels => (i / n / LANES * n + i % n) * LANES + i / n % LANES,
            Order::Channels => i,
            Order::Rows => i % n * row_stride(Elem::F32, channels) + i / n,
        }
    }
}

/// Slots of state, `[channels, n]` per sequence. Gaps and unused slots are NaN and must stay NaN.
struct Pool {
    data: Vec<f32>,
    order: Order,
    channels: usize,
    n: usize,
}

impl Pool {
    fn new(initial: &[f32], order: Order, channels: usize, n: usize) -> Pool {
        let mut pool = Pool { data: Vec::new(), order, channels, n };
        pool.data = vec![f32::NAN; N_SLOTS * pool.stride()];
        for (sequence, state) in initial.chunks_exact((channels * n).max(1)).enumerate() {
            let start = SLOTS[sequence] as usize * pool.stride();
            for (i, &element) in state.iter().enumerate() {
                pool.data[start + order.place(i, channels, n)] = element;
            }
        }
        pool
    }

    /// Elements from one slot to the next; some behind the state belong to another layer.
    fn stride(&self) -> usize {
        self.order.len(self.channels, self.n) + if matches!(self.order, Order::Panels) { 2 * LANES } else { 20 }
    }

    fn states(&self) -> Vec<f32> {
        let state = |&slot: &i32| {
            let start = slot as usize * self.stride();
            let element = move |i| self.data[start + self.order.place(i, self.channels, self.n)];
            (0..self.channels * self.n).map(element)
        };
        SLOTS.iter().flat_map(state).collect()
    }

    fn assert_untouched_elsewhere(&self, what: &str) {
        let size = self.order.len(self.channels, self.n);
        for (slot, data) in self.data.chunks_exact(self.stride()).enumerate() {
            let start = if SLOTS.contains(&(slot as i32)) { size } else { 0 };
            assert!(data[start..].iter().all(|x| x.is_nan()), "{what}: wrote outside the states, in slot {slot}");
        }
    }
}

/// A kernel under some conditions.
struct On<'a, K> {
    runner: &'a Runner,
    conditions: &'a Conditions,
    kernel: &'a K,
}

impl<'a> On<'a, Case> {
    fn of(on: &'a Subject) -> On<'a, Case> {
        On { runner: on.runner, conditions: &on.conditions, kernel: on.case }
    }
}

impl<K: Lower> On<'_, K> {
    fn target(&self) -> TargetKind {
        self.runner.kind()
    }

    fn what(&self) -> String {
        format!("{}, {:?}", self.kernel.lowered(self.target())[0].symbol(), self.conditions)
    }

    /// Values as the target's activations hold them.
    fn held(&self, values: Vec<f32>) -> Vec<f32> {
        if self.target() == TargetKind::Cpu { values } else { rounded(&values) }
    }

    /// Runs a batch in steps; `operands` adds a step's operands to its call. Returns y and the states.
    fn run(&self, mut pool: Pool, division: Division, operands: impl Fn(&Step, Call) -> Call) -> (Vec<f32>, Vec<f32>) {
        let batch = batch(self.target());
        let channels = pool.channels;
        let mut y = vec![f32::NAN; batch.n_tokens() * channels];
        for step in batch.steps(division) {
            let n = step.n_tokens();
            if n == 0 && self.target() != TargetKind::Cpu {
                continue;
            }
            let call = operands(&step, Call::new(counts(n, step.sequences.len(), 1)))
                .table(Table::SequenceOf, step.sequence_of())
                .table(Table::Starts, step.starts())
                .table(Table::Slots, step.sequences.iter().map(|&s| SLOTS[s]).collect())
                .pool(&pool.data, pool.stride())
                .gives(channels);
            let found = self.runner.call(division.conditions(self.conditions), self.kernel, &call);
            pool.data = found.state().to_vec();
            step.scatter(channels, &found.rows(0), &mut y);
        }
        pool.assert_untouched_elsewhere(&format!("{}, {division:?}", self.what()));
        let states = pool.states();
        (y, states)
    }

    /// Compares the undivided batch with the reference's y and states, and divided batches bit for bit with the undivided one.
    /// Returns y.
    fn check(
        &self,
        run: impl Fn(Division) -> (Vec<f32>, Vec<f32>),
        divisions: &[Division],
        expected: (Vec<f32>, Vec<f32>),
        tolerances: [Tolerance; 2],
    ) -> Vec<f32> {
        let (what, whole) = (self.what(), run(Division::Whole));
        assert_close(&format!("{what}: y"), &whole.0, &expected.0, tolerances[0]);
        assert_close(&format!("{what}: state"), &whole.1, &expected.1, tolerances[1]);
        for division in divisions {
            let divided = run(*division);
            assert_same_bits(&format!("{what}: y, {division:?}"), &divided.0, &whole.0);
            assert_same_bits(&format!("{what}: state, {division:?}"), &divided.1, &whole.1);
        }
        whole.0
    }
}

/// Returns y of the undivided batch.
fn check_conv(on: &On<impl Lower>, spec: &causal_conv1d::Spec) -> Vec<f32> {
    let causal_conv1d::Spec { channels, taps, bias, activation } = *spec;
    let (past, batch, is_cpu) = (taps - 1, batch(on.target()), on.target() == TargetKind::Cpu);
    let u = on.held(random(1, batch.n_tokens() * channels));
    let (weight, bias_values) = (random(2, channels * taps), random(3, channels));
    let state = random(4, batch.lengths.len() * channels * past);
    let operands = |step: &Step, call: Call| {
        let call = call.rows(channels, &step.gather(channels, &u)).parameter(&weight);
        if bias { call.parameter(&bias_values) } else { call }
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
    // at most. On Hopper they are approximate, and y is rounded to bf16.
    let tolerance = match is_cpu {
        true => Tolerance { abs: ((taps + 1) * (taps + 1)) as f64 * ROUNDING, rel: 6.0 * ROUNDING },
        false => Tolerance { abs: 1e-6 * (taps as f64 + 2.0), rel: BF16 + 1e-6 },
    };
    let order = if is_cpu { Order::Panels } else { Order::Rows };
    let run = |division| on.run(Pool::new(&state, order, channels, past), division, operands);
    on.check(run, &Division::ALL[1..], expected, [tolerance, Tolerance::EXACT])
}

/// The inputs of a selection for all tokens, and the reference's outputs.
struct Selected {
    spec: selective_scan::Spec,
    /// Rows of slot `x`, or of `dt`, `b` and `c`.
    rows: Vec<(usize, Vec<f32>)>,
    norms: Vec<Vec<f32>>,
    weight: Option<(Vec<f32>, Vec<f32>)>,
    dt: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
}

impl Selected {
    fn new(spec: &selective_scan::Spec, n_tokens: usize, target: TargetKind) -> Selected {
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
            // From 0 to 1; on Hopper to 0.1.
            let step_size = |x: &f32| if target == TargetKind::Cpu { x * x } else { 0.05 * (1.0 + x) };
            made.dt = random(1, n_tokens * channels).iter().map(step_size).collect();
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
        let weight: Vec<f32> = random(12, channels * dt_rank).iter().map(|x| x / dt_rank as f32).collect();
        let weight = stored(format, &weight);
        let bias: Vec<f32> = random(13, channels).iter().map(|x| x - 1.0).collect();
        // On Hopper the tensor cores read rows of bf16.
        let low = if target == TargetKind::Cpu { low } else { rounded(&low) };
        let shape = Linear { n_in: dt_rank, n_out: channels, activation: Activation::Softplus };
        made.dt = linear(&low, &weight, Some(&bias), shape);
        made.weight = Some((weight, bias));
        made
    }

    /// Adds the operands of a step to a call.
    fn operands(&self, step: &Step, call: Call) -> Call {
        let rows = self.rows.iter().fold(call, |call, (cols, rows)| call.rows(*cols, &step.gather(*cols, rows)));
        let call = rows.parameters(self.norms.iter().map(Vec::as_slice));
        match &self.weight {
            Some((weight, bias)) => call.parameter(weight).parameter(bias),
            None => call,
        }
    }

    /// The reference's scan of these inputs.
    fn scan<'a>(&'a self, u: &'a [f32], a_log: &'a [f32], state: &'a [f32], batch: &'a Batch) -> scan::Scan<'a> {
        let selective_scan::Spec { channels: d_inner, d_state, .. } = self.spec;
        let Selected { dt, b, c, .. } = self;
        scan::Scan { dt, u, a_log, b, c, state, lengths: &batch.lengths, d_inner, d_state }
    }

    /// Roundings of Δ, B and C, which scale the input of a state: sums of dt_rank products below 1 / dt_rank, the softplus, and
    /// the norms with 8 roundings.
    fn roundings(&self) -> f64 {
        let sums = self.spec.selection.projection().map_or(0.0, |projection| 4.0 + (projection.dt_rank as f64).sqrt());
        sums + if self.norms.is_empty() { 0.0 } else { 3.0 * 8.0 }
    }
}

/// Tolerances of y and of the state on Hopper. The products sum to less than d_state; a decay has an error of 2⁻²², and a decaying value
/// lasts some 1 / (Δ · |A|) tokens. A normed dt between two bf16 numbers may be rounded to the other one, which changes Δ by 2⁻⁸ of
/// one of dt_rank products below 1 / dt_rank.
fn hopper_tolerances(spec: &selective_scan::Spec) -> [Tolerance; 2] {
    let of_dt = match spec.selection {
        Selection::Normed { projection, .. } => 8.0 * BF16 / projection.dt_rank as f64,
        _ => 0.0,
    };
    let y = Tolerance { abs: (4e-6 + of_dt) * spec.d_state as f64, rel: BF16 + 1e-6 + of_dt };
    [y, Tolerance { abs: 1e-5 + of_dt, rel: 1e-5 + of_dt }]
}

fn check_scan(on: &On<impl Lower>, spec: &selective_scan::Spec) {
    let &selective_scan::Spec { channels, d_state, gated, .. } = spec;
    let (batch, is_cpu) = (batch(on.target()), on.target() == TargetKind::Cpu);
    let n_tokens = batch.n_tokens();
    let selected = Selected::new(spec, n_tokens, on.target());
    // A from −e² to −e⁻²: from decays that lose one part in ten thousand to decays that lose all state in a token. On Hopper from
    // −e³ to −1.
    let a_log = |x: &f32| if is_cpu { 2.0 * x } else { 1.5 * (1.0 + x) };
    let a_log: Vec<f32> = random(2, channels * d_state).iter().map(a_log).collect();
    let u = on.held(random(3, n_tokens * channels));
    let (d, z) = (random(6, channels), on.held(random(7, n_tokens * channels)));
    let state = random(8, batch.lengths.len() * channels * d_state);
    let operands = |step: &Step, call: Call| {
        let rows = |operand: &[f32]| step.gather(channels, operand);
        let call = selected.operands(step, call.rows(channels, &rows(&u)).parameter(&a_log).state());
        if gated { call.parameter(&d).rows(channels, &rows(&z)) } else { call }
    };
    let scanned = selected.scan(&u, &a_log, &state, &batch);
    let expected = if gated { scan::gated_selective_scan(&scanned, &d, &z) } else { scan::selective_scan(&scanned) };
    let tolerances = match is_cpu {
        // A state of magnitude up to 4 is updated with every token. dt · a is up to 7 · log₂(e); its rounding and that of its
        // rate change the decay by 10 roundings at e⁻⁷, by less for larger decays. exp2 adds 4 roundings and the sums add 2. y
        // sums d_state states.
        true => {
            let roundings = 8.0 + selected.roundings();
            let abs = 4.0 * roundings * (d_state as f64).sqrt() * ROUNDING;
            [Tolerance { abs, rel: 8.0 * ROUNDING }, Tolerance::abs(4.0 * roundings * ROUNDING)]
        }
        false => hopper_tolerances(spec),
    };
    let order = if is_cpu { Order::Panels } else { Order::Channels };
    let run = |division| on.run(Pool::new(&state, order, channels, d_state), division, operands);
    let divisions: &[Division] = if channels > 1000 { &[] } else { &Division::ALL[1..] };
    on.check(run, divisions, expected, tolerances);
}

/// The orders of warps and blocks that recurrent kernels are tested in on the simulator.
const ORDERS: [Conditions; 2] = [Conditions::Seed(1), Conditions::Seed(2)];

/// The cases that the reference computes fast; those of real models have other numbers of tokens.
fn small(cases: Vec<Case>) -> impl Iterator<Item = Case> {
    cases.into_iter().filter(|case| case.bytes() < 2.5e5)
}

fn conv_of(case: &Case) -> causal_conv1d::Spec {
    let AnySpec::CausalConv1d(spec) = &case.kernel else { panic!("a case of another kernel: {case:?}") };
    spec.clone()
}

fn scan_of(case: &Case) -> selective_scan::Spec {
    let AnySpec::SelectiveScan(spec) = &case.kernel else { panic!("a case of another kernel: {case:?}") };
    spec.clone()
}

fn check_conv_case(on: &Subject) {
    check_conv(&On::of(on), &conv_of(on.case));
}

#[test]
fn conv_agrees_with_the_reference_however_divided() {
    [V3, V2, ARM].into_iter().for_each(|target| each(target, small(causal_conv1d::Spec::cases()), check_conv_case));
}

#[test]
fn conv_agrees_on_hopper() {
    each_under(&ORDERS, Target::Hopper, small(causal_conv1d::Spec::cases()), check_conv_case);
}

/// Runs of other lengths than plans have, too.
#[test]
fn conv_has_the_same_bits_for_any_length_of_runs_on_hopper() {
    for (channels, lengths) in [(600, [32, 1]), (7, [8, 3])] {
        let case = causal_conv1d::Spec::cases().into_iter().find(|case| conv_of(case).channels == channels);
        let case = case.expect("a case with these channels");
        let kernels = lengths.map(|run| (&case, Config::Run(run)));
        let runner = Runner::hopper(&kernels);
        let [y, other] = kernels.each_ref().map(|kernel| {
            check_conv(&On { runner: &runner, conditions: &Conditions::Seed(1), kernel }, &conv_of(&case))
        });
        assert_same_bits(&format!("{:?}, runs of {lengths:?}", case.kernel), &y, &other);
    }
}

fn check_scan_case(on: &Subject) {
    check_scan(&On::of(on), &scan_of(on.case));
}

#[test]
fn scan_agrees_with_the_reference_however_divided() {
    [V3, V2, ARM].into_iter().for_each(|target| each(target, small(selective_scan::Spec::cases()), check_scan_case));
}

#[test]
fn scan_agrees_on_hopper() {
    // Few states per step are fast on the simulator.
    let is_fast = |case: &Case| scan_of(case).channels * scan_of(case).d_state <= 2600;
    each_under(&ORDERS, Target::Hopper, small(selective_scan::Spec::cases()).filter(is_fast), check_scan_case);
    let widest = selective_scan::Spec::cases().into_iter().filter(|case| scan_of(case).channels == 7700);
    each_under(&ORDERS[..1], Target::Hopper, widest, check_scan_case);
}

/// Steps of one token of each of five sequences on Hopper: the norms, the projection and the scan in one launch, compared with the
/// reference, and with a step of one sequence.
#[test]
fn scan_of_one_token_agrees_on_hopper() {
    const TOKENS: usize = 4;
    let batch = Batch { lengths: vec![TOKENS; SLOTS.len()] };
    let of = |channels, d_state, dt_rank, gated| {
        let selection = Selection::Normed { projection: Projection { dt_rank, format: Elem::Bf16 }, eps: 1e-6 };
        selective_scan::Spec { channels, d_state, selection, gated }
    };
    // Partial and whole pieces of dt, more than one of a lane; two and four states of a lane, lanes without states.
    let specs =
        [of(40, 16, 8, true), of(216, 16, 7, true), of(72, 16, 160, true), of(9, 64, 33, true), of(40, 5, 1, false)];
    for spec in specs.into_iter().chain([of(7700, 16, 20, true), of(3, 1, 16, true), of(11, 40, 300, true)]) {
        let selective_scan::Spec { channels, d_state, gated, .. } = spec;
        let n_tokens = batch.n_tokens();
        let selected = Selected::new(&spec, n_tokens, TargetKind::Sm90a);
        let a_log: Vec<f32> = random(2, channels * d_state).iter().map(|x| 1.5 * (1.0 + x)).collect();
        let u = rounded(&random(3, n_tokens * channels));
        let (d, z) = (random(6, channels), rounded(&random(7, n_tokens * channels)));
        let state = random(8, batch.lengths.len() * channels * d_state);
        let kernel = Case { kernel: spec.clone().into(), counts: COUNTS, rows: Rows::TOKENS };
        let kernel = (&kernel, Config::Decode);
        let runner = Runner::hopper([&kernel]);
        let run = |batch: &Batch, conditions: &Conditions| {
            let mut pool = Pool::new(&state, Order::Channels, channels, d_state);
            let mut y = vec![f32::NAN; batch.n_tokens() * channels];
            for step in batch.steps(Division::Chunks(1)) {
                let n = step.n_tokens();
                let rows = |operand: &[f32]| step.gather(channels, operand);
                let call = Call::new(counts(n, n, 1)).rows(channels, &rows(&u)).parameter(&a_log).state();
                let call = selected.operands(&step, call);
                let call = if gated { call.parameter(&d).rows(channels, &rows(&z)) } else { call };
                let slots = step.sequences.iter().map(|&s| SLOTS[s]).collect();
                let call = call.table(Table::Slots, slots).pool(&pool.data, pool.stride()).gives(channels);
                let found = runner.call(conditions.clone(), &kernel, &call);
                pool.data = found.state().to_vec();
                step.scatter(channels, &found.rows(0), &mut y);
            }
            pool.assert_untouched_elsewhere(&format!("{spec:?}"));
            (y, pool.states())
        };
        let scanned = selected.scan(&u, &a_log, &state, &batch);
        let expected =
            if gated { scan::gated_selective_scan(&scanned, &d, &z) } else { scan::selective_scan(&scanned) };
        let together = run(&batch, &ORDERS[0]);
        let [of_y, of_state] = hopper_tolerances(&spec);
        assert_close(&format!("{spec:?}: y"), &together.0, &expected.0, of_y);
        assert_close(&format!("{spec:?}: state"), &together.1, &expected.1, of_state);
        // The bits of a sequence are those that it has alone, in any order of warps and blocks.
        let exact = [1, 2].map(|seed| Conditions::from(Options { seed, exact_math: true, ..Options::default() }));
        let together = run(&batch, &exact[0]);
        let alone = run(&Batch { lengths: vec![TOKENS] }, &exact[1]);
        assert_same_bits(&format!("{spec:?}: y alone"), &alone.0, &together.0[..TOKENS * channels]);
        let of_one = channels * d_state;
        assert_same_bits(&format!("{spec:?}: state alone"), &alone.1[..of_one], &together.1[..of_one]);
    }
}

/// One token of one sequence, d_state 1, b = c = 1, u = 1: y is the next state, decay · h + dt.
fn one_step(runner: &Runner, kernel: &AnySpec, dt: &[f32], rate: &[f32], h: &[f32]) -> Vec<f32> {
    let one = vec![1.0; dt.len()];
    let args = [
        Arg::rows(dt.len(), &one),
        Arg::F32(rate.to_vec()),
        Arg::rows(dt.len(), dt),
        Arg::rows(1, &[1.0]),
        Arg::rows(1, &[1.0]),
        Arg::F32(h.to_vec()),
        Arg::I32(vec![0]),
        Arg::I32(vec![0]),
        Arg::unwritten(dt.len(), 1),
        Arg::Scalar(1),
        Arg::Scalar(dt.len()),
    ];
    let found = runner.run(Conditions::AnyThreads, kernel, counts(1, 1, 1), &args);
    assert_same_bits("state and y", &found[0].f32(), &found[1].f32());
    found[1].f32()
}

#[test]
fn scan_keeps_and_forgets_entirely() {
    let kernel =
        AnySpec::from(selective_scan::Spec { channels: 16, d_state: 1, selection: Selection::Given, gated: false });
    let Some(runner) = Runner::compile(V3, [&kernel]) else { return };
    let h = random(1, 16);
    let rate = vec![-1.5; 16];
    // A step size of zero keeps every bit; one beyond the exponent range clears h.
    assert_same_bits("dt = 0", &one_step(&runner, &kernel, &[0.0; 16], &rate, &h), &h);
    assert_same_bits("dt = 10⁴", &one_step(&runner, &kernel, &[1e4; 16], &rate, &h), &[1e4; 16]);
    // NaN propagates.
    assert!(one_step(&runner, &kernel, &[f32::NAN; 16], &rate, &h).iter().all(|x| x.is_nan()));
}
