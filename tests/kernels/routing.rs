//! softmax, top_k, moe_permute, moe_route, moe_combine: from a router's logits to the sum of its experts.

use jambac_harness::{
    Call, Conditions, Runner, Subject, Target, assert_close, assert_same_bits, each, random, random_indices,
};
use jambac_kernels::cases::Case;
use jambac_kernels::catalog::AnySpec;
use jambac_kernels::node::Select as _;
use jambac_kernels::{moe_combine, moe_permute, moe_route, softmax, top_k};
use jambac_reference::{Tolerance, moe, softmax as scalar};

use super::{ARM, ROUNDING, V3};

/// Checks the small cases of a list on each target.
fn on_each_target(cases: fn() -> Vec<Case>, check: impl Fn(&Subject)) {
    for target in [V3, ARM, Target::Hopper] {
        each(target, cases().into_iter().filter(|case| case.bytes() < 1e6), &check);
    }
}

#[test]
fn softmax_agrees_with_the_reference() {
    on_each_target(softmax::Spec::cases, |on| {
        let AnySpec::Softmax(softmax::Spec { cols }) = on.case.kernel else { panic!("{on}") };
        // Differences of up to 60: the smallest probabilities are 10⁻²⁶.
        let x: Vec<f32> = random(1, on.n_tokens() * cols).iter().map(|x| 30.0 * x).collect();
        let run = |x: &[f32]| on.call(&Call::tokens(x.len() / cols).rows(cols, x).gives(cols)).rows(0);
        let found = run(&x);
        // Differences round at 64, and exp makes as much of its value of it; exp itself, within 4 roundings; a sum of cols / 16 a
        // lane and 4 more of the lanes; the quotient. On Hopper exp and the quotient are approximate.
        let tolerance = match on.is_cpu() {
            true => Tolerance { abs: 1e-37, rel: (64.0 + 9.0 + cols as f64 / 16.0) * ROUNDING },
            false => Tolerance { abs: 1e-30, rel: 1e-5 },
        };
        assert_close(&on.to_string(), &found, &scalar::softmax(&x, cols), tolerance);
        // Two rows suffice on the simulator.
        let n_alone = if on.is_cpu() { on.n_tokens() } else { 2 };
        for (row, x) in x.chunks_exact(cols).take(n_alone).enumerate() {
            assert_same_bits(&on.to_string(), &run(x), &found[row * cols..][..cols]);
        }
    });
}

fn top_k_call(spec: &top_k::Spec, p: &[f32]) -> Call {
    Call::tokens(p.len() / spec.cols).rows(spec.cols, p).gives(spec.k).gives_integers()
}

#[test]
fn top_k_agrees_with_the_reference() {
    on_each_target(top_k::Spec::cases, |on| {
        let AnySpec::TopK(spec) = &on.case.kernel else { panic!("{on}") };
        let n = on.n_tokens() * spec.cols;
        // Five values only: ties everywhere.
        let tied: Vec<f32> = random_indices(2, n, 5).iter().map(|&x| x as f32 / 4.0).collect();
        for p in [random(1, n), tied] {
            let found = on.call(&top_k_call(spec, &p));
            let (weights, experts) = moe::top_k(&p, spec.cols, spec.k);
            assert_eq!(found.integers(1), experts, "{on}");
            assert_same_bits(&on.to_string(), &found.rows(0), &weights);
        }
    });
}

#[test]
fn top_k_of_nan_gives_indices_that_exist() {
    let spec = top_k::Spec { cols: 5, k: 3 };
    let kernel = AnySpec::from(spec.clone());
    let Some(runner) = Runner::compile(V3, [&kernel]) else { return };
    let nan = f32::NAN;
    let p = [nan, 0.25, nan, nan, 0.75, nan, nan, nan, nan, nan];
    let found = runner.call(Conditions::AnyThreads, &kernel, &top_k_call(&spec, &p));
    let weights = found.rows(0);
    assert_eq!(found.integers(1), [4, 1, 2, 0, 1, 2]);
    assert_eq!(weights[..2], [0.75, 0.25]);
    assert!(weights[2..].iter().all(|weight| weight.is_nan()), "{weights:?}");
}

#[test]
fn moe_permute_agrees_with_the_reference() {
    on_each_target(moe_permute::Spec::cases, |on| {
        let AnySpec::MoePermute(moe_permute::Spec { n_experts, top_k }) = on.case.kernel else { panic!("{on}") };
        let n_slots = on.n_tokens() * top_k;
        let from = |first: Vec<i32>| {
            let of_token = |first: i32| (0..top_k as i32).map(move |j| (first + j) % n_experts as i32);
            first.into_iter().flat_map(of_token).collect::<Vec<i32>>()
        };
        let last = n_experts as i32 - 1;
        // Slots spread over all experts, and all slots at the last ones. On Hopper a token's experts differ, as top_k gives them.
        let spread = from(random_indices(1, on.n_tokens(), n_experts));
        let all = match on.is_cpu() {
            true => vec![random_indices(1, n_slots, n_experts), vec![last; n_slots], spread],
            false => vec![from(vec![last; on.n_tokens()]), spread],
        };
        for experts in all {
            let call = Call::tokens(on.n_tokens()).integers(&experts).gives_slots().gives_integers();
            let found = on.call(&call);
            let (slots, offsets) = moe::moe_permute(&experts, n_experts).expect("indices of experts");
            assert_eq!(found.integers(0), slots, "{on}: slots");
            assert_eq!(found.integers(1), offsets, "{on}: offsets");
        }
    });
}

