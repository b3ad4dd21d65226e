//! Requests that give way go on where they were, and several answers of one prompt read it once.

use jamba_runtime::{Batch, BatchOptions, Event, PrefixCache, Request, SamplerOptions};

use super::cache::{n_run, roomy};
use super::*;

/// Tokens that run if every prompt and every answer runs once.
fn once(requests: &[Request]) -> usize {
    requests.iter().map(|request| request.prompt.len() + expected(request).0.len() - 1).sum()
}

#[test]
fn what_is_swapped_out_is_not_read_again() {
    let requests = [(60, 40), (30, 60), (45, 50), (20, 70)].map(|(n, max_new)| request(n, max_new, n as u32));
    for (swap_bytes, is_exact) in [(1 << 20, true), (700, false), (0, false)] {
        let (_folder, mut engine) = toy();
        engine.set_trace(true);
        let mut batch = Batch::with_options(&engine, BatchOptions { swap_bytes, ..BatchOptions::default() });
        let ids = requests.clone().map(|request| batch.submit(&engine, request).unwrap());
        let results = run(&mut engine, &mut batch, |_, batch, _| assert!(batch.swapped_bytes() <= swap_bytes));
        for (id, request) in ids.iter().zip(&requests) {
            assert_eq!(results[id], expected(request), "{swap_bytes}");
        }
        assert!(batch.n_preemptions() > 1);
        assert_eq!((batch.swapped_bytes(), engine.free()), (0, (3, 10)));
        assert_eq!(n_run(&engine) == once(&requests), is_exact, "{swap_bytes}");
    }
}

#[test]
fn a_cancelled_request_leaves_the_store() {
    let (_folder, mut engine) = toy();
    let mut batch = Batch::new(&engine);
    let ids = [1, 2, 3].map(|salt| batch.submit(&engine, request(50, 50, salt)).unwrap());
    while batch.swapped_bytes() == 0 {
        batch.step(&mut engine).unwrap();
    }
    ids.into_iter().for_each(|id| assert!(batch.cancel(&mut engine, id).unwrap()));
    assert_eq!((batch.swapped_bytes(), batch.is_idle(), engine.free()), (0, true, (3, 10)));
}

/// The tokens of each answer.
fn answers_of(engine: &mut Engine, batch: &mut Batch) -> BTreeMap<(RequestId, usize), Vec<u32>> {
    let mut answers: BTreeMap<_, Vec<u32>> = BTreeMap::new();
    while !batch.is_idle() {
        for Event { request, choice, token, .. } in batch.step(engine).unwrap() {
            answers.entry((*request, *choice)).or_default().extend(token.as_ref().map(|token| token.token));
        }
    }
    answers
}

#[test]
fn several_answers_read_their_prompt_once() {
    let (_folder, mut engine) = roomy();
    for (n, with_cache) in [(1, false), (3, false), (7, false), (7, true)] {
        let mut batch = Batch::new(&engine);
        if with_cache {
            batch.set_cache(&engine, PrefixCache::new(1 << 20)).unwrap();
        }
        let request = Request { n, ..request(130, 20, 1) };
        for round in 0..2 {
            engine.set_trace(true);
            let id = batch.submit(&engine, request.clone()).unwrap();
            let answers = answers_of(&mut engine, &mut batch);
            let alone = {
                let mut tokens = request.prompt.clone();
                (0..20).for_each(|_| tokens.push(next(&tokens)));
                tokens.split_off(130)
            };
            assert_eq!(answers, (0..n).map(|choice| ((id, choice), alone.clone())).collect());
            let read = if with_cache && round > 0 { 0 } else { 129 };
            assert_eq!(n_run(&engine), read + n * 20, "{n} answers, round {round}");
            assert_eq!((engine.free(), batch.swapped_bytes()), ((3, 75), 0));
        }
    }
}

#[test]
fn each_answer_draws_with_its_own_seed() {
    let (_folder, mut engine) = super::probabilities::spread();
    for n_prompt in [1, 2, 40] {
        let mut request = request(n_prompt, 12, 3);
        request.options.sampler = SamplerOptions { temperature: 1.0, seed: Some(7), ..SamplerOptions::GREEDY };
        let mut batch = Batch::new(&engine);
        let id = batch.submit(&engine, Request { n: 4, ..request.clone() }).unwrap();
        let answers = answers_of(&mut engine, &mut batch);
        for choice in 0..4 {
            let mut options = request.options.clone();
            options.sampler.seed = Some(7 + choice);
            let alone = engine.generate(&request.prompt, &options, |_| std::ops::ControlFlow::Continue(())).unwrap();
            assert_eq!(answers[&(id, choice as usize)], alone.tokens, "{choice}");
        }
        assert_ne!(answers[&(id, 0)], answers[&(id, 1)]);
    }
}

#[test]
fn all_answers_of_a_cancelled_request_end() {
    let (_folder, mut engine) = toy();
    for steps in [0, 1, 4] {
        let mut batch = Batch::new(&engine);
        let request = Request { n: 5, ..request(50, 20, 1) };
        let cancel = request.options.cancel.clone();
        batch.submit(&engine, request.clone()).unwrap();
        (0..steps).for_each(|_| _ = batch.step(&mut engine).unwrap());
        cancel.cancel();
        let events = batch.step(&mut engine).unwrap();
        let mut choices: Vec<usize> = events.iter().map(|event| event.choice).collect();
        choices.sort_unstable();
        assert_eq!(choices, [0, 1, 2, 3, 4]);
        assert!(events.iter().all(|event| event.finish == Some(Finish::Cancelled) && event.token.is_none()));
        assert_eq!((batch.is_idle(), engine.free(), batch.swapped_bytes()), (true, (3, 10), 0));
        cancel.reset();
        let id = batch.submit(&engine, request.clone()).unwrap();
        (0..steps).for_each(|_| _ = batch.step(&mut engine).unwrap());
        assert!(batch.cancel(&mut engine, id).unwrap() && batch.is_idle());
        assert_eq!((engine.free(), batch.swapped_bytes()), ((3, 10), 0));
    }
}
