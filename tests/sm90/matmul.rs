//! Matrix products: every op, method, weight type and epilogue, all sizes of remainders, experts with and without rows. The
//! bits of a row must depend neither on its batch nor on its tile.

use jambac_graph::Activation;
use jambac_kernels::catalog::AnySpec;
use jambac_kernels::hopper::matmul::TileRows;
use jambac_kernels::hopper::{row_stride, weight};
use jambac_kernels::kernel::{Config, Elem};
use jambac_kernels::{grouped_linear, grouped_swiglu, linear, linear_swiglu, split_linear};
use jambac_reference::Tolerance;
use jambac_reference::linear::{Linear, linear as reference};
use ptxsim::Options;

use super::harness::{Arg, Kernel, Kernels, SEEDS, counts, rounded, rows};
use crate::kernels::harness::{assert_close, assert_same_bits, random};

/// Half a unit in the last place of bf16, relative.
const BF16: f64 = 1.0 / 256.0;

/// Relative error of f32 sums and approximate functions.
const F32: f64 = 2e-6;

const TILED: [Config; 3] =
    [Config::Tiled(TileRows::Rows64), Config::Tiled(TileRows::Rows128), Config::Tiled(TileRows::Rows256)];

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    Linear { bias: bool, activation: Activation },
    Split,
    Swiglu,
}

/// A product to test.
#[derive(Clone, Debug)]
pub struct Problem {
    pub op: Op,
    /// Outputs of each part.
    pub sizes: Vec<usize>,
    pub k: usize,
    pub format: Elem,
    pub out: Elem,
    /// 0 if there are no experts.
    pub n_experts: usize,
    pub method: Config,
}

/// The base of all cases.
pub fn base(method: Config) -> Problem {
    let op = Op::Linear { bias: false, activation: Activation::None };
    Problem { op, sizes: vec![96], k: 72, format: Elem::Bf16, out: Elem::F32, n_experts: 0, method }
}

/// A problem with its weights.
pub struct Operands {
    problem: Problem,
    /// [experts, rows of all parts, k], in the form that the kernel multiplies.
    values: Vec<f32>,
    packed: Vec<u8>,
    packed_rows: usize,
    scales: Vec<f32>,
    bias: Vec<f32>,
}

impl Problem {
    pub fn kernel(&self) -> Kernel {
        let &Problem { op, k, format, out, n_experts, method, .. } = self;
        let (n, top_k) = (self.sizes[0], 2);
        let spec: AnySpec = match (op, n_experts) {
            (Op::Linear { bias, activation }, 0) => linear::Spec { n, k, format, out, bias, activation }.into(),
            (Op::Split, _) => {
                let (sizes, weights) = (self.sizes.clone(), self.sizes.len());
                split_linear::Spec { sizes, weights, k, format, out }.into()
            }
            (Op::Swiglu, 0) => linear_swiglu::Spec { n, k, format }.into(),
            (Op::Linear { .. }, _) => {
                grouped_linear::Spec { n_experts, n, k, format, out, slots_per_row: 1, top_k }.into()
            }
            (Op::Swiglu, _) => grouped_swiglu::Spec { n_experts, n, k, format, slots_per_row: top_k, top_k }.into(),
        };
        Kernel::of(spec, method)
    }

    /// Element type of the results.
    fn out(&self) -> Elem {
        if self.op == Op::Swiglu { Elem::Bf16 } else { self.out }
    }

    /// Row index of each weight row of an expert, and the number of rows including padding.
    fn layout(&self) -> (Vec<usize>, usize) {
        let mut at = Vec::new();
        let mut first = 0;
        for &n in &self.sizes {
            match self.op {
                Op::Swiglu => at.extend((0..n).map(weight::gate_row).chain((0..n).map(weight::up_row))),
                _ => at.extend(first..first + n),
            }
            first += weight::block_rows(if self.op == Op::Swiglu { 2 * n } else { n });
        }
        let is_plain = matches!(self.op, Op::Linear { .. }) && self.n_experts == 0;
        (at, if is_plain { self.sizes[0] } else { first })
    }

