//! States that requests keep and start from.

use jamba_runtime::{Batch, Event, PrefixCache, Request, RuntimeError, Snapshot};

use super::*;

/// Reads a prompt for its state, besides other requests.
fn kept(engine: &mut Engine, batch: &mut Batch, wanted: Request, others: &[Request]) -> Snapshot {
    let id = batch.submit(engine, Request { keeps_state: true, ..wanted }).unwrap();
    for other in others {
        batch.submit(engine, other.clone()).unwrap();
    }
    let mut states = Vec::new();
    while !batch.is_idle() {
        for Event { request, choice, state, finish, .. } in batch.step(engine).unwrap() {
            assert!(state.is_none() || (*request == id && *choice == 0 && finish.is_some()), "of another answer");
            states.extend(state.clone());
        }
    }
    assert_eq!(states.len(), 1);
    states.remove(0)
}

#[test]
fn a_request_keeps_the_state_of_its_prompt_and_others_go_on_from_it() {
    let (_folder, mut engine) = toy();
    for (n, step_tokens, cache_bytes) in
        [(1, 40, 0), (2, 40, 0), (33, 7, 0), (60, 40, 1 << 20), (60, 1, 0), (17, 40, 200)]
    {
        let mut batch = Batch::new(&engine);
        batch.set_step_tokens(&engine, step_tokens);
        if cache_bytes > 0 {
            batch.set_cache(&engine, PrefixCache::new(cache_bytes)).unwrap();
        }
        let others = [request(20, 12, 7), request(30, 9, 8), request(40, 7, 9)];
        let wanted = request(n, 0, 1);
        let state = kept(&mut engine, &mut batch, wanted.clone(), &others);
        assert_eq!(state.tokens(), &wanted.prompt[..n - 1]);
        // Again: with a cache, the state of the cache.
        assert_eq!(kept(&mut engine, &mut batch, wanted, &[]).to_bytes(), state.to_bytes());

        let answers = [request(n, 8, 1), Request { n: 2, ..request(n, 8, 1) }];
        let longer = Request { prompt: [&answers[0].prompt[..], &[5, 6, 7]].concat(), ..request(1, 8, 0) };
        batch.take_cache(); // so that all comes from the state
        for wanted in answers.into_iter().chain([longer]) {
            let request = Request { state: Some(state.clone()), ..wanted.clone() };
            let id = batch.submit(&engine, request).unwrap();
            let mut tokens = vec![Vec::new(); wanted.n];
            while !batch.is_idle() {
                for event in batch.step(&mut engine).unwrap() {
                    assert_eq!((event.request, event.usage.cached_tokens >= n - 1), (id, true));
                    tokens[event.choice].extend(event.token.as_ref().map(|token| token.token));
                }
            }
            assert!(tokens.iter().all(|tokens| *tokens == expected(&wanted).0), "{n} tokens");
        }
        assert_eq!(engine.free(), (3, 10));
    }
}

#[test]
fn a_prompt_that_gives_way_keeps_its_state() {
    let (_folder, mut engine) = toy();
    for swap_bytes in [0, 1 << 20] {
        let options = jamba_runtime::BatchOptions { swap_bytes, step_tokens: Some(20), ..Default::default() };
        let mut batch = Batch::with_options(&engine, options);
        let wanted = Request { priority: 1, ..request(90, 5, 1) };
        let urgent: Vec<Request> = (2..5).map(|salt| request(50, 20, salt)).collect();
        let id = batch.submit(&engine, Request { keeps_state: true, ..wanted.clone() }).unwrap();
        batch.step(&mut engine).unwrap();
        for urgent in &urgent {
            batch.submit(&engine, urgent.clone()).unwrap();
        }
        let (mut state, mut tokens) = (None, Vec::new());
        while !batch.is_idle() {
            for event in batch.step(&mut engine).unwrap().iter().filter(|event| event.request == id) {
                tokens.extend(event.token.as_ref().map(|token| token.token));
                state = event.state.clone().or(state);
            }
        }
        assert!(batch.n_preemptions() > 0);
        assert_eq!(state.map(|state| state.tokens().to_vec()), Some(wanted.prompt[..89].to_vec()));
        assert_eq!(tokens, expected(&wanted).0);
    }
}

#[test]
fn states_of_other_prompts_and_plans_are_refused() {
    let (folder, mut engine) = toy();
    let mut batch = Batch::new(&engine);
    let state = kept(&mut engine, &mut batch, request(20, 0, 1), &[]);
    let given = |prompt: &[u32]| Request { prompt: prompt.to_vec(), state: Some(state.clone()), ..request(1, 4, 0) };
    let same = request(20, 4, 1).prompt;
    for wrong in [&same[..19], &same[..5], &request(40, 4, 2).prompt] {
        let refused = batch.submit(&engine, given(wrong));
        assert!(matches!(refused, Err(RuntimeError::Option { name: "state", .. })), "{refused:?}");
    }
    batch.submit(&engine, given(&same)).unwrap();
    let mut toy = Toy::new();
    toy.manifest.model.name = "another".to_owned();
    let other = Engine::open(toy.write(folder.path(), "another.plan"), OpenOptions::default()).unwrap();
    let refused = Batch::new(&other).submit(&other, given(&same));
    assert!(matches!(refused, Err(RuntimeError::OtherPlan { .. })), "{refused:?}");
    assert!(run(&mut engine, &mut batch, |_, _, _| ()).len() == 1);
}
