//! norm_split_linear, norm_linear_swiglu, norm_proj_conv: the bits of the separate kernels, which other tests compare with the
//! reference, and states carried from one token to the next.

use jamba_plan::format::{Table, TargetKind};
use jambac_harness::{Call, Conditions, Runner, Target, assert_same_bits, random, random_weights, stored};
use jambac_kernels::cases::{Case, Counts};
use jambac_kernels::catalog::AnySpec;
use jambac_kernels::hopper::matmul::TileRows;
use jambac_kernels::hopper::row_stride;
use jambac_kernels::kernel::{Config, Elem, LANES, Rows, padded};
use jambac_kernels::node::Select as _;
use jambac_kernels::norm_linear::{Product, Spec};
use jambac_kernels::target::{CpuTarget, X86Level};
use jambac_kernels::{causal_conv1d, rms_norm};

use super::products::three_multiprocessors;
use super::{BF16_TILES, I8MM, V2, V3};

/// Slots in the pool of states; the last sequence has the first slot.
fn slots(n: usize) -> Vec<i32> {
    (0..n as i32).rev().collect()
}

/// Elements of an input's row in a state, with padding on Hopper.
fn state_row(conv: &causal_conv1d::Spec, target: TargetKind) -> usize {
    match target {
        TargetKind::Cpu => padded(conv.channels),
        TargetKind::Sm90a => row_stride(Elem::F32, conv.channels),
    }
}

/// Elements from one slot to the next; some belong to another layer.
fn stride(conv: &causal_conv1d::Spec, target: TargetKind) -> usize {
    state_row(conv, target) * (conv.taps - 1) + LANES
}

/// A node with its operands.
struct Node {
    spec: Spec,
    n: usize,
    k: usize,
    a: Vec<f32>,
    b: Vec<f32>,
    norm: Vec<f32>,
    weights: Vec<Vec<f32>>,
    conv: [Vec<f32>; 2],
}

impl Node {
    fn new(spec: &Spec, n: usize) -> Node {
        let (sizes, weights, k, format) = match &spec.product {
            Product::Split(product) | Product::Conv(product, _) => {
                (product.sizes.clone(), product.weights, product.k, product.format)
            }
            Product::Swiglu(product) => (vec![product.n; 2], 2, product.k, product.format),
        };
        let rows = if weights == 1 { vec![sizes.iter().sum()] } else { sizes };
        let weight = |(i, &rows): (usize, &usize)| match format {
            Elem::I4 | Elem::I3 => random(i as u64 + 4, rows * k),
            _ => random_weights(i as u64 + 4, format, k, rows * k),
        };
        let weights = rows.iter().enumerate().map(weight).collect();
        let (channels, taps) = match &spec.product {
            Product::Conv(_, conv) => (conv.channels, conv.taps),
            _ => (0, 0),
        };
        Node {
            spec: spec.clone(),
            n,
            k,
            a: random(1, n * k),
            b: random(2, n * k),
            norm: stored(Elem::Bf16, &random(3, k)),
            weights,
            conv: [random(8, channels * taps), random(9, channels)],
        }
    }

    fn case(&self, kernel: AnySpec) -> Case {
        let n = self.n;
        let counts = Counts { tokens: n, sequences: n, outputs: n, context: 1 };
        Case { kernel, counts, rows: Rows::TOKENS }
    }

    /// The kernels that compute the same one after the other.
    fn separate(&self, target: TargetKind) -> Vec<Case> {
        let out = if target == TargetKind::Cpu { Elem::F32 } else { Elem::Bf16 };
        let norm = rms_norm::Spec { cols: self.k, eps: self.spec.eps, residual: true, out };
        let product: AnySpec = match &self.spec.product {
            Product::Split(product) | Product::Conv(product, _) => product.clone().into(),
            Product::Swiglu(product) => product.clone().into(),
        };
        let conv = match &self.spec.product {
            Product::Conv(_, conv) => Some(conv.clone().into()),
            _ => None,
        };
        [norm.into(), product].into_iter().chain(conv).map(|kernel| self.case(kernel)).collect()
    }

