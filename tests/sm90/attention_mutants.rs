//! Attention with one synchronization instruction removed or one number changed. Each mutant must fault on the simulator or
//! give a wrong result. Mutants that cannot be caught are listed with the reason.

use std::panic::{AssertUnwindSafe, catch_unwind};

use jambac_harness::{Runner, ptx_of};
use jambac_reference::compare;
use ptxsim::Options;
use ptxsim::mutate::{Kind, Site, sites};

use super::attention::{CLOSE, LONG, Setup, TINY};
use crate::kernels::steps::Division;

/// Seeds that are tried for each mutant.
const SEEDS: [u64; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

/// Generous limit of warp instructions per block, to detect hangs.
const BUDGET: u64 = 2_000_000;

/// With `split_lanes`, the lanes of a warp diverge where the mutant does not synchronize them.
fn options(seed: u64, split_lanes: bool) -> Options {
    Options { seed, n_sms: 2, budget: BUDGET, split_lanes, ..Options::default() }
}

fn is_close(found: &[f32], expected: &[f32]) -> bool {
    compare(found, expected, CLOSE).ok()
}

/// Contexts of several key tiles, so that the ring of pages wraps around, and several pieces of work per block.
fn prefill_is_right(kernels: &Runner, options: &Options) -> bool {
    let setup = Setup::new(TINY, &[230, 3, 70]);
    is_close(&setup.prefill(kernels, options, Division::Whole), &setup.expected())
}

/// Splits of few pages, and of enough pages that a warp's ring wraps around.
fn decode_is_right(kernels: &Runner, options: &Options) -> bool {
    let short = Setup::new(TINY, &[300, 3, 70]);
    let expected = short.expected();
    let long = Setup::new(TINY, &[32]);
    is_close(&short.last(1, &short.decode(kernels, options, 1), &expected), &expected) && {
        let once = long.expected();
        is_close(&long.decode_repeated(kernels, options, LONG), &once[once.len() - TINY.q_cols()..])
    }
}

/// Whether the kernels of a PTX text give the right result without a fault.
fn is_right(ptx: &str, run: Run, options: &Options) -> bool {
    catch_unwind(AssertUnwindSafe(|| run(&Runner::of_ptx(ptx), options))).unwrap_or(false)
}

type Run = fn(&Runner, &Options) -> bool;

/// Runs every mutant of the entries with this name prefix and returns the number of mutants. All must be caught except those
/// for which `harmless` is true.
#[track_caller]
fn check(entry: &str, run: Run, harmless: impl Fn(&[Site], usize) -> bool) -> usize {
    let ptx = ptx_of(&TINY.catalog());
    for split_lanes in [false, true] {
        assert!(SEEDS.iter().all(|&seed| is_right(&ptx, run, &options(seed, split_lanes))), "{entry} itself is wrong");
    }
    let sites = sites(&ptx).unwrap_or_else(|error| panic!("{error}"));
    // Shuffles are arithmetic, which tests of results cover.
    let counts = |site: &Site| site.entry.starts_with(entry) && site.kind != Kind::DropShuffle;
    let sites: Vec<Site> = sites.into_iter().filter(counts).collect();
    let mut wrong = Vec::new();
    for (index, site) in sites.iter().enumerate() {
        let mutant = site.apply(&ptx);
        let split_lanes = site.kind == Kind::DropWarpBarrier;
        let caught = SEEDS.iter().find(|&&seed| !is_right(&mutant, run, &options(seed, split_lanes)));
        println!("{site}: {}", caught.map_or("not caught".to_owned(), |seed| format!("caught, seed {seed}")));
        if caught.is_some() == harmless(&sites, index) {
            wrong.push(site.to_string());
        }
    }
    assert!(wrong.is_empty(), "neither caught nor harmless, or caught and said to be harmless:\n{}", wrong.join("\n"));
    sites.len()
}

/// Between the accesses that a warp barrier orders, the warp executes another convergent instruction: a product, ldmatrix or
/// another warp barrier. Diverging lanes then have no effect on the simulator.
fn in_company(site: &Site) -> bool {
    site.kind == Kind::DropWarpBarrier
}

/// A second wait for the same phase passes at once: it stands where it is for ptxas (`Ring::retest_full`).
pub(super) fn is_retest(sites: &[Site], index: usize) -> bool {
    let site = &sites[index];
    let same = |other: &Site| (&other.entry, &other.instruction) == (&site.entry, &site.instruction);
    site.kind == Kind::DropMbarrierWait && sites[..index].iter().any(|other| other.kind == site.kind && same(other))
}

/// A warp that fills its own ring waits for an empty stage before each copy. The simulator orders a warp's copies after its reads without
/// that, which hardware does not promise.
fn waits_before_its_own_copy(sites: &[Site], index: usize) -> bool {
    let next = sites[index + 1..].iter().find(|other| other.line > sites[index].line);
    let counts_bytes = |site: &Site| matches!(site.kind, Kind::DropExpectTx | Kind::MoreBytes | Kind::FewerBytes);
    sites[index].kind == Kind::DropMbarrierWait && next.is_some_and(counts_bytes)
}

#[test]
fn mutants_of_prefill_are_caught() {
    let n = check("attention_prefill", prefill_is_right, |sites, index| {
        in_company(&sites[index]) || is_retest(sites, index)
    });
    assert!(n >= 10, "{n} mutants");
}

#[test]
fn mutants_of_decode_are_caught() {
    let n = check("attention_decode", decode_is_right, |sites, index| {
        in_company(&sites[index]) || waits_before_its_own_copy(sites, index)
    });
    assert!(n >= 4, "{n} mutants");
}
