//! linear and grouped_linear with integer weights: bit-identical to the same arithmetic in plain Rust, and as close to the
//! exact product as the rounding of x allows.

use half::bf16;
use jambac_graph::Activation;
use jambac_harness::{Arg, Array, Conditions, Runner, Target, assert_same_bits, counts, random, random_indices};
use jambac_kernels::cases::{self, Case};
use jambac_kernels::catalog::AnySpec;
use jambac_kernels::cpu::integer::padded_inputs;
use jambac_kernels::elementwise::{self, Function};
use jambac_kernels::kernel::{Elem, LANES, padded};
use jambac_kernels::linear::Spec;
use jambac_kernels::target::{CpuTarget, X86Level};
use jambac_kernels::{grouped_linear, linear_swiglu};
use jambac_reference::{linear, moe};

use super::{ARM, I8MM, INTEGER_TILES, V2, V3};

/// The results of a CPU kernel.
fn run(runner: &Runner, kernel: &AnySpec, args: &[Arg]) -> Vec<Array> {
    // The sizes of a step set the grid on GPUs; on CPUs they are arguments.
    runner.run(Conditions::AnyThreads, kernel, counts(0, 0, 0), args)
}

/// Inputs per scale of int4 and int3.
const GROUP: usize = 32;

/// A matrix `[n, k]` of integers, k padded with zeros.
#[derive(Clone)]
struct Matrix {
    format: Elem,
    n: usize,
    k: usize,
    /// `[n][K]`.
    integers: Vec<i8>,
    /// One per output and group: `[n][1]` for int8, `[n][K / 32]` for int4 and int3.
    scales: Vec<f32>,
}

impl Matrix {
    fn quantize(values: &[f32], n: usize, k: usize, format: Elem) -> Matrix {
        let mut matrix = Matrix { format, n, k, integers: Vec::new(), scales: Vec::new() };
        for row in values.chunks_exact(k) {
            let mut row = row.to_vec();
            row.resize(padded_inputs(k), 0.0);
            for group in row.chunks(matrix.group()) {
                let largest = group.iter().copied().reduce(|x, y| if y.abs() > x.abs() { y } else { x }).unwrap();
                let (scale, least, most) = match format {
                    Elem::I8 => (largest.abs() / 127.0, -127.0, 127.0),
                    Elem::I4 => (bf16::from_f32(largest / -8.0).to_f32(), -8.0, 7.0),
                    _ => (bf16::from_f32(largest / -4.0).to_f32(), -4.0, 3.0),
                };
                let integer =
                    |x: &f32| if scale == 0.0 { 0.0 } else { (x / scale).round_ties_even().clamp(least, most) };
                matrix.integers.extend(group.iter().map(|x| integer(x) as i8));
                matrix.scales.push(scale);
            }
        }
        matrix
    }

    /// Inputs per scale.
    fn group(&self) -> usize {
        if self.format == Elem::I8 { padded_inputs(self.k) } else { GROUP }
    }

    /// The dequantized weights without padding: `[n, k]`.
    fn values(&self) -> Vec<f32> {
        let (stride, group) = (padded_inputs(self.k), self.group());
        let value = |i: usize, j: usize| {
            self.scales[i * (stride / group) + j / group] * f32::from(self.integers[i * stride + j])
        };
        (0..self.n * self.k).map(|at| value(at / self.k, at % self.k)).collect()
    }

    /// The panels and their scales.
    fn pack(&self) -> (Vec<u8>, Vec<f32>) {
        let (stride, n_groups) = (padded_inputs(self.k), padded_inputs(self.k) / self.group());
        let (mut bytes, mut scales) = (Vec::new(), Vec::new());
        for panel in (0..padded(self.n)).step_by(LANES) {
            let integer = |lane: usize, j: usize| self.integers.get((panel + lane) * stride + j).copied().unwrap_or(0);
            let low = |lane: usize, j: usize| integer(lane, j) as u8 & 0xf;
            match self.format {
                Elem::I8 => bytes.extend(
                    (0..stride / 2)
                        .flat_map(|pair| (0..2 * LANES).map(move |at| integer(at / 2, 2 * pair + at % 2) as u8)),
                ),
                Elem::I3 => bytes.extend((0..stride / GROUP).flat_map(|group| {
                    (0..6 * LANES).flat_map(move |at| {
                        let (word, lane, s) = (at / (2 * LANES), at % (2 * LANES) / 2, at % 2);
                        let bits = |j: usize| integer(lane, GROUP * group + j + s) as u16 & 7;
                        let fields =
                            (0..5).map(|b| bits(10 * word + 2 * b) << (3 * b)).fold(0, |all, field| all | field);
                        (fields | (bits(30) >> word & 1) << 15).to_le_bytes()
                    })
                })),
                _ => bytes.extend((0..stride / 4).flat_map(|four| {
                    (0..2 * LANES).map(move |at| {
                        let j = 4 * four + at % 2;
                        low(at / 2, j) | low(at / 2, j + 2) << 4
                    })
                })),
            }
            for group in 0..n_groups {
                let scale = |lane: usize| self.scales.get((panel + lane) * n_groups + group).copied().unwrap_or(0.0);
                scales.extend((0..LANES).map(scale));
            }
        }
        (bytes, scales)
    }

