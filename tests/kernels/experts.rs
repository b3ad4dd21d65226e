//! grouped_linear, grouped_swiglu, grouped_combine: any number of tokens, experts and remainders, experts without slots, rows
//! shared or not shared by slots.

use jamba_plan::format::TargetKind;
use jambac_graph::Activation;
use jambac_harness::{Call, Conditions, Runner, Subject, Target, assert_same_bits, each, each_under, random_indices};
use jambac_kernels::cases::{self, Case};
use jambac_kernels::catalog::AnySpec;
use jambac_kernels::elementwise::{self, Function};
use jambac_kernels::kernel::Elem;
use jambac_kernels::node::Select as _;
use jambac_kernels::{grouped_combine, grouped_linear, grouped_swiglu, linear};

use super::products::{Product, check, simulated, small, three_multiprocessors};
use super::{ARM, BF16_PAIRS, BF16_TILES, I8MM, INTEGER_TILES, V2, V3};

#[test]
fn agree_with_the_reference() {
    let cases = [
        grouped_linear::Spec::cases(),
        grouped_swiglu::Spec::cases(),
        grouped_combine::Spec::cases(),
        cases::experts_by_tiles(),
    ];
    for target in [V3, ARM, I8MM, INTEGER_TILES, BF16_PAIRS, BF16_TILES] {
        each(target, small(cases.concat()), |on| check(on, &Product::of(on)));
    }
}

#[test]
fn agree_without_fma() {
    let some = |cases: Vec<Case>| [cases[0].clone(), cases[2].clone()];
    let cases = [
        some(grouped_linear::Spec::cases()),
        some(grouped_swiglu::Spec::cases()),
        some(grouped_combine::Spec::cases()),
    ]
    .concat();
    each(V2, cases, |on| check(on, &Product::of(on)));
}

/// A token may have the same expert twice.
#[test]
fn any_experts_agree_with_the_reference() {
    each(V3, small(grouped_linear::Spec::cases()), |on| {
        let product = Product::of(on);
        let AnySpec::GroupedLinear(spec) = &on.case.kernel else { panic!("{on}") };
        let experts = random_indices(3, product.experts().len(), spec.n_experts);
        check(on, &product.with_experts(experts));
    });
}

/// Experts as a router returns them; and experts without rows in every position, with one row, with more than a tile.
fn check_on_hopper(on: &Subject) {
    let n_experts = match &on.case.kernel {
        AnySpec::GroupedLinear(spec) => spec.n_experts,
        AnySpec::GroupedSwiglu(spec) => spec.n_experts,
        AnySpec::GroupedCombine(spec) => spec.n_experts,
        other => panic!("{other:?} has no experts"),
    };
    check(on, &Product::of(on));
    if n_experts == 6 {
        let product = Product::of(on);
        let n_slots = product.experts().len();
        let ragged = (0..n_slots).map(|slot| match slot {
            0 => 2,
            slot if 2 * slot > n_slots => 1,
            _ => 4,
        });
        let ragged = ragged.collect();
        check(on, &product.with_experts(ragged));
        if n_slots <= 2 {
            check(on, &Product::of(on).with_experts(vec![5; n_slots]));
        }
    }
}

#[test]
fn grouped_linear_agrees_on_hopper() {
    let cases = simulated([grouped_linear::Spec::cases(), cases::integer_grouped_linear()].concat());
    each_under(&three_multiprocessors()[..1], Target::Hopper, cases, check_on_hopper);
}

#[test]
fn remainders_of_tiles_agree_on_hopper() {
    each_under(&three_multiprocessors(), Target::Hopper, simulated(cases::experts_by_tiles()), check_on_hopper);
}

#[test]
fn grouped_swiglu_and_combine_agree_on_hopper() {
    let cases = simulated([grouped_swiglu::Spec::cases(), grouped_combine::Spec::cases()].concat());
    each_under(&three_multiprocessors()[..1], Target::Hopper, cases, check_on_hopper);
}

/// The result of a CPU kernel.
fn run(runner: &Runner, kernel: &AnySpec, call: &Call) -> Vec<f32> {
    runner.call(Conditions::AnyThreads, kernel, call).rows(0)
}

#[test]
fn a_slot_has_the_bits_of_its_row_in_a_linear() {
    let (n, k, format, out) = (40, 72, Elem::Bf16, Elem::F32);
    let spec = AnySpec::from(grouped_linear::Spec { n_experts: 4, n, k, format, out, slots_per_row: 2, top_k: 2 });
    let alone = AnySpec::from(linear::Spec { n, k, format, bias: false, activation: Activation::None, out });
    let Some(runner) = Runner::compile(V3, [&spec, &alone]) else { return };
    let product = Product::new(&spec, 13, TargetKind::Cpu).with_experts(random_indices(3, 26, 4));
    let together = run(&runner, &spec, &product.call());
    for (slot, &expert) in product.experts().iter().enumerate() {
        let weight = &product.parameters()[0][expert as usize * n * k..][..n * k];
        let row = &product.x()[slot / 2 * k..][..k];
        let row = run(&runner, &alone, &Call::tokens(1).rows(k, row).parameter(weight).gives(n));
        assert_same_bits(&format!("slot {slot}"), &together[slot * n..][..n], &row);
    }
}

#[test]
fn swiglu_gives_the_bits_of_three_kernels() {
    let (n_experts, n, k, format, slots_per_row, top_k) = (4, 40, 72, Elem::Bf16, 2, 2);
    let spec = AnySpec::from(grouped_swiglu::Spec { n_experts, n, k, format, slots_per_row, top_k });
    let linear = grouped_linear::Spec { n_experts, n, k, format, out: Elem::F32, slots_per_row, top_k };
    let linear = AnySpec::from(linear);
    let swiglu = AnySpec::from(elementwise::Spec::in_f32(Function::Swiglu, n));
    let Some(runner) = Runner::compile(V3, [&linear, &swiglu, &spec]) else { return };
    for n_tokens in [1, 3, 13] {
        let product = Product::new(&spec, n_tokens, TargetKind::Cpu);
        let (slots, offsets) = jambac_reference::moe::moe_permute(product.experts(), n_experts).expect("experts");
        let [gate, up] = [0, 1].map(|part| {
            let call = Call::tokens(n_tokens).rows(k, product.x()).parameter(&product.parameters()[part]);
            run(&runner, &linear, &call.slots(&slots).integers(&offsets).gives_slot_rows(n))
        });
        let call = Call::tokens(n_tokens * top_k).rows(n, &gate).rows(n, &up).gives(n);
        let expected = run(&runner, &swiglu, &call);
        assert_same_bits(&format!("{n_tokens} tokens"), &run(&runner, &spec, &product.call()), &expected);
    }
}

#[test]
fn a_token_has_the_bits_of_one_alone() {
    let n = 40;
    let spec = AnySpec::from(grouped_combine::Spec { n_experts: 5, n, k: 72, format: Elem::Bf16, top_k: 3 });
    let Some(runner) = Runner::compile(V3, [&spec]) else { return };
    let product = Product::new(&spec, 17, TargetKind::Cpu);
    let together = run(&runner, &spec, &product.call());
    for t in 0..17 {
        let alone = run(&runner, &spec, &product.call_of(t..t + 1));
        assert_same_bits(&format!("token {t}"), &together[t * n..][..n], &alone);
    }
}
