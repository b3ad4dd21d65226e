//! Any trace of requests, with any mix of cache, preemption, forks, cancellation and priorities: every answer has the tokens
//! that it has alone.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use jamba_runtime::{Batch, BatchOptions, Cancel, PrefixCache, PromptToken, Request, SamplerOptions};
use proptest::collection::vec;
use proptest::prelude::*;

use super::probabilities::of_prompt;
use super::*;

/// What happens before a step.
#[derive(Clone, Debug)]
enum Act {
    Submit(Box<Request>),
    /// Cancels a request by its id, or by its flag.
    Cancel(usize, bool),
    /// Sets an empty cache of this interval and budget.
    Cache(usize, u64),
    TakeCache,
    StepTokens(usize),
    Steps(usize),
}

fn prompt() -> impl Strategy<Value = Vec<u32>> {
    // Beginnings of two texts, and other ends.
    (0..2u32, 0..60usize, vec(0..4u32, 1..30)).prop_map(|(text, n, end)| {
        let mut prompt = request(n, 1, text).prompt;
        prompt.extend(end);
        prompt
    })
}

fn sampler() -> impl Strategy<Value = SamplerOptions> {
    (0..3u8, any::<u64>()).prop_map(|(kind, seed)| match kind {
        0 => SamplerOptions::GREEDY,
        1 => SamplerOptions { temperature: 0.8, seed: Some(seed), ..SamplerOptions::GREEDY },
        _ => SamplerOptions {
            temperature: 1.2,
            top_k: 30,
            repetition_penalty: 1.2,
            seed: Some(seed),
            ..SamplerOptions::GREEDY
        },
    })
}

fn submission() -> impl Strategy<Value = Act> {
    let places = vec(any::<prop::sample::Index>(), 0..3);
    let probed = prop_oneof![3 => Just(None), 1 => (0..3usize).prop_map(Some)];
    (prompt(), sampler(), 1..30usize, 1..4usize, -2..3i32, places, any::<bool>(), probed).prop_map(
        |(prompt, sampler, max_new, n, priority, places, ignore_eos, prompt_logprobs)| {
            let snapshot_at = places.iter().map(|place| 1 + place.index(prompt.len())).collect();
            let options = GenerateOptions { max_new, sampler, ignore_eos, ..GenerateOptions::default() };
            Act::Submit(Box::new(Request {
                prompt,
                options,
                n,
                priority,
                snapshot_at,
                prompt_logprobs,
                ..Request::default()
            }))
        },
    )
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => submission(),
        1 => (0..8usize, any::<bool>()).prop_map(|(index, by_id)| Act::Cancel(index, by_id)),
        1 => (0..40usize, prop_oneof![Just(0), 100..3000u64, Just(1 << 20)]).prop_map(|(n, budget)| Act::Cache(n, budget)),
        1 => Just(Act::TakeCache),
        1 => (1..40usize).prop_map(Act::StepTokens),
        6 => (0..12usize).prop_map(Act::Steps),
    ]
}

fn options() -> impl Strategy<Value = BatchOptions> {
    (prop_oneof![Just(0), 200..1500u64, Just(1 << 20)], 0..4u32, any::<bool>(), prop::option::of(1..30u64)).prop_map(
        |(swap_bytes, skip_ahead, cache_answers, target)| BatchOptions {
            swap_bytes,
            skip_ahead,
            cache_answers,
            step_target: target.map(Duration::from_millis),
            ..BatchOptions::default()
        },
    )
}

/// A request of the trace: what it has told so far.
struct Told {
    id: RequestId,
    request: Request,
    cancel: Cancel,
    answers: Vec<Result>,
    prompt: Vec<PromptToken>,
    is_cancelled: bool,
}

/// The plan of all cases, written once.
fn plan() -> &'static Path {
    static PLAN: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let write = || {
        let folder = tempfile::tempdir().unwrap();
        let path = Toy { defines: "#define SPREAD 300", ..Toy::new() }.write(folder.path(), "spread.plan");
        (folder, path)
    };
    &PLAN.get_or_init(write).1
}