    /// Panels and scales of a stack of matrices.
    fn args(stack: &[Matrix]) -> [Arg; 2] {
        let format = stack[0].format;
        let (bytes, scales): (Vec<_>, Vec<_>) = stack.iter().map(Matrix::pack).unzip();
        let scales = scales.concat();
        let scales = match format {
            Elem::I8 => Arg::F32(scales),
            _ => {
                let bytes = scales.iter().flat_map(|&scale| bf16::from_f32(scale).to_le_bytes()).collect();
                Arg::bytes(bytes).of(Elem::Bf16)
            }
        };
        [Arg::bytes(bytes.concat()).of(format), scales]
    }

    /// x `[rows, k]` times the matrix, operation by operation as the kernels compute it.
    fn product(&self, x: &[f32], fma: impl Fn(f32, f32, f32) -> f32) -> Vec<f32> {
        let (stride, group) = (padded_inputs(self.k), activation_group(self.format));
        let mut sums = Vec::new();
        for row in x.chunks_exact(self.k) {
            let mut row = row.to_vec();
            row.resize(stride, 0.0);
            let (x, x_scales): (Vec<_>, Vec<_>) = row.chunks(group).map(quantize_activations).unzip();
            for (i, weights) in self.integers.chunks_exact(stride).enumerate() {
                let mut sum = 0.0;
                for (g, (weights, x)) in weights.chunks(group).zip(&x).enumerate() {
                    let integer: i32 = weights.iter().zip(x).map(|(&w, &x)| i32::from(w) * i32::from(x)).sum();
                    let scale = match self.format {
                        Elem::I8 => x_scales[g],
                        _ => x_scales[g] * self.scales[i * (stride / GROUP) + g],
                    };
                    sum = fma(integer as f32, scale, sum);
                }
                sums.push(if self.format == Elem::I8 { sum * self.scales[i] } else { sum });
            }
        }
        sums
    }
}

/// Inputs per scale of x.
fn activation_group(format: Elem) -> usize {
    if format == Elem::I8 { 128 } else { GROUP }
}

/// Quantizes a group of x: integers and their scale.
fn quantize_activations(x: &[f32]) -> (Vec<i16>, f32) {
    let max = x.iter().fold(0f32, |max, x| if x.is_nan() || max.is_nan() { f32::NAN } else { max.max(x.abs()) });
    if max < 2f32.powi(-110) {
        return (vec![0; x.len()], 0.0);
    }
    if !max.is_finite() {
        return (vec![0; x.len()], f32::NAN);
    }
    let inverse = 32767.0 / max;
    (x.iter().map(|x| (x * inverse).round_ties_even() as i16).collect(), max / 32767.0)
}

/// Rows that test the groups' scales: zeros, an outlier, values too small to count, values just large enough.
fn rows(n_rows: usize, k: usize) -> Vec<f32> {
    let mut x = random(1, n_rows * k);
    for (r, row) in x.chunks_exact_mut(k).enumerate().skip(1) {
        match r % 6 {
            1 => row[k / 2] = 1e6,
            2 => row.fill(0.0),
            3 => row.iter_mut().for_each(|x| *x *= 2f32.powi(-112)),
            4 => row.iter_mut().for_each(|x| *x *= 2f32.powi(-108)),
            _ => {}
        }
    }
    x
}

/// Matrix and bias of a spec, and the input rows.
struct Operands {
    spec: Spec,
    x: Vec<f32>,
    matrix: Matrix,
    bias: Vec<f32>,
}

