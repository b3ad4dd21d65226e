//! The prefix cache inside a batch: where snapshots are taken, and what later requests read.

use jamba_runtime::{Batch, BatchOptions, Engine, Event, GenerateOptions, PrefixCache, Request, RuntimeError, Usage};

use super::*;

/// Room for three sequences of 400 tokens.
const ROOMY: jamba_plan::format::Limits = jamba_plan::format::Limits { max_context: 400, kv_tokens: 1600, ..LIMITS };

pub(super) fn roomy() -> (tempfile::TempDir, Engine) {
    let folder = tempfile::tempdir().unwrap();
    let path = Toy { defines: "#define CHOOSE 300", ..Toy::with_limits(&ROOMY) }.write(folder.path(), "toy.plan");
    let engine = Engine::open(&path, OpenOptions { threads: Some(1), ..OpenOptions::default() }).unwrap();
    (folder, engine)
}

fn cached(engine: &Engine, interval: usize, budget: u64) -> Batch {
    let mut batch = Batch::new(engine);
    batch.set_cache(engine, PrefixCache::new(budget).with_interval(interval)).unwrap();
    batch
}

/// Answers of `requests`, all submitted at once. Checks their tokens.
fn serve(engine: &mut Engine, batch: &mut Batch, requests: &[Request]) -> Vec<Usage> {
    let ids: Vec<RequestId> = requests.iter().map(|request| batch.submit(engine, request.clone()).unwrap()).collect();
    let mut usages = vec![Usage::default(); requests.len()];
    let mut tokens = vec![Vec::new(); requests.len()];
    while !batch.is_idle() {
        for Event { request, token, usage, .. } in batch.step(engine).unwrap() {
            let index = ids.iter().position(|id| id == request).unwrap();
            tokens[index].extend(token.as_ref().map(|token| token.token));
            usages[index] = *usage;
        }
    }
    for (found, request) in tokens.iter().zip(requests) {
        assert_eq!(*found, expected_roomy(request));
    }
    usages
}

/// The expected tokens of a request that ends by its length.
fn expected_roomy(request: &Request) -> Vec<u32> {
    let mut tokens = request.prompt.clone();
    (0..request.options.max_new).for_each(|_| tokens.push(next(&tokens)));
    tokens.split_off(request.prompt.len())
}

/// A request that begins with `shared` tokens of one text and goes on with `own` others.
fn ask(shared: usize, own: usize, salt: u32, max_new: usize) -> Request {
    let prompt = [request(shared, 1, 1).prompt, request(own, 1, salt).prompt].concat();
    Request { prompt, ..request(1, max_new, 0) }
}

#[test]
fn a_shared_beginning_is_read_twice_and_then_never() {
    let (_folder, mut engine) = roomy();
    for interval in [0, 7, 512] {
        let mut batch = cached(&engine, interval, 1 << 20);
        let usages: Vec<Usage> =
            (2..6).flat_map(|salt| serve(&mut engine, &mut batch, &[ask(300, 10, salt, 3)])).collect();
        let saved: Vec<usize> = usages.iter().map(|usage| usage.cached_tokens).collect();
        // The second one parts from the first at token 300 and takes a snapshot there, whatever the interval.
        let second = if interval == 7 { 300 / 7 * 7 } else { 0 };
        assert_eq!(saved, [0, second, 300, 300], "interval {interval}");
        let counters = batch.cache().unwrap().counters();
        assert_eq!((counters.prompts, counters.tokens_saved), (4, second as u64 + 600));
        assert_eq!(counters.tokens_read, 4 * 310 - counters.tokens_saved);
    }
}

#[test]
fn requests_that_arrive_together_read_their_beginning_once() {
    let (_folder, mut engine) = roomy();
    let mut batch = cached(&engine, 0, 1 << 20);
    engine.set_trace(true);
    let requests: Vec<Request> = (2..7).map(|salt| ask(200, 10, salt, 5)).collect();
    let usages = serve(&mut engine, &mut batch, &requests);
    assert_eq!(usages.iter().map(|usage| usage.cached_tokens).collect::<Vec<_>>(), [0, 200, 200, 200, 200]);
    assert_eq!(n_run(&engine), 200 + 5 * (10 + 4));
}

#[test]
fn the_next_turn_goes_on_from_the_answer() {
    let (_folder, mut engine) = roomy();
    let mut batch = cached(&engine, 0, 1 << 20);
    let mut prompt = request(20, 1, 1).prompt;
    let mut saved = 0;
    engine.set_trace(true);
    for turn in 2..8 {
        let question = Request { prompt: prompt.clone(), ..request(1, 12, 0) };
        let usages = serve(&mut engine, &mut batch, std::slice::from_ref(&question));
        assert_eq!(usages[0].cached_tokens, saved, "turn {turn}");
        // Asked again, only the last token runs.
        assert_eq!(serve(&mut engine, &mut batch, std::slice::from_ref(&question))[0].cached_tokens, prompt.len() - 1);
        prompt.extend(expected_roomy(&question));
        saved = prompt.len() - 1;
        prompt.extend(request(15, 1, turn).prompt);
    }
    let without = BatchOptions { cache_answers: false, ..BatchOptions::default() };
    let mut batch = Batch::with_options(&engine, without);
    batch.set_cache(&engine, PrefixCache::new(1 << 20).with_interval(0)).unwrap();
    let first = ask(20, 0, 0, 12);
    serve(&mut engine, &mut batch, std::slice::from_ref(&first));
    let second = [first.prompt.clone(), expected_roomy(&first), vec![5]].concat();
    let usages = serve(&mut engine, &mut batch, &[Request { prompt: second, ..first }]);
    assert_eq!(usages[0].cached_tokens, 19);
}

