//! Plans against Hugging Face transformers: logits and greedy tokens, unfused and fused, with one and two threads, in chunks of
//! any size. The bits are the same throughout.

use std::path::{Path, PathBuf};

use jamba_plan::format::WeightFormat;
use jamba_runtime::{Engine, Feed, OpenOptions, Outputs};
use jambac::compile::{Progress, Request, build};
use jambac::manifest::{ModelFile, targets};

use crate::fixtures::{Fixture, PROMPT_LENGTHS, Prompt, max_difference, runs};

/// Builds the plan of a fixture, with limits that fit its prompts in one chunk and allow all rows of logits.
pub fn plan(checkpoint: &Path, folder: &Path, fusion: &str, target: &str) -> PathBuf {
    let mut model = ModelFile::open(checkpoint).unwrap();
    model.build.targets = targets(&[target]).unwrap();
    model.build.fusion = fusion.parse().unwrap();
    model.limits.max_context = 512;
    model.limits.max_sequences = 3;
    model.limits.kv_tokens = None;
    model.limits.prefill_chunk = 300;
    model.limits.max_outputs = 300;
    let output = folder.join(format!("{fusion}.{target}.plan"));
    build(&Request::new(model, output.clone()), &Progress::hidden()).unwrap();
    output
}

/// A plan, open.
pub fn open(path: &Path, threads: usize) -> Engine {
    Engine::open(path, OpenOptions { threads: Some(threads), ..OpenOptions::default() }).unwrap()
}

/// Prefills in chunks and returns the logits of every position.
pub fn logits(engine: &mut Engine, ids: &[u32], chunk: usize) -> Vec<Vec<f32>> {
    let sequence = engine.add_sequence().unwrap();
    let mut rows = Vec::new();
    for tokens in ids.chunks(chunk) {
        let logits = engine.step(&[Feed { sequence, tokens, outputs: Outputs::All }]).unwrap();
        rows.extend(logits.rows().map(<[f32]>::to_vec));
    }
    engine.remove_sequence(sequence).unwrap();
    rows
}

fn recorded(rows: &[Vec<f32>], prompt: &Prompt) -> Vec<f32> {
    prompt.rows.iter().flat_map(|&row| rows[row].iter().copied()).collect()
}

/// The token with the largest logit; the first one on ties.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, value) in logits.iter().enumerate() {
        if *value > logits[best] {
            best = i;
        }
    }
    best as u32
}

fn check_logits(name: &'static str) {
    let fixture = Fixture::open(name);
    let folder = tempfile::tempdir().unwrap();
    for fusion in ["none", "all"] {
        let path = plan(&fixture.checkpoint, folder.path(), fusion, "x86-64-v3");
        let mut engines = [open(&path, 1), open(&path, 2)];
        for &length in PROMPT_LENGTHS {
            let prompt = fixture.prompt(length);
            let whole = logits(&mut engines[0], &prompt.ids, length);
            let (difference, at) = max_difference(&recorded(&whole, &prompt), &prompt.logits);
            assert!(
                difference <= prompt.tolerance(),
                "{name}, fusion {fusion}, prompt {length}: |Δlogit| {difference:e} at {at}, allowed {:e}",
                prompt.tolerance()
            );
            println!(
                "{name:<12} fusion {fusion:<4} prompt {length:>3}: max |Δlogit| {difference:.1e}, allowed {:.1e}",
                prompt.tolerance()
            );
            for engine in &mut engines {
                for chunk in [1, 7, 64, length] {
                    let found = logits(engine, &prompt.ids, chunk);
                    assert!(
                        found == whole,
                        "{name}, fusion {fusion}, prompt {length}: chunks of {chunk} on {} threads give other bits",
                        engine.threads()
                    );
                }
            }
        }
    }
}

