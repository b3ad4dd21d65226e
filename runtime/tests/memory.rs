//! Resident memory of an open plan equals the size that the plan states. This test has its own process.

#[expect(dead_code, reason = "other tests use the rest")]
mod fixture;

use fixture::Toy;
use jamba_plan::format::{Layout, SLACK_BYTES};
use jamba_runtime::{Engine, Feed, OpenOptions, Outputs};

const MIB: u64 = 1 << 20;

/// Resident memory of this process in bytes, including mapped files.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() * 1024
}

/// A plan with pools that are large compared with everything else.
fn large(synthetic_seed: Option<u64>) -> Toy {
    let mut toy = Toy::new();
    let weight = &mut toy.program.weights[0];
    weight.layout = Layout { n: 24 * MIB, ..weight.layout };
    weight.parts[0].rows = 24 * MIB;
    weight.bytes = 96 * MIB;
    toy.restate();
    let manifest = &mut toy.manifest;
    manifest.synthetic_seed = synthetic_seed;
    let memory = &mut manifest.programs[0].memory;
    memory.weights = 96 * MIB + SLACK_BYTES;
    memory.arena = 64 * MIB;
    memory.state_slot = 16 * MIB;
    memory.kv_page = 4 * MIB;
    manifest.limits.kv_tokens = 640;
    toy
}

#[test]
fn an_open_plan_holds_what_it_states() {
    let folder = tempfile::tempdir().unwrap();
    for (name, seed) in [("mapped", None), ("drawn", Some(5))] {
        let path = large(seed).write(folder.path(), name);
        for prefault in [true, false] {
            let before = resident();
            let options = OpenOptions { threads: Some(2), prefault, ..OpenOptions::default() };
            let mut engine = Engine::open(&path, options).unwrap();
            let opened = resident() - before;
            let (memory, limits) = (engine.memory(), &engine.manifest().limits);
            let (pools, stated) = (memory.state_pool(limits) + memory.kv_pool(limits), memory.total(limits));
            let sequence = engine.add_sequence().unwrap();
            let feed = Feed { sequence, tokens: &[1, 2, 3], outputs: Outputs::Last };
            engine.step(&[feed]).unwrap();
            let used = resident() - before;
            println!(
                "{name}, prefault {prefault}: {stated} bytes stated; {opened} resident after opening, {used} after a step"
            );
            // The margin covers code, tables and stacks.
            let (least, most) = (stated - stated / 50, stated + stated / 50);
            if prefault {
                assert!((least..=most).contains(&opened) && (least..=most).contains(&used), "{name}");
            } else {
                assert!(
                    opened <= stated - pools + stated / 50 && used <= most,
                    "{name}: pools are taken as they are used"
                );
            }
            drop(engine);
            let left = resident().saturating_sub(before);
            assert!(left <= stated / 50, "{name}: {left} bytes are left behind");
        }
    }
}
