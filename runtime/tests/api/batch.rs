//! Requests of a batch have the same tokens, texts, log probabilities and ends as alone.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use jamba_runtime::{
    Batch, Cancel, Constraint, Engine, Finish, GenerateOptions, NewToken, Request, RequestId, RuntimeError,
    SamplerOptions,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::generate::open;

/// The result of a request: its tokens, its held back text, and why it ended.
type Answer = (Vec<NewToken>, String, Option<Finish>);

fn alone(engine: &mut Engine, request: &Request) -> Answer {
    let mut told = Vec::new();
    let generated = engine.generate(&request.prompt, &request.options, |token| {
        told.push(token);
        ControlFlow::Continue(())
    });
    let generated = generated.unwrap();
    (told, generated.rest, Some(generated.finish))
}

/// Runs a batch to its end. Calls `each` with all answers so far before each step.
fn run(
    engine: &mut Engine,
    batch: &mut Batch,
    mut each: impl FnMut(&BTreeMap<RequestId, Answer>),
) -> BTreeMap<RequestId, Answer> {
    let mut answers: BTreeMap<RequestId, Answer> = BTreeMap::new();
    while !batch.is_idle() {
        each(&answers);
        for event in batch.step(engine).unwrap() {
            assert!(event.error.is_none(), "{event:?}");
            let (told, rest, finish) = answers.entry(event.request).or_default();
            assert!(finish.is_none(), "an event after the last one");
            told.extend(event.token.clone());
            rest.push_str(&event.rest);
            *finish = event.finish;
        }
    }
    answers
}

fn options() -> impl Strategy<Value = GenerateOptions> {
    let sampler = (any::<u64>(), 0..3u8, vec((0..200u32, -3.0..3.0f32), 0..3)).prop_map(|(seed, kind, logit_bias)| {
        let plain = SamplerOptions { temperature: 1.0, seed: Some(seed), logit_bias, ..SamplerOptions::default() };
        match kind {
            0 => SamplerOptions { temperature: 0.0, ..plain },
            1 => SamplerOptions { repetition_penalty: 1.3, presence_penalty: 0.5, frequency_penalty: 0.2, ..plain },
            _ => SamplerOptions { top_k: 40, top_p: 0.9, ..plain },
        }
    });
    let constraint = prop_oneof![
        3 => Just(None),
        1 => Just(Some(Constraint::Regex("[a-z]{3,9}( [a-z]+){2}".to_owned()))),
    ];
    let logprobs = prop::option::of(0..4usize);
    (sampler, constraint, logprobs, vec("[a-z]{1,2}", 0..3), vec(0..200u32, 0..3), 1..30usize, any::<bool>()).prop_map(
        |(sampler, constraint, logprobs, stop, stop_tokens, max_new, ignore_eos)| GenerateOptions {
            max_new,
            sampler,
            ignore_eos,
            stop_tokens,
            stop,
            logprobs,
            constraint,
            ..GenerateOptions::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_request_gets_what_it_gets_alone(
        requests in vec((vec(1..200u32, 1..40), options()), 1..9),
        step_tokens in 1..40usize,
    ) {
        let mut engine = open();
        let requests: Vec<Request> =
            requests.into_iter().map(|(prompt, options)| Request { prompt, options, ..Request::default() }).collect();
        let expected: Vec<Answer> = requests.iter().map(|request| alone(&mut engine, request)).collect();
        let mut batch = Batch::new(&engine);
        batch.set_step_tokens(&engine, step_tokens);
        let ids: Vec<RequestId> =
            requests.iter().map(|request| batch.submit(&engine, request.clone()).unwrap()).collect();
        let answers = run(&mut engine, &mut batch, |_| ());
        for (id, expected) in ids.iter().zip(&expected) {
            prop_assert_eq!(&answers[id], expected);
        }
        prop_assert_eq!(engine.free().0, engine.manifest().limits.max_sequences);
    }
}

#[test]
fn cancelled_requests_end_and_the_others_go_on() {
    let mut engine = open();
    let mut batch = Batch::new(&engine);
    let options = GenerateOptions { max_new: 20, ignore_eos: true, ..GenerateOptions::default() };
    let cancel = Cancel::default();
    let cancelled = GenerateOptions { cancel: cancel.clone(), ..options.clone() };
    let other = Request { prompt: vec![1, 40], options, ..Request::default() };
    let expected = alone(&mut engine, &other);
    let first = batch
        .submit(&engine, Request { prompt: vec![1, 20, 30], options: cancelled.clone(), ..Request::default() })
        .unwrap();
    let second = batch.submit(&engine, other).unwrap();
    // More requests than slots: the last one has not joined yet.
    let waiting = Request { prompt: vec![5], options: cancelled, ..Request::default() };
    let n_slots = engine.manifest().limits.max_sequences;
    let last = (0..n_slots).map(|_| batch.submit(&engine, waiting.clone()).unwrap()).last().unwrap();
    let answers = run(&mut engine, &mut batch, |answers| {
        if answers.get(&first).is_some_and(|(told, ..)| told.len() == 5) {
            cancel.cancel();
        }
    });
    assert_eq!((answers[&first].0.len(), answers[&first].2), (5, Some(Finish::Cancelled)));
    assert_eq!(answers[&last], (Vec::new(), String::new(), Some(Finish::Cancelled)));
    assert_eq!(answers[&second], expected);
    assert_eq!(engine.free().0, n_slots);
}

#[test]
fn a_request_that_fails_says_why_and_is_alone_in_it() {
    let mut engine = open();
    let mut batch = Batch::new(&engine);
    let vocab = engine.manifest().model.vocab as u32;
    let logit_bias = (0..vocab).map(|token| (token, f32::NEG_INFINITY)).collect();
    let options = GenerateOptions { max_new: 8, ignore_eos: true, ..GenerateOptions::default() };
    let nothing = GenerateOptions { sampler: SamplerOptions { logit_bias, ..Default::default() }, ..options.clone() };
    let bad = batch.submit(&engine, Request { prompt: vec![1, 2], options: nothing, ..Request::default() }).unwrap();
    let good =
        batch.submit(&engine, Request { prompt: vec![1, 3], options: options.clone(), ..Request::default() }).unwrap();
    let (mut failed, mut n_good) = (0, 0);
    while !batch.is_idle() {
        for event in batch.step(&mut engine).unwrap() {
            n_good += usize::from(event.request == good && event.token.is_some());
            if event.request == bad {
                assert_eq!(event.finish, Some(Finish::Failed));
                assert!(matches!(event.error, Some(RuntimeError::NoTokenAllowed)));
                failed += 1;
            }
        }
    }
    assert_eq!((failed, n_good), (1, 8));
    let broken = GenerateOptions { constraint: Some(Constraint::Regex("(".to_owned())), ..options.clone() };
    let refused = batch.submit(&engine, Request { prompt: vec![1], options: broken, ..Request::default() });
    assert!(matches!(refused, Err(RuntimeError::Constraint { .. })));
    let empty = GenerateOptions { stop: vec![String::new()], ..options };
    let refused = batch.submit(&engine, Request { prompt: vec![1], options: empty, ..Request::default() });
    assert!(matches!(refused, Err(RuntimeError::Option { name: "stop", .. })));
    assert!(batch.is_idle());
}