/// Fusions of the Mamba mixer depend on each other: leaving out any one still gives a working plan.
#[test]
fn fusions_of_a_mamba_mixer_can_be_left_out_one_by_one() {
    let fixture = Fixture::open("odd");
    let folder = tempfile::tempdir().unwrap();
    let of_scan = ["fuse-dt-softplus", "fuse-dt-norms", "fuse-dt-scan", "fuse-norms-scan", "fuse-scan-gate"];
    for without in of_scan.into_iter().chain(["fuse-norm-linear", "fuse-proj-conv"]) {
        let path = plan(&fixture.checkpoint, folder.path(), &format!("all,-{without}"), "x86-64-v3");
        let mut engine = open(&path, 2);
        for &length in PROMPT_LENGTHS {
            let prompt = fixture.prompt(length);
            let found = recorded(&logits(&mut engine, &prompt.ids, length), &prompt);
            let (difference, at) = max_difference(&found, &prompt.logits);
            let allowed = prompt.tolerance();
            assert!(difference <= allowed, "without {without}, prompt {length}: |Δlogit| {difference:e} at {at}");
        }
    }
}

fn check_greedy(name: &'static str) {
    let fixture = Fixture::open(name);
    let folder = tempfile::tempdir().unwrap();
    let mut compared = 0;
    for fusion in ["none", "all"] {
        let mut engine = open(&plan(&fixture.checkpoint, folder.path(), fusion, "x86-64-v3"), 2);
        for &length in PROMPT_LENGTHS {
            let prompt = fixture.prompt(length);
            let Some(expected) = &prompt.greedy else { continue };
            let sequence = engine.add_sequence().unwrap();
            let mut next = argmax(engine.prefill(sequence, &prompt.ids, Some(64), None).unwrap().row(0));
            let mut found = vec![next];
            while found.len() < expected.len() {
                next =
                    argmax(engine.step(&[Feed { sequence, tokens: &[next], outputs: Outputs::Last }]).unwrap().row(0));
                found.push(next);
            }
            engine.remove_sequence(sequence).unwrap();
            assert_eq!(&found, expected, "{name}, fusion {fusion}, prompt {length}");
            compared += 1;
        }
    }
    assert!(compared >= 6, "only {compared} recorded continuations");
}

macro_rules! for_each_fixture {
    ($($name:ident)*) => {$(
        mod $name {
            #[test]
            fn logits_are_those_of_transformers() {
                super::check_logits(stringify!($name));
            }

            #[test]
            fn greedy_tokens_are_those_of_transformers() {
                super::check_greedy(stringify!($name));
            }
        }
    )*};
}

for_each_fixture!(tiny dense_tied sharded_moe odd old_names);

/// Sequences in one ragged batch, some decoding and some prefilling, get the same logits as each alone.
#[test]
fn a_ragged_batch_gives_each_sequence_its_own_bits() {
    let fixture = Fixture::open("odd");
    let folder = tempfile::tempdir().unwrap();
    let mut engine = open(&plan(&fixture.checkpoint, folder.path(), "all", "x86-64-v3"), 2);
    let prompts: Vec<Vec<u32>> = [128, 17, 4].iter().map(|&length| fixture.prompt(length).ids).collect();
    let alone: Vec<_> = prompts.iter().map(|ids| logits(&mut engine, ids, ids.len())).collect();

    let sequences: Vec<_> = prompts.iter().map(|_| engine.add_sequence().unwrap()).collect();
    let mut together: Vec<Vec<Vec<f32>>> = vec![Vec::new(); prompts.len()];
    // Chunks of 50, 1 and 3 tokens; a sequence leaves the batch when its prompt ends.
    let sizes = [50, 1, 3];
    loop {
        let feeds: Vec<Feed<'_>> = (0..prompts.len())
            .filter(|&i| together[i].len() < prompts[i].len())
            .map(|i| {
                let rest = &prompts[i][together[i].len()..];
                Feed { sequence: sequences[i], tokens: &rest[..sizes[i].min(rest.len())], outputs: Outputs::All }
            })
            .collect();
        if feeds.is_empty() {
            break;
        }
        let mut rows = engine.step(&feeds).unwrap().rows().map(<[f32]>::to_vec).collect::<Vec<_>>().into_iter();
        for feed in &feeds {
            let i = sequences.iter().position(|&sequence| sequence == feed.sequence).unwrap();
            together[i].extend(rows.by_ref().take(feed.tokens.len()));
        }
    }
    assert!(together == alone);
}