    pub fn operands(&self) -> Operands {
        let (k, experts) = (self.k, self.n_experts.max(1));
        let (at, packed_rows) = self.layout();
        let row_bytes = row_stride(self.format, k) * self.format.bytes();
        let drawn = random(2, experts * at.len() * k);
        let mut values = Vec::with_capacity(drawn.len());
        let mut packed = vec![0; experts * packed_rows * row_bytes];
        let mut scales = vec![0.0; experts * packed_rows];
        for (number, row) in drawn.chunks_exact(k).enumerate() {
            let to = number / at.len() * packed_rows + at[number % at.len()];
            let bytes = &mut packed[to * row_bytes..][..row_bytes];
            match self.format {
                Elem::I8 => {
                    let scale = (2 + number % 5) as f32 / 512.0;
                    scales[to] = scale;
                    for (j, x) in row.iter().enumerate() {
                        let q = (x * 127.9) as i8;
                        bytes[weight::column(Elem::I8, j)] = q as u8;
                        values.push(f32::from(q) * scale);
                    }
                }
                _ => {
                    let row = rounded(row);
                    bytes.copy_from_slice(&padded_with_zeros(&row));
                    values.extend(row);
                }
            }
        }
        let bias = if let Op::Linear { bias: true, .. } = self.op { random(3, self.sizes[0]) } else { vec![] };
        Operands { problem: self.clone(), values, packed, packed_rows, scales, bias }
    }
}

/// A row of bf16, padded with zeros.
fn padded_with_zeros(row: &[f32]) -> Vec<u8> {
    let mut padded = row.to_vec();
    padded.resize(row_stride(Elem::Bf16, row.len()), 0.0);
    rows(Elem::Bf16, padded.len(), &padded)
}

impl Operands {
    /// Results of each part for rows x; `offsets` are those of the experts, if any.
    pub fn run(&self, kernels: &Kernels, options: Options, x: &[f32], offsets: &[usize]) -> Vec<Vec<f32>> {
        let Problem { k, sizes, method, n_experts, format, .. } = &self.problem;
        let kernel = self.problem.kernel();
        let n = x.len() / k;
        let tiled = matches!(method, Config::Tiled(_));
        let weight = self.packed.clone();
        let mut args = vec![match tiled {
            true => Arg::Matrix { n: n_experts.max(&1) * self.packed_rows, bytes: weight },
            false => Arg::Bytes(weight),
        }];
        if *format == Elem::I8 {
            args.push(Arg::F32(self.scales.clone()));
        }
        if !self.bias.is_empty() {
            args.push(Arg::F32(self.bias.clone()));
        }
        args.push(if tiled { Arg::bf16_matrix(*k, x) } else { Arg::bf16_rows(*k, x) });
        if *n_experts > 0 {
            args.push(Arg::I32(offsets.iter().map(|&offset| offset as i32).collect()));
        }
        args.extend(sizes.iter().map(|&cols| Arg::Unwritten { elem: self.problem.out(), cols, n }));
        if *n_experts == 0 {
            args.push(Arg::Count(n));
        }
        let found = kernels.run_on(options, &kernel, counts(n, 1, 1), &args);
        found.iter().map(|array| array.f32().to_vec()).collect()
    }

    pub fn expected(&self, x: &[f32], offsets: &[usize]) -> Vec<Vec<f32>> {
        let Problem { k, sizes, op, .. } = &self.problem;
        let rows: usize = self.values.len() / k / (offsets.len() - 1);
        let mut parts = vec![Vec::new(); sizes.len()];
        for (expert, range) in offsets.windows(2).enumerate() {
            let x = &x[range[0] * k..range[1] * k];
            let weight = &self.values[expert * rows * k..][..rows * k];
            let product = |first: usize, n_out: usize, bias: &[f32], activation: Activation| {
                let bias = (!bias.is_empty()).then_some(bias);
                reference(x, &weight[first * k..(first + n_out) * k], bias, Linear { n_in: *k, n_out, activation })
            };
            let mut first = 0;
            for (part, &n) in parts.iter_mut().zip(sizes) {
                match op {
                    Op::Swiglu => {
                        let gate = product(0, n, &[], Activation::Silu);
                        part.extend(gate.iter().zip(product(n, n, &[], Activation::None)).map(|(g, u)| g * u));
                    }
                    Op::Split => part.extend(product(first, n, &[], Activation::None)),
                    Op::Linear { activation, .. } => part.extend(product(first, n, &self.bias, *activation)),
                }
                first += n;
            }
        }
        parts
    }

