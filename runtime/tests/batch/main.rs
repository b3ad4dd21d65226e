//! Continuous batching with a toy model: tokens of each request, waiting, preemption and errors.

#[path = "../fixture/mod.rs"]
#[expect(dead_code, reason = "the engine's tests use the rest")]
mod fixture;

mod cache;
mod kept;
mod order;
mod preempted;
mod probabilities;
mod random;

use std::collections::BTreeMap;

use fixture::{LIMITS, Toy, VOCAB, WEIGHT, answers};
use jamba_runtime::{
    Batch, Engine, ErrorClass, Feed, Finish, GenerateOptions, OpenOptions, Outputs, Request, RequestId, RuntimeError,
};

/// The tokens and the end of a request.
type Result = (Vec<u32>, Option<Finish>);

/// An engine whose most likely token is [`next`].
fn toy() -> (tempfile::TempDir, Engine) {
    let folder = tempfile::tempdir().unwrap();
    let path = Toy { defines: "#define CHOOSE 300", ..Toy::new() }.write(folder.path(), "toy.plan");
    let engine = Engine::open(&path, OpenOptions { threads: Some(2), ..OpenOptions::default() }).unwrap();
    (folder, engine)
}

fn next(tokens: &[u32]) -> u32 {
    answers(tokens, WEIGHT as u32)[tokens.len() - 1] as u32 % VOCAB as u32
}

/// The expected answer, computed without an engine. The context is 100 tokens; the last token needs no room.
fn expected(request: &Request) -> Result {
    let mut tokens = request.prompt.clone();
    let mut finish = None;
    while finish.is_none() {
        let token = next(&tokens);
        tokens.push(token);
        let n = tokens.len() - request.prompt.len();
        finish = match () {
            () if !request.options.ignore_eos && token == 0 => Some(Finish::Eos),
            () if request.options.stop_tokens.contains(&token) => Some(Finish::Stopped),
            () if n == request.options.max_new => Some(Finish::Length),
            () if tokens.len() > 100 => Some(Finish::NoRoom),
            () => None,
        };
    }
    (tokens.split_off(request.prompt.len()), finish)
}

fn request(n: usize, max_new: usize, salt: u32) -> Request {
    let prompt = (0..n as u32).map(|i| (i * 37 + salt * 101 + i * i) % VOCAB as u32).collect();
    Request {
        prompt,
        options: GenerateOptions { max_new, ignore_eos: true, ..GenerateOptions::default() },
        ..Request::default()
    }
}

/// Runs all requests and returns their tokens and ends. Calls `each` before every step.
fn run(
    engine: &mut Engine,
    batch: &mut Batch,
    mut each: impl FnMut(&mut Engine, &mut Batch, usize),
) -> BTreeMap<RequestId, Result> {
    let mut results: BTreeMap<RequestId, Result> = BTreeMap::new();
    for step in 0.. {
        each(engine, batch, step);
        if batch.is_idle() {
            break;
        }
        for event in batch.step(engine).unwrap() {
            let (tokens, finish) = results.entry(event.request).or_default();
            assert!(finish.is_none(), "an event after the last one");
            tokens.extend(event.token.as_ref().map(|token| token.token));
            *finish = event.finish;
        }
        assert!(step < 10_000, "no end");
    }
    results
}

