//! Steps do not allocate. Allocations of all threads are counted, so this test has its own process.

#[expect(dead_code, reason = "other tests use the rest")]
mod fixture;

use std::alloc::System;

use fixture::{Toy, VOCAB};
use jamba_runtime::{
    Batch, BatchOptions, Engine, Feed, GenerateOptions, OpenOptions, Outputs, Request, Sampler, SamplerOptions,
    SequenceId,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Runs `work` and fails if it allocates.
#[track_caller]
fn allocates_nothing<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let region = Region::new(ALLOCATOR);
    let result = work();
    let change = region.change();
    assert_eq!((change.allocations, change.reallocations), (0, 0), "{what}: {change:?}");
    result
}

/// Greedy options, and options that use every feature of a sampler.
fn sampler(index: usize) -> SamplerOptions {
    match index % 2 {
        0 => SamplerOptions::default(),
        _ => SamplerOptions {
            temperature: 0.7,
            top_k: 90,
            top_p: 0.9,
            min_p: 0.001,
            repetition_penalty: 1.2,
            presence_penalty: 0.1,
            frequency_penalty: 0.1,
            logit_bias: vec![(7, -1.0), (8, f32::NEG_INFINITY)],
            seed: Some(3),
        },
    }
}

fn tokens(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| i * 31 % VOCAB as u32).collect()
}

fn feed(sequence: SequenceId, tokens: &[u32], outputs: Outputs) -> Feed<'_> {
    Feed { sequence, tokens, outputs }
}

/// Adds two sequences, feeds them chunks and single tokens, and removes them.
fn sequences(engine: &mut Engine, samplers: &mut [Sampler], tokens: &[u32]) {
    let [one, two] = [(); 2].map(|()| engine.add_sequence().unwrap());
    engine.step(&[feed(one, &tokens[..7], Outputs::All), feed(two, &tokens[..33], Outputs::None)]).unwrap();
    engine.step(&[feed(two, &tokens[33..40], Outputs::Last), feed(one, &tokens[..1], Outputs::Last)]).unwrap();
    engine.prefill(one, tokens, None, None).unwrap();
    let mut token = tokens[0];
    for _ in 0..20 {
        let feeds = [feed(one, std::slice::from_ref(&token), Outputs::Last), feed(two, &tokens[..1], Outputs::Last)];
        let logits = engine.step(&feeds).unwrap();
        for (row, sampler) in logits.rows().zip(samplers.iter_mut()) {
            token = sampler.pick(row).unwrap();
        }
    }
    engine.remove_sequence(one).unwrap();
    assert!(engine.step(&[feed(one, &tokens[..1], Outputs::Last)]).is_err());
    engine.remove_sequence(two).unwrap();
}

/// Submits more requests than slots and pages: some wait, some are preempted, one is cancelled.
fn requests(engine: &mut Engine, batch: &mut Batch, counted: bool) {
    let request = |index: usize| Request {
        prompt: tokens(5 + index * 13 % 60),
        options: GenerateOptions {
            max_new: 30,
            sampler: sampler(index),
            ignore_eos: true,
            tokens_only: true,
            ..GenerateOptions::default()
        },
        ..Request::default()
    };
    let ids: Vec<_> = (0..12).map(|index| batch.submit(engine, request(index)).unwrap()).collect();
    let (mut n_events, mut n_steps) = (0, 0);
    while !batch.is_idle() {
        let mut step = || batch.step(engine).unwrap().len();
        n_events += if counted { allocates_nothing("a step of a batch", step) } else { step() };
        n_steps += 1;
        if n_steps == 5 {
            assert!(allocates_nothing("cancelling", || batch.cancel(engine, ids[1])).unwrap());
        }
    }
    assert!(n_events > 11 * 30 && n_steps > 100, "{n_events} events in {n_steps} steps");
}

#[test]
fn steps_allocate_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = Toy { defines: "#define CHOOSE 300", ..Toy::new() }.write(folder.path(), "toy.plan");
    for threads in [1, 3] {
        let options = OpenOptions { threads: Some(threads), ..OpenOptions::default() };
        let mut engine = Engine::open(&path, options).unwrap();
        let mut samplers = [0, 1].map(|index| Sampler::new(sampler(index), VOCAB as usize).unwrap());
        let tokens = tokens(60);
        // Including the first steps.
        allocates_nothing("steps", || sequences(&mut engine, &mut samplers, &tokens));
        // Snapshots of preempted requests allocate.
        let mut batch = Batch::with_options(&engine, BatchOptions { swap_bytes: 0, ..BatchOptions::default() });
        requests(&mut engine, &mut batch, false);
        requests(&mut engine, &mut batch, true);
    }
}