    /// A step of one token of each sequence.
    fn call(&self) -> Call {
        Call::new(Counts { tokens: self.n, sequences: self.n, outputs: self.n, context: 1 })
    }

    /// Columns of the product's results.
    fn columns(&self) -> Vec<usize> {
        match &self.spec.product {
            Product::Split(product) | Product::Conv(product, _) => product.sizes.clone(),
            Product::Swiglu(product) => vec![product.n],
        }
    }

    fn with_conv(&self, call: Call, conv: &causal_conv1d::Spec, target: TargetKind, pool: &[f32]) -> Call {
        let [weight, bias] = &self.conv;
        let call = call.parameter(weight);
        let call = if conv.bias { call.parameter(bias) } else { call };
        call.state()
            .table(Table::SequenceOf, slots(self.n).into_iter().rev().collect())
            .table(Table::Starts, (0..=self.n as i32).collect())
            .table(Table::Slots, slots(self.n))
            .pool(pool, stride(conv, target))
    }

    /// The sum, the results and the pool of states, with the fused kernel.
    fn fused(&self, runner: &Runner, conditions: Conditions, config: Config, pool: &[f32]) -> Found {
        let call = self.call().rows(self.k, &self.a).rows(self.k, &self.b).parameter(&self.norm);
        let call = call.parameters(self.weights.iter().map(Vec::as_slice));
        let call = match &self.spec.product {
            Product::Conv(_, conv) => self.with_conv(call, conv, runner.kind(), pool),
            _ => call,
        };
        let columns: Vec<usize> = [self.k].into_iter().chain(self.columns()).collect();
        let call = columns.iter().fold(call, |call, &n| call.gives(n));
        let found = runner.call(conditions, &(&self.case(self.spec.clone().into()), config), &call);
        let results = (0..columns.len()).map(|result| found.rows(result)).collect();
        let pool = if pool.is_empty() { Vec::new() } else { found.state().to_vec() };
        (results, pool)
    }

    /// The same with the separate kernels.
    fn apart(&self, runner: &Runner, conditions: &Conditions, config: Config, pool: &[f32]) -> Found {
        let run = |kernel: &Case, call: &Call| runner.call(conditions.clone(), &(kernel, config), call);
        let kernels = self.separate(runner.kind());
        let call = self.call().rows(self.k, &self.a).rows(self.k, &self.b).parameter(&self.norm);
        let normed = run(&kernels[0], &call.gives(self.k).gives(self.k));
        let call = self.call().rows(self.k, &normed.rows(1));
        let call = call.parameters(self.weights.iter().map(Vec::as_slice));
        let columns = self.columns();
        let multiplied = run(&kernels[1], &columns.iter().fold(call, |call, &n| call.gives(n)));
        let mut results = vec![normed.rows(0)];
        results.extend((0..columns.len()).map(|result| multiplied.rows(result)));
        let Product::Conv(_, conv) = &self.spec.product else { return (results, Vec::new()) };
        let call = self.with_conv(self.call().rows(conv.channels, &results[1]), conv, runner.kind(), pool);
        let convolved = run(&kernels[2], &call.gives(conv.channels));
        results[1] = convolved.rows(0);
        (results, convolved.state().to_vec())
    }

    /// Random states, with zeros in the padding.
    fn pool(&self, target: TargetKind) -> Vec<f32> {
        let Product::Conv(_, conv) = &self.spec.product else { return Vec::new() };
        let (stride, row) = (stride(conv, target), state_row(conv, target));
        let mut pool = random(7, self.n.max(1) * stride);
        for slot in pool.chunks_exact_mut(stride).filter(|_| target == TargetKind::Sm90a) {
            for row in slot.chunks_exact_mut(row).take(conv.taps - 1) {
                row[conv.channels..].fill(0.0);
            }
        }
        pool
    }