#[test]
fn every_request_gets_what_it_gets_alone() {
    let (_folder, mut engine) = toy();
    // Three slots and ten pages of 16 tokens: enough for one sequence of 100 tokens, not for three.
    let lengths = [(90, 20), (40, 30), (1, 60), (20, 1), (50, 50), (100, 3), (3, 97), (64, 36), (33, 12)];
    let requests: Vec<Request> = (0..).zip(lengths).map(|(salt, (n, max))| request(n, max, salt)).collect();
    for step_tokens in [1, 7, 40] {
        let mut batch = Batch::new(&engine);
        batch.set_step_tokens(&engine, step_tokens);
        let ids: Vec<RequestId> =
            requests.iter().map(|request| batch.submit(&engine, request.clone()).unwrap()).collect();
        let (mut gave_way, mut n_waiting, mut most_running) = (false, batch.n_waiting(), 0);
        let results = run(&mut engine, &mut batch, |_, batch, _| {
            gave_way |= batch.n_waiting() > n_waiting;
            n_waiting = batch.n_waiting();
            most_running = most_running.max(batch.n_running());
        });
        for (id, request) in ids.iter().zip(&requests) {
            assert_eq!(results[id], expected(request), "{id:?}, steps of {step_tokens}");
        }
        // With a budget of one token, prompts wait while a sequence decodes.
        assert_eq!((gave_way, most_running), (step_tokens > 1, 3), "steps of {step_tokens}");
        assert_eq!(engine.free(), (3, 10));
    }
    assert_eq!(expected(&requests[0]).1, Some(Finish::NoRoom));
    assert_eq!(expected(&requests[1]).1, Some(Finish::Length));
}

#[test]
fn answers_end_where_the_request_says() {
    let (_folder, mut engine) = toy();
    let long = |salt| request(5, 90, salt);
    let changed = |salt, change: &dyn Fn(&mut GenerateOptions)| {
        let mut request = long(salt);
        change(&mut request.options);
        request
    };
    let with_eos = |salt| changed(salt, &|options| options.ignore_eos = false);
    let stopped = |salt| changed(salt, &|options| options.stop_tokens = vec![expected(&long(salt)).0[7]]);
    let salt = (0..).find(|&salt| expected(&with_eos(salt)).1 == Some(Finish::Eos)).unwrap();
    let requests = [with_eos(salt), stopped(1), request(5, 1, 3)];
    let mut batch = Batch::new(&engine);
    let ids: Vec<RequestId> = requests.iter().map(|request| batch.submit(&engine, request.clone()).unwrap()).collect();
    let results = run(&mut engine, &mut batch, |_, _, _| ());
    let finishes: Vec<_> = ids.iter().map(|id| results[id].1.unwrap()).collect();
    assert_eq!(finishes, [Finish::Eos, Finish::Stopped, Finish::Length]);
    assert!(ids.iter().zip(&requests).all(|(id, request)| results[id] == expected(request)));
}

#[test]
fn requests_join_in_order_and_share_each_step() {
    let (_folder, mut engine) = toy();
    let mut batch = Batch::new(&engine);
    let submit =
        |engine: &Engine, batch: &mut Batch, n, max_new, salt| batch.submit(engine, request(n, max_new, salt)).unwrap();
    let first = submit(&engine, &mut batch, 30, 20, 0);
    let second = submit(&engine, &mut batch, 50, 20, 1);
    let brought = |batch: &mut Batch, engine: &mut Engine| -> Vec<RequestId> {
        batch.step(engine).unwrap().iter().map(|event| event.request).collect()
    };
    // 40 tokens per step: 30 + 10; then 1 + 39; then 1 + 1 and the rest for the third.
    assert_eq!(brought(&mut batch, &mut engine), [first]);
    assert_eq!(brought(&mut batch, &mut engine), [first]);
    // It needs 3 pages, and the first one needs one more; 10 − 2 − 4 are free.
    let third = submit(&engine, &mut batch, 40, 20, 2);
    assert_eq!((brought(&mut batch, &mut engine), batch.n_running()), (vec![first, second], 3));
    // The fourth has no slot. The fifth, although small, does not overtake it.
    let fourth = submit(&engine, &mut batch, 38, 5, 3);
    let fifth = submit(&engine, &mut batch, 1, 1, 4);
    assert_eq!((brought(&mut batch, &mut engine), batch.n_waiting()), (vec![first, second, third], 2));
    assert!(batch.cancel(&mut engine, second).unwrap());
    assert_eq!((brought(&mut batch, &mut engine), batch.n_waiting()), (vec![first, third, fourth], 1));
    assert!(batch.cancel(&mut engine, fifth).unwrap());
    let results = run(&mut engine, &mut batch, |_, _, _| ());
    assert_eq!(results.keys().copied().collect::<Vec<_>>(), [first, third, fourth]);
    assert_eq!(results[&fourth].0, expected(&request(38, 5, 3)).0[1..]);
    assert!(!batch.cancel(&mut engine, fourth).unwrap(), "it had ended");
    assert_eq!(engine.free(), (3, 10));
}

