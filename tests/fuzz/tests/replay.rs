//! Every target on its seeds, on the inputs that were faults, and on mutations of them.

use std::path::Path;

use jambac_fuzz::mutate::Mutator;
use jambac_fuzz::soak::Soak;
use jambac_fuzz::{TARGETS, Target, regressions};

/// Mutated inputs of each target; fewer where an input takes longer.
fn n_mutations(target: &Target) -> usize {
    match target.name {
        "constraint" => 40,
        "library" | "gpu" | "quantized" | "arguments" => 300,
        "tokenizer" | "plan_run" | "plan_records" | "plan_sections" | "plan_frame" | "template" | "stream"
        | "graph_passes" => 600,
        _ => 3000,
    }
}

#[test]
fn seeds_regressions_and_mutations_are_harmless() {
    for target in TARGETS {
        let mut inputs = (target.seeds)();
        assert!(!inputs.is_empty(), "{} has no seeds", target.name);
        inputs.extend(regressions(target.name).iter().map(|path| std::fs::read(path).expect("a regression")));
        inputs.iter().for_each(|input| (target.check)(input));
        let mut mutator = Mutator::new(inputs, 1);
        for _ in 0..n_mutations(target) {
            let input = mutator.input();
            if std::panic::catch_unwind(|| (target.check)(&input)).is_err() {
                panic!("{}: panics at {}", target.name, input.escape_ascii());
            }
        }
    }
}

#[test]
fn random_load_leaves_nothing_behind() {
    let mut soak = Soak::new(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../runtime/examples/toy.plan")), 1);
    (0..30).for_each(|_| soak.round());
    assert!(soak.counts.answers > 100 && soak.counts.cut > 0 && soak.counts.snapshots > 0, "{:?}", soak.counts);
}

#[test]
fn every_folder_of_regressions_is_of_a_target() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/regressions");
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let name = entry.expect("the folder is readable").file_name().into_string().expect("UTF-8");
        assert!(name.ends_with(".md") || TARGETS.iter().any(|target| target.name == name), "{name} is no target");
    }
}
