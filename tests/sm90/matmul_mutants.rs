//! Matrix products with one synchronization instruction removed or one number changed. Each mutant must fault on the simulator
//! or give a wrong result.

use std::panic::{AssertUnwindSafe, catch_unwind};

use jambac_kernels::hopper::matmul::TileRows;
use jambac_kernels::kernel::{Config, Elem};
use jambac_reference::compare;
use ptxsim::Options;
use ptxsim::mutate::{Kind, Site, sites};

use super::harness::{Kernels, ptx_of, rounded};
use super::matmul::{Problem, base};
use crate::kernels::harness::random;

/// Seeds that are tried for each mutant.
const SEEDS: [u64; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

/// Generous limit of warp instructions per block, to detect hangs.
const BUDGET: u64 = 2_000_000;

/// Whether a kernel's PTX gives the right result.
fn is_right(ptx: &str, problem: &Problem, offsets: &[usize], (seed, split_lanes): (u64, bool)) -> bool {
    let operands = problem.operands();
    let x = rounded(&random(1, offsets[offsets.len() - 1] * problem.k));
    let options = Options { seed, n_sms: 2, budget: BUDGET, split_lanes, ..Options::default() };
    let found = catch_unwind(AssertUnwindSafe(|| operands.run(&Kernels::of(ptx), options, &x, offsets)));
    let Ok(found) = found else { return false };
    let expected = operands.expected(&x, offsets);
    found.iter().zip(&expected).all(|(found, expected)| compare(found, expected, operands.tolerance()).ok())
}

/// Checks that every mutant of a problem's kernel is caught.
fn check(problem: &Problem, offsets: &[usize], least: usize) {
    let ptx = ptx_of(&[problem.kernel()]);
    let all_right = |split_lanes: bool| SEEDS.iter().all(|&seed| is_right(&ptx, problem, offsets, (seed, split_lanes)));
    assert!(all_right(false) && all_right(true), "the kernel itself is wrong: {problem:?}");
    let sites = sites(&ptx).unwrap_or_else(|error| panic!("{error}"));
    // Shuffles are arithmetic, which tests of results cover.
    let sites: Vec<_> = sites.into_iter().filter(|site| site.kind != Kind::DropShuffle).collect();
    assert!(sites.len() >= least, "{} mutants of {problem:?}", sites.len());
    // Between the accesses that a warp barrier orders, the warp executes another convergent instruction, so diverging lanes
    // have no effect.
    let is_wrong = |site: &&Site| {
        let (mutant, in_company) = (site.apply(&ptx), site.kind == Kind::DropWarpBarrier);
        SEEDS.iter().all(|&seed| is_right(&mutant, problem, offsets, (seed, in_company))) != in_company
    };
    let wrong: Vec<String> = sites.iter().filter(is_wrong).map(ToString::to_string).collect();
    println!("{} mutants of {problem:?}", sites.len());
    assert!(wrong.is_empty(), "not caught, or caught and said to be harmless:\n{}", wrong.join("\n"));
}

/// Three steps of inputs, fewer than stages: only barriers keep the warps of a consumer on the same tile. A block has several
/// tiles, so the ring wraps around.
fn large(format: Elem) -> Problem {
    Problem { sizes: vec![200], k: 3 * 64, format, ..base(Config::Tiled(TileRows::Rows64)) }
}

#[test]
fn mutants_of_the_large_product_are_caught() {
    check(&large(Elem::Bf16), &[0, 450], 30);
}

#[test]
fn mutants_of_the_large_product_of_integers_are_caught() {
    check(&large(Elem::I8), &[0, 450], 30);
}

#[test]
fn mutants_of_the_large_product_of_experts_are_caught() {
    check(&Problem { n_experts: 3, ..large(Elem::Bf16) }, &[0, 170, 170, 450], 30);
}

#[test]
fn mutants_of_the_product_of_a_handful_of_rows_are_caught() {
    check(&base(Config::Few), &[0, 5], 1);
    check(&Problem { n_experts: 3, ..base(Config::Few) }, &[0, 5, 5, 7], 2);
}
