//! Matrix products with one synchronization instruction removed or one number changed. Each mutant must fault on the simulator
//! or give a wrong result.

use std::panic::{AssertUnwindSafe, catch_unwind};

use gpu_bench::variants::{self, Variant};
use jamba_plan::format::TargetKind;
use jambac_harness::{Lower, Runner, ptx_of};
use jambac_kernels::cases::Case;
use jambac_kernels::hopper::matmul::TileRows;
use jambac_kernels::kernel::{Config, Elem};
use jambac_kernels::{grouped_linear, linear};
use jambac_reference::compare;
use ptxsim::Options;
use ptxsim::mutate::{Kind, sites};

use super::attention_mutants::is_retest;
use super::matmul::{base, case};
use crate::kernels::products::Product;

/// Seeds that are tried for each mutant.
const SEEDS: [u64; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

/// Generous limit of warp instructions per block, to detect hangs.
const BUDGET: u64 = 2_000_000;

/// Checks that every mutant of a case's kernel is caught; the first `n_slots` of three experts' slots go to the first one, the
/// others to the last one.
fn check(case: &Case, config: Config, n_slots: Option<usize>, least: usize) {
    let kernel = (case, config);
    let product = Product::new(&case.kernel, case.counts.tokens, TargetKind::Sm90a);
    let product = match n_slots {
        Some(first) => {
            let experts = (0..case.counts.tokens).map(|slot| if slot < first { 0 } else { 2 });
            product.with_experts(experts.collect())
        }
        None => product,
    };
    let (call, expected) = (product.call(), product.expected());
    let tolerance = product.tolerance(TargetKind::Sm90a);
    // Whether PTX gives the right result.
    let is_right = |ptx: &str, (seed, split_lanes): (u64, bool)| {
        let options = Options { seed, n_sms: 2, budget: BUDGET, split_lanes, ..Options::default() };
        let found = catch_unwind(AssertUnwindSafe(|| Runner::of_ptx(ptx).call(options, &kernel, &call)));
        found.is_ok_and(|found| compare(&found.rows(0), &expected[0], tolerance).ok())
    };
    let ptx = ptx_of(&kernel.lowered(TargetKind::Sm90a));
    let all_right = |split_lanes: bool| SEEDS.iter().all(|&seed| is_right(&ptx, (seed, split_lanes)));
    assert!(all_right(false) && all_right(true), "the kernel itself is wrong: {case:?}");
    let sites = sites(&ptx).unwrap_or_else(|error| panic!("{error}"));
    // Shuffles are arithmetic, which tests of results cover.
    let sites: Vec<_> = sites.into_iter().filter(|site| site.kind != Kind::DropShuffle).collect();
    assert!(sites.len() >= least, "{} mutants of {case:?}", sites.len());
    // Between the accesses that a warp barrier orders, the warp executes another convergent instruction, so diverging lanes
    // have no effect.
    let is_wrong = |&index: &usize| {
        let (mutant, in_company) = (sites[index].apply(&ptx), sites[index].kind == Kind::DropWarpBarrier);
        let harmless = in_company || is_retest(&sites, index);
        SEEDS.iter().all(|&seed| is_right(&mutant, (seed, in_company))) != harmless
    };
    let wrong: Vec<String> = (0..sites.len()).filter(is_wrong).map(|index| sites[index].to_string()).collect();
    println!("{} mutants of {case:?}", sites.len());
    assert!(wrong.is_empty(), "not caught, or caught and said to be harmless:\n{}", wrong.join("\n"));
}

/// Three steps of inputs, fewer than stages: only barriers keep the warps of a consumer on the same tile. A block has several
/// tiles, so the ring wraps around.
fn large(format: Elem) -> linear::Spec {
    linear::Spec { n: 200, k: 3 * 64, format, ..base() }
}

/// One slot per token.
fn experts(spec: &linear::Spec) -> grouped_linear::Spec {
    let &linear::Spec { n, k, format, out, .. } = spec;
    grouped_linear::Spec { n_experts: 3, n, k, format, out, slots_per_row: 1, top_k: 1 }
}

const TILED: Config = Config::Tiled(TileRows::Rows64);

#[test]
fn mutants_of_the_large_product_are_caught() {
    check(&case(large(Elem::Bf16), 450), TILED, None, 30);
}

#[test]
fn mutants_of_the_large_product_of_integers_are_caught() {
    check(&case(large(Elem::I8), 450), TILED, None, 30);
}

#[test]
fn mutants_of_the_large_product_of_fp8_are_caught() {
    check(&case(large(Elem::F8), 450), TILED, None, 30);
}

#[test]
fn mutants_of_the_large_product_of_experts_are_caught() {
    check(&case(experts(&large(Elem::Bf16)), 450), TILED, Some(170), 30);
}

#[test]
fn mutants_of_the_product_of_a_handful_of_rows_are_caught() {
    check(&case(base(), 5), Config::Few, None, 1);
    check(&case(experts(&base()), 7), Config::Few, Some(5), 2);
}

/// In the text for checking, whose waits end, a wrong byte count is a trap at the wait for those bytes, and the right kernel does not
/// trap.
#[test]
fn a_wait_that_never_ends_is_named_by_the_checking_text() {
    let case = case(large(Elem::Bf16), 100);
    let kernel = (&case, TILED);
    let product = Product::new(&case.kernel, case.counts.tokens, TargetKind::Sm90a);
    let (call, expected) = (product.call(), product.expected());
    let bounded = Variant::Bounded { tries: variants::SIMULATED_TRIES, only: None };
    let run = |ptx: &str| {
        let options = Options { seed: 1, n_sms: 2, ..Options::default() };
        catch_unwind(AssertUnwindSafe(|| Runner::of_ptx(&bounded.apply(ptx)).call(options, &kernel, &call)))
    };
    let ptx = ptx_of(&kernel.lowered(TargetKind::Sm90a));
    let found = run(&ptx).expect("a right kernel ends by itself");
    assert!(compare(&found.rows(0), &expected[0], product.tolerance(TargetKind::Sm90a)).ok());
    let sites = sites(&ptx).unwrap_or_else(|error| panic!("{error}"));
    let site = sites.iter().find(|site| site.kind == Kind::MoreBytes).expect("a byte count");
    let fault = *run(&site.apply(&ptx)).expect_err("a fault").downcast::<String>().expect("a message");
    let line = fault.split("PTX line ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
    assert!(fault.contains("Trap in") && variants::waits(&ptx).contains(&line.expect("a line")), "{fault}");
}