/// A token's weights, the sorted slots, the experts' offsets.
fn route_call(spec: &moe_route::Spec, logits: &[f32]) -> Call {
    let call = Call::tokens(logits.len() / spec.n_experts).rows(spec.n_experts, logits);
    call.gives(spec.top_k).gives_slots().gives_integers()
}

#[test]
fn moe_route_agrees_with_the_reference() {
    on_each_target(moe_route::Spec::cases, |on| {
        let AnySpec::MoeRoute(spec) = &on.case.kernel else { panic!("{on}") };
        let n = on.n_tokens() * spec.n_experts;
        let any = |range: f32| random(1, n).iter().map(|x| range * x).collect::<Vec<f32>>();
        // Only three values, which gives many ties.
        let tied: Vec<f32> = random_indices(2, n, 3).iter().map(|&x| x as f32).collect();
        // As in softmax, with differences below 8 on CPUs.
        let (range, tolerance) = match on.is_cpu() {
            true => (4.0, Tolerance { abs: 1e-37, rel: 40.0 * ROUNDING }),
            false => (8.0, Tolerance { abs: 1e-30, rel: 1e-5 }),
        };
        for logits in [any(range), tied] {
            let found = on.call(&route_call(spec, &logits));
            let (expected, experts) = moe::top_k(&scalar::softmax(&logits, spec.n_experts), spec.n_experts, spec.top_k);
            assert_close(&on.to_string(), &found.rows(0), &expected, tolerance);
            let (slots, offsets) = moe::moe_permute(&experts, spec.n_experts).expect("indices of experts");
            assert_eq!((found.integers(1), found.integers(2)), (&slots[..], &offsets[..]), "{on}");
        }
    });
}

#[test]
fn moe_route_gives_the_bits_of_three_kernels() {
    let spec = moe_route::Spec { n_experts: 17, top_k: 3 };
    let largest = top_k::Spec { cols: 17, k: 3 };
    let kernels = [AnySpec::from(softmax::Spec { cols: 17 }), largest.clone().into(), spec.clone().into()];
    let Some(runner) = Runner::compile(V3, &kernels) else { return };
    let run = |kernel: usize, call: &Call| runner.call(Conditions::AnyThreads, &kernels[kernel], call);
    // Only three logits, which gives many ties.
    let tied: Vec<f32> = random_indices(2, 40 * 17, 3).iter().map(|&x| x as f32 * 1.7).collect();
    let routed = run(2, &route_call(&spec, &tied));
    let probabilities = run(0, &Call::tokens(40).rows(17, &tied).gives(17)).rows(0);
    let chosen = run(1, &top_k_call(&largest, &probabilities));
    assert_same_bits("weights", &routed.rows(0), &chosen.rows(0));
    let (slots, offsets) = moe::moe_permute(chosen.integers(1), 17).expect("indices of experts");
    assert_eq!((routed.integers(1), routed.integers(2)), (&slots[..], &offsets[..]));
}

#[test]
fn a_token_of_nan_has_experts_that_exist_on_hopper() {
    let spec = moe_route::Spec { n_experts: 5, top_k: 3 };
    let kernel = AnySpec::from(spec.clone());
    let nan = f32::NAN;
    let logits = [nan, 0.25, nan, nan, 0.75, nan, nan, nan, nan, nan, 0.0, 1.0, 2.0, 3.0, 4.0];
    let found = Runner::hopper([&kernel]).call(1, &kernel, &route_call(&spec, &logits));
    let (mut slots, offsets) = (found.integers(1).to_vec(), found.integers(2));
    slots.sort_unstable();
    assert_eq!(slots, (0..9).collect::<Vec<i32>>());
    assert_eq!((offsets[0], offsets[5]), (0, 9), "{offsets:?}");
    assert!(offsets.is_sorted(), "{offsets:?}");
}

#[test]
fn moe_combine_agrees_with_the_reference() {
    on_each_target(moe_combine::Spec::cases, |on| {
        let AnySpec::MoeCombine(moe_combine::Spec { cols, top_k }) = on.case.kernel else { panic!("{on}") };
        let n_slots = on.n_tokens() * top_k;
        let (y, weights) = (random(1, n_slots * cols), random(2, n_slots));
        let experts: Vec<i32> = (0..n_slots).map(|slot| ((slot * 7 + slot / 3) % 4) as i32).collect();
        let (slots, _) = moe::moe_permute(&experts, 4).expect("indices of experts");
        let call = Call::tokens(on.n_tokens()).slot_rows(cols, &y).rows(top_k, &weights).sorted_by(&slots).gives(cols);
        // One product and top_k − 1 multiply-adds, of magnitudes below top_k.
        let tolerance = match on.is_cpu() {
            true => Tolerance::abs((top_k * top_k) as f64 * ROUNDING),
            false => Tolerance::abs(3e-7),
        };
        assert_close(&on.to_string(), &on.call(&call).rows(0), &moe::moe_combine(&y, &weights, top_k, cols), tolerance);
    });
}