#[test]
fn a_request_names_places_for_snapshots() {
    let (_folder, mut engine) = roomy();
    let mut batch = cached(&engine, 0, 1 << 20);
    let first = Request { snapshot_at: vec![50, 20, 20, 60], ..ask(60, 0, 0, 1) };
    serve(&mut engine, &mut batch, std::slice::from_ref(&first));
    let counters = batch.cache().unwrap().counters();
    assert_eq!(counters.snapshots, 4, "at 20, 50, 59 and 60");
    assert_eq!(serve(&mut engine, &mut batch, &[ask(22, 30, 2, 1)])[0].cached_tokens, 20);
    assert_eq!(serve(&mut engine, &mut batch, &[ask(55, 3, 2, 1)])[0].cached_tokens, 50);
    assert_eq!(serve(&mut engine, &mut batch, &[ask(60, 3, 3, 1)])[0].cached_tokens, 60);
    for at in [0, 61] {
        let error = batch.submit(&engine, Request { snapshot_at: vec![at], ..first.clone() }).unwrap_err();
        assert!(matches!(error, RuntimeError::Option { name: "snapshot at", .. }), "{error}");
    }
}

#[test]
fn the_budget_is_kept_and_recent_prompts_are_remembered() {
    let (_folder, mut engine) = roomy();
    for budget in [0, 500, 3000] {
        let mut batch = cached(&engine, 16, budget);
        for salt in 0..12 {
            serve(&mut engine, &mut batch, &[ask(90, 100, 2 + salt % 4, 6), ask(70, 3, 9 + salt, 2)]);
            let counters = batch.cache().unwrap().counters();
            assert!(counters.bytes <= budget, "{counters:?}");
        }
        assert_eq!(batch.cache().unwrap().counters().hits > 0, budget > 0);
    }
    // A snapshot of 90 tokens has 808 bytes and fits, one of 189 has 1588 and does not: the tokens are known all the same.
    let mut batch = cached(&engine, 0, 1500);
    let saved: Vec<usize> =
        (2..6).map(|salt| serve(&mut engine, &mut batch, &[ask(90, 100, salt, 6)])[0].cached_tokens).collect();
    assert_eq!(saved, [0, 0, 90, 90]);
    let cache = batch.take_cache().unwrap();
    assert!(batch.cache().is_none() && cache.counters().snapshots == 1);
}

#[test]
fn a_cache_of_another_plan_is_refused() {
    let (_folder, mut engine) = roomy();
    let mut batch = cached(&engine, 0, 1 << 20);
    serve(&mut engine, &mut batch, &[ask(30, 3, 2, 2)]);
    let cache = batch.take_cache().unwrap();
    let (_other, small) = toy();
    let error = Batch::new(&small).set_cache(&small, cache).unwrap_err();
    assert!(matches!(error, RuntimeError::OtherPlan { what: "prefix cache", .. }), "{error}");
}

/// Number of tokens that ran through the model since tracing was switched on.
pub(super) fn n_run(engine: &Engine) -> usize {
    engine.trace().unwrap().runs().iter().map(|run| run.size.tokens as usize).sum()
}

#[test]
fn a_full_cache_does_not_change_the_options_of_a_request() {
    let (_folder, mut engine) = roomy();
    let mut batch = cached(&engine, 4, 1 << 20);
    let stop = |request: &Request| GenerateOptions {
        stop_tokens: vec![expected_roomy(request)[3]],
        ..request.options.clone()
    };
    let first = ask(40, 10, 2, 30);
    serve(&mut engine, &mut batch, std::slice::from_ref(&first));
    let id = batch.submit(&engine, Request { options: stop(&first), ..first.clone() }).unwrap();
    let results = run(&mut engine, &mut batch, |_, _, _| ());
    let answer = expected_roomy(&first);
    let n = answer.iter().position(|&token| token == answer[3]).unwrap() + 1;
    assert_eq!(results[&id], (answer[..n].to_vec(), Some(Finish::Stopped)));
}

/// Two clients that do not know each other, with one prompt.
#[test]
fn requests_with_other_salts_start_from_nothing() {
    let (_folder, mut engine) = roomy();
    let mut batch = cached(&engine, 7, 1 << 20);
    let of = |cache_salt: u64| Request { cache_salt, ..ask(200, 10, 2, 5) };
    let cached_by = |usages: Vec<Usage>| usages.iter().map(|usage| usage.cached_tokens).collect::<Vec<_>>();
    assert_eq!(cached_by(serve(&mut engine, &mut batch, &[of(0)])), [0]);
    for salt in [1, 2, 1 << 50] {
        // Alone, and beside one that reads the same beginning.
        assert_eq!(cached_by(serve(&mut engine, &mut batch, &[of(salt)])), [0], "salt {salt}");
        assert_eq!(cached_by(serve(&mut engine, &mut batch, &[of(salt)])), [209], "salt {salt}");
    }
    let together = cached_by(serve(&mut engine, &mut batch, &[of(3), of(4), of(3)]));
    assert!(together[..2] == [0, 0] && together[2] >= 196, "{together:?}");
}