#[test]
fn refusals_disturb_nobody() {
    let (_folder, mut engine) = toy();
    let mut batch = Batch::new(&engine);
    let good = request(30, 40, 1);
    let id = batch.submit(&engine, good.clone()).unwrap();
    let bad = |change: fn(&mut Request)| {
        let mut bad = request(5, 5, 2);
        change(&mut bad);
        bad
    };
    let results = run(&mut engine, &mut batch, |engine, batch, _| {
        let refused = |batch: &mut Batch, change| batch.submit(engine, bad(change)).unwrap_err();
        let error = refused(batch, |request| request.prompt.clear());
        assert!(matches!(error, RuntimeError::NoTokens));
        let error = refused(batch, |request| request.prompt[3] = 300);
        assert!(matches!(error, RuntimeError::TokenOutOfRange { token: 300, vocab: VOCAB }));
        let error = refused(batch, |request| request.prompt = vec![1; 101]);
        assert!(matches!(error, RuntimeError::ContextFull { wanted: 101, max_context: 100 }));
        let error = refused(batch, |request| request.options.max_new = 0);
        assert!(matches!(error, RuntimeError::Option { name: "max new", .. }));
        let error = refused(batch, |request| request.options.sampler.top_p = 0.0);
        assert!(matches!(error, RuntimeError::Option { name: "top-p", .. }));
    });
    assert_eq!(results, BTreeMap::from([(id, expected(&good))]));
}

#[test]
fn a_prompt_that_no_pool_holds_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut toy = Toy::new();
    toy.manifest.limits.kv_tokens = 48;
    let path = toy.write(folder.path(), "small.plan");
    let engine = Engine::open(&path, OpenOptions::default()).unwrap();
    let error = Batch::new(&engine).submit(&engine, request(49, 5, 0)).unwrap_err();
    assert!(matches!(error, RuntimeError::PoolTooSmall { wanted: 4, most: 3 }), "{error}");
    assert_eq!(error.class(), ErrorClass::TooLong);
    // A single request runs until the pool is exhausted.
    let mut engine = engine;
    let mut batch = Batch::new(&engine);
    let id = batch.submit(&engine, request(40, 50, 0)).unwrap();
    let (tokens, finish) = &run(&mut engine, &mut batch, |_, _, _| ())[&id];
    assert_eq!((tokens.len(), *finish), (9, Some(Finish::NoRoom)));
}

#[test]
fn sequences_of_the_caller_are_left_alone() {
    let (_folder, mut engine) = toy();
    let own = engine.add_sequence().unwrap();
    let tokens = request(80, 1, 9).prompt;
    engine.prefill(own, &tokens[..79], None, None).unwrap();
    let mut batch = Batch::new(&engine);
    let requests = [request(60, 30, 1), request(50, 30, 2)];
    let ids = requests.clone().map(|request| batch.submit(&engine, request).unwrap());
    let results = run(&mut engine, &mut batch, |engine, batch, step| {
        assert!(batch.n_running() <= 2);
        if step == 3 {
            let row = engine.step(&[Feed { sequence: own, tokens: &tokens[79..], outputs: Outputs::Last }]).unwrap();
            assert_eq!(row.row(0).iter().position(|&logit| logit == 1.0), Some(next(&tokens) as usize));
        }
    });
    // Five pages are free: 80 tokens, and one more that needs no room.
    assert_eq!(results[&ids[0]], (expected(&requests[0]).0[..21].to_vec(), Some(Finish::NoRoom)));
    assert_eq!(results[&ids[1]], expected(&requests[1]));
    assert_eq!((engine.len(own).unwrap(), engine.free().0), (80, LIMITS.max_sequences - 1));
}