    /// Sums of k products of |x| ≤ 1 and |weight| ≤ 1.3 have an error below √k units of 2⁻²²; those of swiglu are multiplied
    /// with each other.
    pub fn tolerance(&self) -> Tolerance {
        let sum = (self.problem.k as f64).sqrt() * 2f64.powi(-22);
        let abs = if self.problem.op == Op::Swiglu { sum * (self.problem.k as f64).sqrt() } else { sum };
        Tolerance { abs, rel: F32 + if self.problem.out() == Elem::Bf16 { BF16 } else { 0.0 } }
    }

    /// Compares with the reference under each seed.
    fn check(&self, kernels: &Kernels, n_sms: u32, offsets: &[usize]) {
        let x = rounded(&random(1, offsets[offsets.len() - 1] * self.problem.k));
        let expected = self.expected(&x, offsets);
        for seed in SEEDS {
            let options = Options { seed, n_sms, ..Options::default() };
            let found = self.run(kernels, options, &x, offsets);
            for (part, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let what = format!("{:?}, offsets {offsets:?}, seed {seed}, part {part}", self.problem);
                assert_close(&what, found, expected, self.tolerance());
            }
        }
    }
}

/// Compares products with the reference, for the given numbers of rows or offsets of experts.
fn check(cases: &[(Problem, &[usize])]) {
    let all: Vec<Kernel> = cases.iter().map(|(problem, _)| problem.kernel()).collect();
    let kernels = Kernels::compile(&all);
    for (problem, offsets) in cases {
        // Three multiprocessors: blocks process several tiles, and the ring wraps around several times.
        problem.operands().check(&kernels, 3, offsets);
    }
}

/// Changes one property of the base at a time.
fn dense(method: Config, format: Elem) -> Vec<Problem> {
    let base = Problem { format, ..base(method) };
    let with = |n: usize, k: usize| Problem { sizes: vec![n], k, ..base.clone() };
    let linear = |bias, activation| Problem { op: Op::Linear { bias, activation }, ..base.clone() };
    vec![
        base.clone(),
        Problem { out: Elem::Bf16, ..base.clone() },
        // Remainders of inputs and outputs; one step, several rounds of the ring.
        with(40, 24),
        with(7, 5),
        with(129, 64),
        with(130, 65),
        with(64, 1100),
        Problem { out: Elem::Bf16, ..with(203, 136) },
        linear(true, Activation::None),
        linear(true, Activation::Softplus),
        linear(false, Activation::Silu),
        Problem { op: Op::Split, sizes: vec![70, 40], out: Elem::Bf16, ..base.clone() },
        Problem { op: Op::Split, sizes: vec![64, 1, 130, 65], k: 136, ..base.clone() },
        Problem { op: Op::Swiglu, ..base.clone() },
        Problem { op: Op::Swiglu, sizes: vec![41], k: 136, ..base },
    ]
}

#[test]
fn many_rows_agree_with_the_reference() {
    let of = |format| dense(TILED[0], format).into_iter().map(|problem| (problem, &[0, 71][..]));
    check(&of(Elem::Bf16).collect::<Vec<_>>());
}

#[test]
fn many_rows_of_integers_agree_with_the_reference() {
    let of = |format| dense(TILED[0], format).into_iter().map(|problem| (problem, &[0, 71][..]));
    check(&of(Elem::I8).collect::<Vec<_>>());
}

#[test]
fn a_handful_of_rows_agrees_with_the_reference() {
    let of = |format| dense(Config::Few, format).into_iter().map(|problem| (problem, &[0, 5][..]));
    check(&of(Elem::Bf16).collect::<Vec<_>>());
}

