//! Launches that the harness records for a device.

use std::collections::BTreeSet;

use gpu_bench::cases::{self, Cases, Outcome, Verdict};
use jamba_plan::format::TargetKind;
use jambac_harness::{Arg, Kernel, Runner, counts, ptx_of};
use jambac_kernels::kernel::{Elem, Kernel as _};
use jambac_kernels::rms_norm;
use ptxsim::Options;
use ptxsim::driver::{Device, Simulated};

use super::{assembly, attention, matmul, sample, synthetic_weight};
use crate::kernels::steps::Division;
use crate::models::{self, published};

/// A recorded launch runs on another device, and a wrong result is detected there.
#[test]
fn recorded_launches_run_again() {
    let kernel = Kernel::from(rms_norm::Spec { cols: 40, eps: 1e-6, residual: false, out: Elem::Bf16 });
    let ptx = ptx_of([&kernel]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a.cases");
    let values: Vec<f32> = (0..120).map(|at| (at * 37 % 101) as f32 * 0.02 - 1.0).collect();
    let args =
        [Arg::f32_rows(40, &values), Arg::F32(vec![1.5; 40]), Arg::unwritten(40, 3).of(Elem::Bf16), Arg::Scalar(3)];
    let kernels = Runner::recorded_to(path.clone(), &ptx);
    kernels.run(1, &kernel, counts(3, 1, 1), &args);
    drop(kernels);
    let mut cases = Cases::read(&path).expect("cases");
    assert_eq!(cases.cases.len(), 1);
    let device = || Box::new(Simulated::new(&Device { seed: 5, ..Device::default() }));
    let outcomes = cases.run(device()).expect("runs");
    assert!(matches!(&outcomes[..], [Outcome { verdict: Verdict::Error(0.0..1.0), .. }]), "{outcomes:?}");
    let Some(cases::Arg::Buffer(_, Some(after))) = cases.cases[0].args.get_mut(2) else { panic!("a result") };
    after.bytes[3] ^= 0x40;
    let wrong = wrong(&cases.run(device()).expect("runs"));
    assert!(wrong.contains("parameter 2: element 1 is"), "{wrong}");
}

/// Launches that share memory are recorded with it: a cache that is appended to, attended to, and the splits of a decode step.
#[test]
fn launches_on_shared_memory_run_again() {
    let heads = attention::TINY;
    let ptx = ptx_of(&heads.catalog());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("pages.cases");
    let kernels = Runner::recorded_to(path.clone(), &ptx);
    let setup = attention::Setup::new(heads, &[40, 3]);
    setup.prefill(&kernels, &Options::default(), Division::Whole);
    setup.decode(&kernels, &Options::default(), 2);
    drop(kernels);
    let mut cases = Cases::read(&path).expect("cases");
    let ops = |cases: &Cases| cases.cases.iter().map(|case| template(&case.symbol)).collect::<BTreeSet<_>>();
    let all: BTreeSet<String> = heads.catalog().iter().map(|kernel| template(&kernel.symbol())).collect();
    assert_eq!(ops(&cases), all);
    let device = || Box::new(Simulated::new(&Device { seed: 5, ..Device::default() }));
    let outcomes = cases.run(device()).expect("runs");
    assert!(outcomes.iter().all(|outcome| matches!(outcome.verdict, Verdict::Error(0.0..1.0))), "{outcomes:?}");
    // The appended cache is compared.
    let append = cases.cases.iter_mut().find(|case| case.symbol.starts_with("kv_append")).expect("an append");
    let cache = append.args.iter_mut().find_map(|arg| match arg {
        cases::Arg::Buffer(_, Some(after)) => Some(after),
        _ => None,
    });
    let cache = cache.expect("the cache is written");
    let written = cache.bytes.iter().rposition(|&byte| byte != 0xff).expect("keys and values");
    cache.bytes[written] ^= 1;
    let outcomes = cases.run(device()).expect("runs");
    // Later cases begin with their own recorded memory.
    assert!(wrong(&outcomes).contains(&format!("byte {written} is")), "{outcomes:?}");
}

/// What is wrong with the only wrong outcome.
fn wrong(outcomes: &[Outcome]) -> String {
    let wrong = outcomes.iter().filter_map(|outcome| match &outcome.verdict {
        Verdict::Wrong(wrong) => Some(wrong.clone()),
        _ => None,
    });
    let wrong: Vec<String> = wrong.collect();
    assert_eq!(wrong.len(), 1, "{outcomes:?}");
    wrong.concat()
}

/// A symbol without its sizes: kernels of one template differ by them only.
fn template(symbol: &str) -> String {
    let is_hex = |text: &str| text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parts = symbol.split('_').map(|part| {
        // Types keep their sizes: `bf16`, and `bf168` for eight columns of it.
        if let Some(elem) = ["bf16", "f32", "int8", "i8", "sm90"].into_iter().find(|elem| part.starts_with(elem)) {
            return elem;
        }
        match part.split_at_checked(1) {
            // The bits of a scale or an epsilon.
            Some((name @ ("s" | "e"), rest)) if is_hex(rest) => name,
            _ => part.trim_end_matches(|c: char| c.is_ascii_digit()),
        }
    });
    parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join("_")
}

/// Every template of the kernels that published models' plans select has a case that the tests run and record.
#[test]
fn every_template_of_published_models_has_a_recorded_case() {
    let of_cases = jambac_kernels::cases::all().into_iter().flat_map(|case| {
        let is_supported = case.kernel.supports(TargetKind::Sm90a).is_ok();
        let configs = if is_supported { matmul::configs(&case.kernel) } else { Vec::new() };
        let launches = configs.into_iter().flat_map(move |config| case.kernel.lower(TargetKind::Sm90a, config));
        launches.map(|launch| template(&launch.symbol)).collect::<Vec<_>>()
    });
    let mut covered: BTreeSet<String> = of_cases.collect();
    // No step's node selects the kernels of these tests alone: attention's splits, picks, drawn weights.
    covered.extend(attention::TINY.catalog().iter().map(|kernel| template(&kernel.symbol())));
    covered.extend(sample::kernels().iter().chain(&synthetic_weight::all()).map(|kernel| template(&kernel.symbol())));
    for (name, config) in [
        ("tiny", published("tiny")),
        ("mid", models::mid()),
        ("3B", published("jamba-3b")),
        ("Mini", published("jamba-mini")),
    ] {
        let selected: BTreeSet<String> =
            assembly::kernels(&config, "all").keys().map(|symbol| template(symbol)).collect();
        let missing: Vec<&String> = selected.difference(&covered).collect();
        assert!(missing.is_empty(), "{name}: no case of {missing:?}");
    }
}