impl Operands {
    fn new(spec: &Spec, n_rows: usize) -> Operands {
        let (n, k) = (spec.n, spec.k);
        let mut values = random(2, n * k);
        // An output whose weights are all zero.
        values[n / 2 * k..][..k].fill(0.0);
        Operands {
            spec: spec.clone(),
            x: rows(n_rows, k),
            matrix: Matrix::quantize(&values, n, k, spec.format),
            bias: if spec.bias { random(3, n) } else { Vec::new() },
        }
    }

    fn run(&self, kernels: &Runner, x: &[f32]) -> Vec<f32> {
        let Spec { n, k, .. } = self.spec;
        let mut args = vec![Arg::rows(k, x)];
        args.extend(Matrix::args(std::slice::from_ref(&self.matrix)));
        args.extend(self.spec.bias.then(|| Arg::vector(&self.bias)));
        args.extend([Arg::unwritten(n, x.len() / k), Arg::Scalar(x.len() / k)]);
        run(kernels, &self.spec.clone().into(), &args)[0].f32()
    }

    /// The exact product of x and the dequantized weights, with bias and activation.
    fn exact(&self) -> Vec<f32> {
        let Spec { n, k, activation, .. } = self.spec;
        let bias = self.spec.bias.then_some(self.bias.as_slice());
        linear::linear(&self.x, &self.matrix.values(), bias, linear::Linear { n_in: k, n_out: n, activation })
    }

    /// Bounds of the error against the exact result, before bias and activation, of each element:
    ///
    /// ```text
    /// Σ over groups of (½ + 2⁻⁷) · max|x| / 32767 · Σ|w|      rounding of x to steps (rounding of the steps: 2⁻⁷ of one)
    /// + 2⁻¹¹⁰ · Σ|w|                                          groups that are rounded to zero
    /// + (groups + 8) · 2⁻²³ · Σ|x · w|                        f32 roundings: one for each group, a few of scales
    /// ```
    fn bounds(&self) -> Vec<f64> {
        let (k, group) = (self.spec.k, activation_group(self.spec.format));
        let magnitudes = |values: &[f32]| values.iter().map(|x| f64::from(x.abs())).collect::<Vec<_>>();
        let (x, w) = (magnitudes(&self.x), magnitudes(&self.matrix.values()));
        let sums: Vec<f64> = w.chunks_exact(k).flat_map(|w| w.chunks(group)).map(|w| w.iter().sum()).collect();
        let n_groups = k.div_ceil(group);
        let mut bounds = Vec::with_capacity(self.x.len() / k * self.spec.n);
        for x in x.chunks_exact(k) {
            let step = |x: &[f64]| (0.5 + 2f64.powi(-7)) * x.iter().copied().fold(0.0, f64::max) / 32767.0;
            let steps: Vec<f64> = x.chunks(group).map(|x| step(x) + 2f64.powi(-110)).collect();
            for (w, sums) in w.chunks_exact(k).zip(sums.chunks_exact(n_groups)) {
                let rounded: f64 = steps.iter().zip(sums).map(|(step, sum)| step * sum).sum();
                let products: f64 = x.iter().zip(w).map(|(x, w)| x * w).sum();
                bounds.push(rounded + (n_groups + 8) as f64 * 2f64.powi(-23) * products);
            }
        }
        bounds
    }

    /// The product with its bias, rounded as the kernels round it.
    fn rounded(&self, fma: impl Fn(f32, f32, f32) -> f32) -> Vec<f32> {
        let mut expected = self.matrix.product(&self.x, fma);
        if self.spec.bias {
            expected.iter_mut().enumerate().for_each(|(at, sum)| *sum += self.bias[at % self.spec.n]);
        }
        expected
    }
}