    /// The pool without the padding of channels, which holds anything on CPUs.
    fn states(&self, target: TargetKind, pool: &[f32]) -> Vec<f32> {
        let mut pool = pool.to_vec();
        let Product::Conv(_, conv) = &self.spec.product else { return pool };
        let (stride, past) = (stride(conv, target), conv.taps - 1);
        for slot in pool.chunks_exact_mut(stride).filter(|_| target == TargetKind::Cpu) {
            for (at, element) in slot.iter_mut().enumerate().take(stride - LANES) {
                if at / LANES / past.max(1) * LANES + at % LANES >= conv.channels {
                    *element = 0.0;
                }
            }
        }
        pool
    }

    /// Two steps, the second with the states of the first.
    fn check(&self, runner: &Runner, all: [Conditions; 2], config: Config) {
        let pool = self.pool(runner.kind());
        let apart = if runner.kind() == TargetKind::Cpu { Conditions::Threads(1) } else { all[0].clone() };
        let first = self.apart(runner, &apart, config, &pool);
        let second = self.apart(runner, &apart, config, &first.1);
        for (conditions, before, expected) in all.into_iter().zip([&pool, &first.1]).zip([&first, &second]).map(flat) {
            let what = format!("{:?}, {} rows, {config}, {conditions:?}", self.spec, self.n);
            let found = self.fused(runner, conditions, config, before);
            for (result, (found, expected)) in found.0.iter().zip(&expected.0).enumerate() {
                assert_same_bits(&format!("{what}, result {result}"), found, expected);
            }
            let [found, expected] = [&found.1, &expected.1].map(|pool| self.states(runner.kind(), pool));
            assert_same_bits(&format!("{what}, states"), &found, &expected);
        }
    }
}

fn flat<A, B, C>(((a, b), c): ((A, B), C)) -> (A, B, C) {
    (a, b, c)
}

/// The results, the sum first, and the pool of states.
type Found = (Vec<Vec<f32>>, Vec<f32>);

fn nodes() -> Vec<Node> {
    let small = Spec::cases().into_iter().filter(|case| case.operations() < 1.1e7);
    let node = |case: Case| match &case.kernel {
        AnySpec::NormLinear(spec) => Node::new(spec, case.counts.tokens),
        other => panic!("{other:?}"),
    };
    small.map(node).collect()
}

#[test]
fn have_the_bits_of_separate_kernels() {
    let of_integers = [X86Level::V4Vnni, X86Level::Amx].map(|level| Target::Cpu(CpuTarget::X86(level)));
    let nodes = nodes();
    for target in [V3, V2, BF16_TILES, I8MM].into_iter().chain(of_integers) {
        let kernel = |node: &Node| AnySpec::from(node.spec.clone());
        let nodes: Vec<&Node> = nodes.iter().filter(|node| target.supports(&kernel(node))).collect();
        let of = |node: &&Node| [vec![node.case(kernel(node))], node.separate(TargetKind::Cpu)].concat();
        let kernels: Vec<Case> = nodes.iter().flat_map(of).collect();
        let Some(runner) = Runner::compile(target, &kernels) else { continue };
        for node in nodes {
            node.check(&runner, [Conditions::AnyThreads, Conditions::Threads(3)], Config::Only);
        }
    }
}

#[test]
fn have_the_bits_of_separate_launches_on_hopper() {
    let [first, second, _] = three_multiprocessors();
    for node in nodes() {
        let format = match &node.spec.product {
            Product::Split(product) | Product::Conv(product, _) => product.format,
            Product::Swiglu(product) => product.format,
        };
        if !matches!(format, Elem::Bf16 | Elem::I8 | Elem::F8) {
            continue;
        }
        let configs: &[Config] = match node.n {
            0..=2 => &[Config::FewNormed, Config::Few, Config::Tiled(TileRows::Rows64)],
            3..=8 => &[Config::Few, Config::Tiled(TileRows::Rows64)],
            _ => &[Config::Tiled(TileRows::Rows64)],
        };
        for &config in configs {
            let cases = [vec![node.case(node.spec.clone().into())], node.separate(TargetKind::Sm90a)].concat();
            let kernels: Vec<(&Case, Config)> = cases.iter().map(|case| (case, config)).collect();
            node.check(&Runner::hopper(&kernels), [first.clone(), second.clone()], config);
        }
    }
}