#[test]
fn a_handful_of_rows_of_integers_agrees_with_the_reference() {
    let of = |format| dense(Config::Few, format).into_iter().map(|problem| (problem, &[0, 5][..]));
    check(&of(Elem::I8).collect::<Vec<_>>());
}

#[test]
fn any_number_of_rows_agrees_with_the_reference() {
    let rows: [&[usize]; 5] = [&[0, 0], &[0, 1], &[0, 64], &[0, 65], &[0, 200]];
    let few: [&[usize]; 4] = [&[0, 0], &[0, 1], &[0, 8], &[0, 19]];
    let tiled = TILED.iter().flat_map(|&method| rows.map(|rows| (base(method), rows)));
    check(&tiled.chain(few.map(|rows| (base(Config::Few), rows))).collect::<Vec<_>>());
}

/// Wide tiles: all epilogues of both types.
#[test]
fn wide_tiles_agree_with_the_reference() {
    let mut cases = Vec::new();
    for &method in &TILED[1..] {
        for format in [Elem::Bf16, Elem::I8] {
            let base = Problem { format, ..base(method) };
            cases.extend([
                (base.clone(), &[0, 300][..]),
                (Problem { out: Elem::Bf16, ..base.clone() }, &[0, 300][..]),
                (Problem { op: Op::Swiglu, ..base }, &[0, 300][..]),
            ]);
        }
    }
    check(&cases);
}

#[test]
fn experts_agree_with_the_reference() {
    // Experts without rows in every position, with one row, with more than a tile.
    let ragged: &[usize] = &[0, 0, 70, 71, 71, 150, 150];
    let few: &[usize] = &[0, 0, 3, 4, 4, 15, 15];
    let mut cases = Vec::new();
    for format in [Elem::Bf16, Elem::I8] {
        for (method, offsets) in [(TILED[0], ragged), (TILED[1], ragged), (Config::Few, few)] {
            // An odd number of blocks: the last tile of an expert extends into the next expert's weights.
            let base = Problem { n_experts: 6, format, sizes: vec![40], k: 101, ..base(method) };
            cases.extend([
                (base.clone(), offsets),
                (Problem { sizes: vec![130], k: 72, out: Elem::Bf16, ..base.clone() }, offsets),
                (Problem { op: Op::Swiglu, k: 136, ..base.clone() }, offsets),
                (base.clone(), &[0; 7][..]),
                (base, &[0, 0, 0, 0, 0, 0, 2][..]),
            ]);
        }
    }
    check(&cases);
}

/// The bits of a row are the same alone and in a batch, at any position of a tile, in tiles of any size, with any number of
/// multiprocessors, in any order of blocks and warps.
#[test]
fn bits_depend_on_the_row_alone() {
    for format in [Elem::Bf16, Elem::I8] {
        for op in [base(TILED[0]).op, Op::Swiglu] {
            let problem = |method| Problem { op, format, k: 200, ..base(method) };
            let methods = [TILED[0], TILED[1], TILED[2], Config::Few];
            let kernels = methods.map(|method| problem(method).kernel());
            let kernels = Kernels::compile(&kernels);
            let x = rounded(&random(7, 150 * 200));
            let (row, n) = (77, 96);
            let mut tiled: Option<Vec<f32>> = None;
            for method in methods {
                let operands = problem(method).operands();
                let exact = |seed, n_sms| Options { seed, n_sms, exact_math: true, ..Options::default() };
                let alone = operands.run(&kernels, exact(1, 1), &x[row * 200..][..200], &[0, 1]);
                let among = operands.run(&kernels, exact(2, 4), &x, &[0, 150]);
                let what = format!("{:?}", operands.problem);
                assert_same_bits(&what, &among[0][row * n..][..n], &alone[0]);
                let shifted = operands.run(&kernels, exact(3, 2), &x[50 * 200..], &[0, 100]);
                assert_same_bits(&what, &shifted[0][(row - 50) * n..][..n], &alone[0]);
                // The method for few rows sums in another order.
                if method != Config::Few {
                    assert_same_bits(&what, &alone[0], tiled.get_or_insert_with(|| alone[0].clone()));
                }
            }
        }
    }
}