/// Checks the cases of a format at every level that this machine has; what is expected is computed once.
fn check(format: Elem) {
    let of_format = |case: &Case| matches!(&case.kernel, AnySpec::Linear(spec) if spec.format == format);
    let mut cases = cases::integer_linear();
    cases.retain(|case| of_format(case) && case.operations() < 2e7);
    let [v4, vnni] = [X86Level::V4, X86Level::V4Vnni].map(|level| Target::Cpu(CpuTarget::X86(level)));
    let levels = [V2, V3, v4, vnni, INTEGER_TILES, ARM, I8MM];
    let compile = |level| Some((level, Runner::compile(level, cases.iter().map(|case| &case.kernel))?));
    let runners: Vec<_> = levels.into_iter().filter_map(compile).collect();
    for case in &cases {
        let AnySpec::Linear(spec) = &case.kernel else { panic!("a case of another kernel: {case:?}") };
        let operands = Operands::new(spec, case.counts.tokens);
        let (exact, bounds) = (operands.exact(), operands.bounds());
        let of_bits = spec.activation == Activation::None;
        let bits = of_bits.then(|| [operands.rounded(|x, y, z| x * y + z), operands.rounded(f32::mul_add)]);
        for (level, kernels) in &runners {
            let what = format!("{} of {} rows, {level}", case.symbol(), case.counts.tokens);
            let found = operands.run(kernels, &operands.x);
            if let Some([twice, once]) = &bits {
                assert_same_bits(&what, &found, if *level == V2 { twice } else { once });
            }
            assert_eq!((found.len(), bounds.len()), (exact.len(), exact.len()), "{what}");
            for (at, ((&found, &exact), bound)) in found.iter().zip(&exact).zip(&bounds).enumerate() {
                // SiLU amplifies a difference by at most 1.1; bias and activation round.
                let rounding = 8.0 * 2f64.powi(-24) * f64::from(exact.abs()).max(1e-3);
                let bound = 1.1 * bound + rounding;
                let difference = (f64::from(found) - f64::from(exact)).abs();
                assert!(difference <= bound, "{what}: element {at} is {found:e}, not {exact:e} within {bound:e}");
            }
        }
    }
}

#[test]
fn linear_of_int8_has_the_bits_of_its_arithmetic_at_every_level() {
    check(Elem::I8);
}

#[test]
fn linear_of_int4_has_the_bits_of_its_arithmetic_at_every_level() {
    check(Elem::I4);
}

#[test]
fn linear_of_int3_has_the_bits_of_its_arithmetic_at_every_level() {
    check(Elem::I3);
}

fn spec(n: usize, k: usize, format: Elem) -> Spec {
    Spec { n, k, format, bias: false, activation: Activation::None, out: Elem::F32 }
}

#[test]
fn a_row_alone_has_the_bits_it_has_in_any_batch() {
    for format in [Elem::I8, Elem::I4, Elem::I3] {
        // For each of three threads: a group of panels that are streamed together, and a remainder.
        let spec = spec(500, 300, format);
        for level in [V3, INTEGER_TILES] {
            let Some(kernels) = Runner::compile(level, [&AnySpec::from(spec.clone())]) else { continue };
            let operands = Operands::new(&spec, 150);
            let together = operands.run(&kernels, &operands.x);
            for n_rows in [1, 2, 3, 4, 5, 6, 7, 13, 73] {
                let some = operands.run(&kernels, &operands.x[..n_rows * spec.k]);
                assert_same_bits(&format!("{n_rows} of 150 rows, {level}"), &some, &together[..n_rows * spec.n]);
            }
            for row in 0..8 {
                let alone = operands.run(&kernels, &operands.x[row * spec.k..][..spec.k]);
                assert_same_bits(&format!("row {row} alone, {level}"), &alone, &together[row * spec.n..][..spec.n]);
            }
        }
    }
}

#[test]
fn what_is_not_finite_shows_in_every_output_of_its_row() {
    for format in [Elem::I8, Elem::I4, Elem::I3] {
        let spec = spec(40, 300, format);
        let Some(kernels) = Runner::compile(V3, [&AnySpec::from(spec.clone())]) else { return };
        let operands = Operands::new(&spec, 9);
        let sound = operands.run(&kernels, &operands.x);
        for broken in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for (n_rows, row, column) in [(1, 0, 0), (3, 1, 299), (9, 7, 150)] {
                let mut x = operands.x[..n_rows * spec.k].to_vec();
                x[row * spec.k + column] = broken;
                let found = operands.run(&kernels, &x);
                for (r, (found, sound)) in found.chunks(spec.n).zip(sound.chunks(spec.n)).enumerate() {
                    match r == row {
                        true => assert!(found.iter().all(|sum| sum.is_nan()), "{format:?} {broken}: {found:?}"),
                        false => assert_same_bits("a row beside it", found, sound),
                    }
                }
            }
        }
    }
}

/// √(Σ (found − expected)² / Σ expected²).
fn relative_rms(found: &[f32], expected: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let error: f64 = found.iter().zip(expected).map(|(&x, &y)| square(f64::from(x) - f64::from(y))).sum();
    (error / expected.iter().map(|&y| square(f64::from(y))).sum::<f64>()).sqrt()
}