fn step(engine: &mut Engine, batch: &mut Batch, told: &mut [Told]) {
    for event in batch.step(engine).unwrap() {
        let told = told.iter_mut().find(|told| told.id == event.request).unwrap();
        let (tokens, finish) = &mut told.answers[event.choice];
        assert!(finish.is_none() && event.error.is_none(), "{event:?}");
        told.prompt.extend(event.prompt.iter().cloned());
        tokens.extend(event.token.as_ref().map(|token| token.token));
        assert_eq!((event.usage.prompt_tokens, event.usage.new_tokens), (told.request.prompt.len(), tokens.len()));
        *finish = event.finish;
    }
    let cached = batch.cache().map(|cache| (cache.counters().bytes, cache.budget_bytes()));
    assert!(cached.is_none_or(|(bytes, budget)| bytes <= budget), "{cached:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn every_answer_is_as_alone(acts in vec(act(), 1..25), options in options()) {
        let mut engine = Engine::open(plan(), OpenOptions { threads: Some(1), ..OpenOptions::default() }).unwrap();
        let swap_bytes = options.swap_bytes;
        let mut batch = Batch::with_options(&engine, options);
        let (begin, mut n) = (Instant::now(), 0);
        batch.set_clock(move || { n += 1; begin + Duration::from_millis(n * n % 17 + 3 * n) });
        let mut all: Vec<Told> = Vec::new();
        for act in acts {
            match act {
                Act::Submit(mut request) => {
                    let cancel = Cancel::new();
                    request.options.cancel = cancel.clone();
                    let id = batch.submit(&engine, (*request).clone()).unwrap();
                    let answers = vec![(Vec::new(), None); request.n];
                    let prompt = Vec::new();
                    all.push(Told { id, request: *request, cancel, answers, prompt, is_cancelled: false });
                }
                Act::Cancel(index, by_id) => {
                    let Some(told) = all.get_mut(index) else { continue };
                    told.is_cancelled = true;
                    match by_id {
                        true => drop(batch.cancel(&mut engine, told.id).unwrap()),
                        false => told.cancel.cancel(),
                    }
                }
                Act::Cache(interval, budget) => {
                    batch.set_cache(&engine, PrefixCache::new(budget).with_interval(interval)).unwrap();
                }
                Act::TakeCache => drop(batch.take_cache()),
                Act::StepTokens(n) => batch.set_step_tokens(&engine, n),
                Act::Steps(n) => (0..n).for_each(|_| step(&mut engine, &mut batch, &mut all)),
            }
            prop_assert!(batch.swapped_bytes() <= swap_bytes);
        }
        let mut n_steps = 0;
        while !batch.is_idle() {
            step(&mut engine, &mut batch, &mut all);
            n_steps += 1;
            prop_assert!(n_steps < 5000, "no end");
        }
        prop_assert_eq!((engine.free(), batch.swapped_bytes()), ((3, 10), 0));
        for Told { request, answers, prompt, is_cancelled, .. } in &all {
            if let (Some(n_top), false) = (request.prompt_logprobs, is_cancelled) {
                prop_assert_eq!(prompt, &of_prompt(&mut engine, &request.prompt, n_top));
            }
            for ((tokens, finish), choice) in answers.iter().zip(0..) {
                let mut options = request.options.clone();
                options.cancel = Cancel::new();
                options.sampler.seed = options.sampler.seed.map(|seed| seed.wrapping_add(choice));
                let alone = engine.generate(&request.prompt, &options, |_| ControlFlow::Continue(())).unwrap();
                if *is_cancelled {
                    prop_assert!(alone.tokens.starts_with(tokens));
                } else {
                    prop_assert_eq!(&alone.tokens, tokens);
                    prop_assert_eq!(alone.finish, finish.unwrap());
                }
            }
        }
    }
}
