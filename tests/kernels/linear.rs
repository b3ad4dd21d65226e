//! linear, split_linear, linear_swiglu: all remainders of rows, panels, tiles and inputs; equal sums for one row and for many.

use jamba_plan::format::TargetKind;
use jambac_graph::Activation;
use jambac_harness::{Call, Conditions, Runner, Target, assert_same_bits, each, each_under};
use jambac_kernels::cases::{self, Case};
use jambac_kernels::catalog::AnySpec;
use jambac_kernels::elementwise::{self, Function};
use jambac_kernels::kernel::Elem;
use jambac_kernels::linear::Spec;
use jambac_kernels::node::Select as _;
use jambac_kernels::target::{CpuTarget, X86Level};
use jambac_kernels::{linear, linear_swiglu, split_linear};

use super::products::{Product, check, simulated, small, three_multiprocessors};
use super::{ARM, BF16_PAIRS, BF16_TILES, I8MM, V2, V3};

fn all() -> Vec<Case> {
    [linear::Spec::cases(), split_linear::Spec::cases(), linear_swiglu::Spec::cases()].concat()
}

#[test]
fn agree_with_the_reference() {
    each(V3, small([all(), cases::by_tiles()].concat()), |on| check(on, &Product::of(on)));
}

/// The tiles differ between levels.
#[test]
fn agree_without_fma() {
    each(V2, small(all()), |on| check(on, &Product::of(on)));
}

#[test]
fn agree_with_avx512() {
    each(Target::Cpu(CpuTarget::X86(X86Level::V4)), small(all()), |on| check(on, &Product::of(on)));
}

#[test]
fn agree_with_bf16_instructions() {
    for target in [BF16_PAIRS, BF16_TILES] {
        each(target, small([all(), cases::by_tiles()].concat()), |on| check(on, &Product::of(on)));
    }
}

#[test]
fn agree_on_arm() {
    for target in [ARM, I8MM] {
        each(target, small([all(), cases::by_tiles()].concat()), |on| check(on, &Product::of(on)));
    }
}

/// Shapes that are those of CPUs run under one seed, those of tiles under all.
fn agree_on_hopper(seeds: &[Conditions], cases: Vec<Case>) {
    each_under(seeds, Target::Hopper, simulated(cases), |on| check(on, &Product::of(on)));
}

#[test]
fn linear_agrees_on_hopper() {
    agree_on_hopper(&three_multiprocessors()[..1], linear::Spec::cases());
}

#[test]
fn linear_of_integers_agrees_on_hopper() {
    agree_on_hopper(&three_multiprocessors()[..1], cases::integer_linear());
}

#[test]
fn split_linear_and_swiglu_agree_on_hopper() {
    agree_on_hopper(
        &three_multiprocessors()[..1],
        [split_linear::Spec::cases(), linear_swiglu::Spec::cases()].concat(),
    );
}

#[test]
fn remainders_of_tiles_agree_on_hopper() {
    agree_on_hopper(&three_multiprocessors(), cases::by_tiles());
}

fn base() -> Spec {
    Spec { n: 96, k: 72, format: Elem::Bf16, out: Elem::F32, bias: false, activation: Activation::None }
}

/// The result of a CPU kernel.
fn run(runner: &Runner, kernel: &AnySpec, call: &Call, part: usize) -> Vec<f32> {
    runner.call(Conditions::AnyThreads, kernel, call).rows(part)
}

/// The linear of one parameter.
fn alone(product: &Product, parameter: usize, k: usize, n: usize) -> Call {
    let n_rows = product.x().len() / k;
    Call::tokens(n_rows).rows(k, product.x()).parameter(&product.parameters()[parameter]).gives(n)
}

#[test]
fn a_row_alone_has_the_bits_it_has_in_any_batch() {
    // Tiles of every height, and two row blocks if there are many inputs.
    let specs = [base(), Spec { k: 8195, bias: true, activation: Activation::Softplus, ..base() }].map(AnySpec::from);
    let Some(runner) = Runner::compile(V3, &specs) else { return };
    for spec in &specs {
        let product = Product::new(spec, 64, TargetKind::Cpu);
        let together = run(&runner, spec, &product.call(), 0);
        for n_rows in [1, 2, 3, 5, 6, 7, 13, 49] {
            let some = run(&runner, spec, &product.call_of(0..n_rows), 0);
            assert_same_bits(&format!("{n_rows} of 64 rows"), &some, &together[..n_rows * 96]);
        }
        let last = run(&runner, spec, &product.call_of(63..64), 0);
        assert_same_bits("the last of 64 rows", &last, &together[63 * 96..]);
    }
}

#[test]
fn every_part_has_the_bits_of_its_own_linear() {
    let k = 72;
    for sizes in [vec![72, 24, 24], vec![5, 33], vec![17, 1, 33, 16]] {
        let linears = sizes.iter().map(|&n| AnySpec::from(Spec { n, k, ..base() })).collect::<Vec<_>>();
        let weights = sizes.len();
        let split = split_linear::Spec { sizes: sizes.clone(), weights, k, format: Elem::Bf16, out: Elem::F32 };
        let split = AnySpec::from(split);
        let Some(runner) = Runner::compile(V3, linears.iter().chain([&split])) else { return };
        for n_rows in [1, 7, 13] {
            let product = Product::new(&split, n_rows, TargetKind::Cpu);
            for (part, (&n, linear)) in sizes.iter().zip(&linears).enumerate() {
                let found = run(&runner, &split, &product.call(), part);
                let expected = run(&runner, linear, &alone(&product, part, k, n), 0);
                assert_same_bits(&format!("part {part} of {sizes:?}, {n_rows} rows"), &found, &expected);
            }
        }
    }
}

#[test]
fn a_swiglu_has_the_bits_of_its_three_steps() {
    let k = 72;
    for n in [96, 5] {
        let fused = AnySpec::from(linear_swiglu::Spec { n, k, format: Elem::Bf16 });
        let linear = AnySpec::from(Spec { n, ..base() });
        let swiglu = AnySpec::from(elementwise::Spec::in_f32(Function::Swiglu, n));
        let Some(runner) = Runner::compile(V3, [&fused, &linear, &swiglu]) else { return };
        for n_rows in [1, 2, 7, 64] {
            let product = Product::new(&fused, n_rows, TargetKind::Cpu);
            let [gate, up] = [0, 1].map(|part| run(&runner, &linear, &alone(&product, part, k, n), 0));
            let call = Call::tokens(n_rows).rows(n, &gate).rows(n, &up).gives(n);
            let expected = run(&runner, &swiglu, &call, 0);
            let found = run(&runner, &fused, &product.call(), 0);
            assert_same_bits(&format!("{n} outputs of {n_rows} rows"), &found, &expected);
        }
    }
}
