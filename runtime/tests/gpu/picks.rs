//! Tokens picked by the device equal those of the host, and only they are downloaded.

use std::ops::ControlFlow;

use jamba_plan::format::{Setting, Table};
use jamba_plan::tables::DeviceTables;
use jamba_runtime::gpu::DriverError;
use jamba_runtime::{
    Batch, DebugOptions, Engine, GenerateOptions, OpenOptions, Outputs, Request, RuntimeError, Sampler, SamplerOptions,
};

use crate::fake::{Call, Calls, Fake};
use crate::plan::{LIMITS, LOGITS, PICKS, ROW_STRIDE, Toy, VOCAB};
use crate::{feed, open_with, prompt};

fn picking(options: OpenOptions<'_>) -> (Engine, Calls) {
    let (engine, calls) = open_with(Toy::new().picking(), Fake::new(), options).unwrap();
    calls.take();
    (engine, calls)
}

fn on_host() -> OpenOptions<'static> {
    OpenOptions { debug: DebugOptions::PICK_ON_HOST, ..OpenOptions::default() }
}

/// A temperature for the toy model, whose logits differ by hundreds.
fn drawn(seed: u64) -> GenerateOptions {
    of(SamplerOptions { temperature: 300.0, seed: Some(seed), ..SamplerOptions::GREEDY })
}

fn greedy() -> GenerateOptions {
    of(SamplerOptions::GREEDY)
}

fn penalised(options: GenerateOptions) -> GenerateOptions {
    of(SamplerOptions { frequency_penalty: 100.0, ..options.sampler })
}

fn of(sampler: SamplerOptions) -> GenerateOptions {
    GenerateOptions { max_new: 12, ignore_eos: true, tokens_only: true, sampler, ..GenerateOptions::default() }
}

fn with_logprobs(options: GenerateOptions) -> GenerateOptions {
    GenerateOptions { logprobs: Some(2), ..options }
}

fn generate(engine: &mut Engine, options: &GenerateOptions) -> Vec<u32> {
    engine.generate(&prompt(9, 1), options, |_| ControlFlow::Continue(())).unwrap().tokens
}

/// Addresses and sizes.
type Copies = Vec<(u64, usize)>;

/// Uploads and downloads.
fn copies(calls: &Calls) -> (Copies, Copies) {
    let (mut up, mut down) = (Vec::new(), Vec::new());
    for call in calls.take() {
        match call {
            Call::Upload(at, bytes) => up.push((at, bytes)),
            Call::Download(at, bytes) => down.push((at, bytes)),
            _ => {}
        }
    }
    (up, down)
}

#[test]
fn a_token_comes_back_in_place_of_a_row() {
    let (mut engine, calls) = picking(OpenOptions::default());
    let (tables, arena) = (calls.region("step tables").0, calls.region("arena").0);
    let region = DeviceTables::of(&LIMITS, &Toy::new().picking().program);
    let settings = tables + region.tables_at + Table::Settings.offset(&LIMITS);

    generate(&mut engine, &greedy());
    let (up, down) = copies(&calls);
    assert_eq!(down, [(arena + PICKS.likeliest, 4); 12]);
    assert!(up.len() == 12 && up.iter().all(|&(at, _)| at == tables));

    generate(&mut engine, &drawn(1));
    let (up, down) = copies(&calls);
    assert_eq!(down, [(arena + PICKS.drawn, 4); 12]);
    assert_eq!(up.iter().filter(|copy| **copy == (settings, 4 * Setting::WORDS)).count(), 12);

    // The row is downloaded if the host picks the token or computes its log probability.
    let row = [(arena + LOGITS, 4 * VOCAB as usize); 12];
    for options in [penalised(greedy()), penalised(drawn(1)), with_logprobs(greedy())] {
        generate(&mut engine, &options);
        assert_eq!(copies(&calls).1, row);
    }
    let (mut engine, calls) = picking(on_host());
    generate(&mut engine, &drawn(1));
    assert_eq!(copies(&calls).1.len(), 12);
}

#[test]
fn device_and_host_pick_alike() {
    let each = OpenOptions { debug: DebugOptions::LAUNCH_EACH, ..OpenOptions::default() };
    let check = OpenOptions { debug: DebugOptions::CHECK, ..OpenOptions::default() };
    let mut host = picking(on_host()).0;
    for options in [OpenOptions::default(), each, check] {
        let mut device = picking(options).0;
        for seed in 0..5 {
            for options in [greedy(), drawn(seed), penalised(drawn(seed)), with_logprobs(drawn(seed))] {
                assert_eq!(generate(&mut device, &options), generate(&mut host, &options), "{options:?}");
            }
        }
    }
    assert_ne!(generate(&mut host, &drawn(1)), generate(&mut host, &drawn(2)));
}

/// Runs a batch and returns the tokens of each request.
fn in_a_batch(engine: &mut Engine, requests: &[GenerateOptions]) -> Vec<Vec<u32>> {
    let mut batch = Batch::new(engine);
    let prompt = prompt(9, 1);
    let submit = |options: &GenerateOptions| {
        batch
            .submit(engine, Request { prompt: prompt.clone(), options: options.clone(), ..Request::default() })
            .unwrap()
    };
    let ids: Vec<_> = requests.iter().map(submit).collect();
    let mut tokens = vec![Vec::new(); ids.len()];
    while !batch.is_idle() {
        for event in batch.step(engine).unwrap() {
            let nth = ids.iter().position(|&id| id == event.request).unwrap();
            tokens[nth].extend(event.token.as_ref().map(|token| token.token));
        }
    }
    tokens
}