/// Other instruction set levels: v2 has no FMA and rounds differently, so it is compared with the recordings, not with v3's bits.
#[test]
fn the_baseline_level_agrees_too() {
    for name in ["odd", "dense_tied"] {
        let fixture = Fixture::open(name);
        let folder = tempfile::tempdir().unwrap();
        let mut engine = open(&plan(&fixture.checkpoint, folder.path(), "all", "x86-64-v2"), 2);
        for length in [1, 17, 128] {
            let prompt = fixture.prompt(length);
            let rows = logits(&mut engine, &prompt.ids, 64);
            let (difference, at) = max_difference(&recorded(&rows, &prompt), &prompt.logits);
            assert!(difference <= prompt.tolerance(), "{name} prompt {length}: {difference:e} at {at}");
        }
    }
}

/// A plan for several levels: the runtime picks the best level of the machine or the requested one, and refuses a level that the
/// machine lacks by name.
#[test]
fn one_plan_serves_several_levels() {
    let fixture = Fixture::open("dense_tied");
    let folder = tempfile::tempdir().unwrap();
    let mut model = ModelFile::open(&fixture.checkpoint).unwrap();
    model.build.targets = targets(&["x86-64-v2", "x86-64-v4", "x86-64-v3", "x86-64-v4-amx", "x86-64-v4-vnni"]).unwrap();
    let path = folder.path().join("levels.plan");
    build(&Request::new(model, path.clone()), &Progress::hidden()).unwrap();

    let prompt = fixture.prompt(17);
    let best = jambac_kernels::target::CpuTarget::native().unwrap();
    let with = |isa: Option<&str>| {
        Engine::open(&path, OpenOptions { threads: Some(1), isa: isa.map(String::from), ..OpenOptions::default() })
    };
    let mut engine = with(None).unwrap();
    assert_eq!(engine.target(), best.name());
    let chosen = logits(&mut engine, &prompt.ids, 16);
    assert!(chosen == logits(&mut with(Some(best.name())).unwrap(), &prompt.ids, 16));
    let baseline = logits(&mut with(Some("x86-64-v2")).unwrap(), &prompt.ids, 16);
    let (difference, _) = max_difference(&recorded(&baseline, &prompt), &prompt.logits);
    assert!(difference <= prompt.tolerance(), "{difference:e}");
    if !is_x86_feature_detected!("avx512f") {
        let refused = with(Some("x86-64-v4")).err().expect("a level that this machine lacks").to_string();
        assert!(refused.contains("x86-64-v4"), "{refused}");
    }
}

/// Levels that round the inputs of bf16 weights: their logits differ from those of f32 inputs by roundings to bf16.
#[test]
fn rounded_inputs_change_logits_by_roundings() {
    let fixture = Fixture::open("dense_tied");
    let folder = tempfile::tempdir().unwrap();
    let prompt = fixture.prompt(128);
    for target in ["x86-64-v4-bf16", "x86-64-v4-amx-bf16"] {
        if !runs(target) {
            continue;
        }
        let mut model = ModelFile::open(&fixture.checkpoint).unwrap();
        model.build.targets = targets(&[target, "x86-64-v3"]).unwrap();
        model.weights.default = Some(WeightFormat::Bf16);
        let path = folder.path().join(format!("{target}.plan"));
        build(&Request::new(model, path.clone()), &Progress::hidden()).unwrap();
        let of = |isa: &str| {
            let options = OpenOptions { threads: Some(2), isa: Some(isa.to_owned()), ..OpenOptions::default() };
            logits(&mut Engine::open(&path, options).unwrap(), &prompt.ids, 16)
        };
        let [rounded, exact] = [of(target), of("x86-64-v3")].map(|rows| recorded(&rows, &prompt));
        let (difference, at) = max_difference(&rounded, &exact);
        let greatest = exact.iter().map(|logit| logit.abs()).fold(0.0, f32::max);
        println!("{target}: {difference:e} at {at}, logits up to {greatest}");
        assert!(difference > 0.0 && f64::from(difference) < 0.03 * f64::from(greatest), "{difference:e} of {greatest}");
    }
}