#[test]
fn the_error_is_that_of_the_weights() {
    for format in [Elem::I8, Elem::I4, Elem::I3] {
        let (spec, n_rows) = (spec(96, 768, format), 16);
        let Some(kernels) = Runner::compile(V3, [&AnySpec::from(spec.clone())]) else { return };
        let (x, values) = (random(1, n_rows * spec.k), random(2, spec.n * spec.k));
        let matrix = Matrix::quantize(&values, spec.n, spec.k, format);
        let operands = Operands { spec: spec.clone(), x, matrix, bias: Vec::new() };
        let shape = linear::Linear { n_in: spec.k, n_out: spec.n, activation: Activation::None };
        let before = linear::linear(&operands.x, &values, None, shape);
        let of_weights = relative_rms(&operands.exact(), &before);
        let of_activations = relative_rms(&operands.run(&kernels, &operands.x), &operands.exact());
        // b-bit weights have steps of 2^(1 − b) of the largest weight, x has steps of 2⁻¹⁵: 2⁷ and 2¹¹ times finer.
        assert!(of_activations < of_weights / 100.0, "{format:?}: {of_activations:e} of x, {of_weights:e} of weights");
    }
}

#[test]
fn grouped_linear_has_the_bits_of_its_arithmetic() {
    let cases = cases::integer_grouped_linear();
    let Some(kernels) = Runner::compile(V3, cases.iter().map(|case| &case.kernel)) else { return };
    for case in &cases {
        let AnySpec::GroupedLinear(spec) = &case.kernel else { panic!("a case of another kernel: {case:?}") };
        let grouped_linear::Spec { n_experts, n, k, format, slots_per_row, top_k, .. } = *spec;
        let n_slots = case.counts.tokens * top_k;
        let experts = random_indices(3, n_slots, n_experts);
        let (slots, offsets) = moe::moe_permute(&experts, n_experts).expect("indices of experts");
        let x = rows(n_slots / slots_per_row, k);
        let values = random(2, n_experts * n * k);
        let stack: Vec<_> = values.chunks_exact(n * k).map(|values| Matrix::quantize(values, n, k, format)).collect();
        let mut args = vec![Arg::rows(k, &x)];
        args.extend(Matrix::args(&stack));
        args.extend([Arg::I32(slots.clone()), Arg::I32(offsets.clone()), Arg::unwritten(n, n_slots)]);
        let found = run(&kernels, &case.kernel, &args)[0].f32();
        for (slot, &expert) in experts.iter().enumerate() {
            let row = &x[slot / slots_per_row * k..][..k];
            let expected = stack[expert as usize].product(row, f32::mul_add);
            let what = format!("{} of {} tokens, slot {slot}", case.symbol(), case.counts.tokens);
            assert_same_bits(&what, &found[slot * n..][..n], &expected);
        }
    }
}

#[test]
fn panels_finished_together_have_the_bits_of_each() {
    for format in [Elem::I8, Elem::I4, Elem::I3] {
        let (n, k) = (250, 300);
        let fused = AnySpec::from(linear_swiglu::Spec { n, k, format });
        let swiglu = AnySpec::from(elementwise::Spec::in_f32(Function::Swiglu, n));
        let Some(kernels) = Runner::compile(V3, [&fused, &swiglu]) else { return };
        let matrices = [2, 3].map(|seed| random(seed, n * k));
        // A panel of gate, a panel of up, and so on: a stack of matrices with one panel each.
        let panel = |first: usize, values: &[f32]| {
            let n = LANES.min(n - first);
            Matrix::quantize(&values[first * k..][..n * k], n, k, format)
        };
        let panels: Vec<Matrix> =
            (0..n).step_by(LANES).flat_map(|first| [panel(first, &matrices[0]), panel(first, &matrices[1])]).collect();
        for n_rows in [1, 2, 3, 4, 7, 8, 9, 13, 80] {
            let x = rows(n_rows, k);
            let results = || [Arg::unwritten(n, n_rows), Arg::Scalar(n_rows)];
            let [gate, up] = matrices.each_ref().map(|values| {
                let sums = Matrix::quantize(values, n, k, format).product(&x, f32::mul_add);
                Arg::rows(n, &sums)
            });
            let expected = run(&kernels, &swiglu, &[vec![gate, up], results().to_vec()].concat())[0].f32();
            let args = [vec![Arg::rows(k, &x)], Matrix::args(&panels).to_vec(), results().to_vec()].concat();
            let found = run(&kernels, &fused, &args)[0].f32();
            assert_same_bits(&format!("{format:?}, {n_rows} rows"), &found, &expected);
        }
    }
}