/// The toy model's third logit counts rows: too little to matter where the first is greedily picked, not for draws. So requests are
/// compared with the host's, of the same batches.
#[test]
fn batches_of_all_kinds_are_the_hosts() {
    let (mut device, mut host) = (picking(OpenOptions::default()).0, picking(on_host()).0);
    let short = GenerateOptions { max_new: 3, ..greedy() };
    for seed in 0..3 {
        let requests = [
            drawn(seed),
            penalised(drawn(seed)),
            greedy(),
            with_logprobs(drawn(seed + 9)),
            short.clone(),
            drawn(seed + 5),
        ];
        assert_eq!(in_a_batch(&mut device, &requests), in_a_batch(&mut host, &requests), "seed {seed}");
    }
}

#[test]
fn steps_pick_as_generation_does() {
    let (mut engine, calls) = picking(OpenOptions::default());
    for options in [greedy(), drawn(3), penalised(drawn(4))] {
        let expected = generate(&mut engine, &options);
        calls.take();
        let mut samplers = [Sampler::new(options.sampler.clone(), VOCAB as usize).unwrap()];
        samplers[0].observe(&prompt(9, 1));
        let sequence = engine.add_sequence().unwrap();
        let mut next = engine.step_and_pick(&[feed(sequence, &prompt(9, 1), Outputs::Last)], &mut samplers).unwrap();
        let mut found = next.clone();
        while found.len() < expected.len() {
            next = engine.step_and_pick(&[feed(sequence, &next, Outputs::Last)], &mut samplers).unwrap();
            found.extend(&next);
        }
        assert_eq!(found, expected);
        let bytes = if options.sampler.frequency_penalty == 0.0 { 4 } else { 4 * VOCAB as usize };
        assert!(copies(&calls).1.iter().all(|&(_, found)| found == bytes));
        let refused = engine.step_and_pick(&[feed(sequence, &[1, 2], Outputs::All)], &mut samplers).unwrap_err();
        assert_eq!(refused.to_string(), "samplers: found 1 for 2 rows of logits, expected one per row");
        engine.remove_sequence(sequence).unwrap();
    }
}

#[test]
fn rows_that_the_host_needs_come_alone() {
    let (mut engine, calls) = picking(OpenOptions::default());
    let arena = calls.region("arena").0;
    let with_row = with_logprobs(greedy());
    in_a_batch(&mut engine, &[greedy(), with_row.clone(), drawn(1)]);
    let second = (arena + LOGITS + ROW_STRIDE, 4 * VOCAB as usize);
    assert_eq!(copies(&calls).1, [(arena + PICKS.drawn, 12), second].repeat(12));
    in_a_batch(&mut engine, &[greedy(), with_row.clone()]);
    assert_eq!(copies(&calls).1, [(arena + PICKS.likeliest, 8), second].repeat(12));
    in_a_batch(&mut engine, &[with_row.clone(), with_row]);
    let both = (arena + LOGITS, (ROW_STRIDE + 4 * VOCAB) as usize);
    assert_eq!(copies(&calls).1, [both].repeat(12));
}

#[test]
fn graphs_are_of_a_kind_of_pick() {
    let (mut engine, calls) = picking(OpenOptions::default());
    calls.take();
    let mut captures = |options: &GenerateOptions| {
        generate(&mut engine, options);
        let names = calls.take_names();
        let count = |name: &str| names.iter().filter(|&&found| found == name).count();
        (count("begin_capture"), count("launch"), count("replay"))
    };
    // The prompt is launched, with six launches if a token is picked; decode steps have a graph for each kind of pick.
    for options in [greedy(), drawn(1)] {
        assert_eq!(captures(&options), (0, 6, 11));
    }
    for options in [penalised(greedy()), with_logprobs(greedy())] {
        assert_eq!(captures(&options), (0, 5, 11));
    }
}

#[test]
fn rows_that_are_not_numbers_are_refused_as_on_the_host() {
    let refused = |options: OpenOptions<'_>, sampler: &GenerateOptions| {
        let toy = Toy::new().picking().without_numbers();
        let (mut engine, _) = open_with(toy, Fake::new(), options).unwrap();
        let error = engine.generate(&prompt(9, 1), sampler, |_| ControlFlow::Continue(())).unwrap_err();
        assert!(matches!(error, RuntimeError::NotFinite { .. }), "{error}");
        error.to_string()
    };
    for sampler in [greedy(), drawn(1)] {
        assert_eq!(refused(OpenOptions::default(), &sampler), refused(on_host(), &sampler));
    }
}

#[test]
fn faults_are_told_as_those_of_the_step() {
    let gone = || DriverError::Lost("gone".to_owned());
    for (call, n, place) in [("upload", 1, "copying the step tables"), ("download", 0, "some step of prefill")] {
        let (mut engine, calls) = picking(OpenOptions::default());
        calls.fail(call, n, gone());
        let error = engine.generate(&prompt(9, 1), &drawn(1), |_| ControlFlow::Continue(())).unwrap_err();
        assert_eq!(error.to_string(), format!("Fake H100 is lost: {place}: gone"));
    }
    let (mut engine, calls) = picking(OpenOptions { debug: DebugOptions::CHECK, ..OpenOptions::default() });
    calls.spoil("draw");
    let error = engine.generate(&prompt(9, 1), &drawn(1), |_| ControlFlow::Continue(())).unwrap_err();
    assert_eq!(error.to_string(), "Fake H100: prefill step 6 (draw, sampler): an illegal address");
}
