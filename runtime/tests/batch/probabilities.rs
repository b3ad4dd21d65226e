//! Log probabilities of prompts, and the seeds of draws.

use std::ops::ControlFlow;

use jamba_runtime::{Batch, BatchOptions, Event, PrefixCache, PromptToken, Request, SamplerOptions, sample};

use super::*;

/// An engine whose logits are spread over the vocabulary.
pub(super) fn spread() -> (tempfile::TempDir, Engine) {
    let folder = tempfile::tempdir().unwrap();
    let path = Toy { defines: "#define SPREAD 300", ..Toy::new() }.write(folder.path(), "spread.plan");
    let engine = Engine::open(&path, OpenOptions { threads: Some(1), ..OpenOptions::default() }).unwrap();
    (folder, engine)
}

/// The probabilities of a prompt, from the logits of the engine.
pub(super) fn of_prompt(engine: &mut Engine, prompt: &[u32], n_top: usize) -> Vec<PromptToken> {
    let sequence = engine.add_sequence().unwrap();
    let mut told = vec![PromptToken { token: prompt[0], logprob: None, top: Vec::new() }];
    for pair in prompt.windows(2) {
        let logits = engine.prefill(sequence, &pair[..1], None, None).unwrap().row(0).to_vec();
        let (logprob, top) = (sample::logprob(&logits, pair[1]), sample::top_logprobs(&logits, n_top));
        told.push(PromptToken { token: pair[1], logprob, top });
    }
    engine.remove_sequence(sequence).unwrap();
    told
}

/// Runs a batch and returns the reported prompt and the new tokens of each request.
fn serve(engine: &mut Engine, batch: &mut Batch) -> BTreeMap<RequestId, (Vec<PromptToken>, Vec<u32>)> {
    let mut told: BTreeMap<_, (Vec<PromptToken>, Vec<u32>)> = BTreeMap::new();
    while !batch.is_idle() {
        for event in batch.step(engine).unwrap() {
            let (prompt, tokens) = told.entry(event.request).or_default();
            assert!(tokens.is_empty() || event.prompt.is_empty(), "the prompt comes first");
            prompt.extend(event.prompt.iter().cloned());
            tokens.extend(event.token.as_ref().map(|token| token.token));
        }
    }
    told
}

#[test]
fn each_prompt_token_has_the_probability_of_its_logits() {
    let (_folder, mut engine) = spread();
    // Rows of logits bound a step: 24 of the plan.
    for (n_prompt, n_top, max_new) in [(1, 2, 3), (2, 0, 0), (1, 0, 0), (24, 3, 1), (25, 1, 5), (90, 5, 0), (99, 2, 4)]
    {
        let expected = of_prompt(&mut engine, &request(n_prompt, 1, 4).prompt, n_top);
        for step_tokens in [1, 9, 40] {
            let mut batch = Batch::new(&engine);
            batch.set_cache(&engine, PrefixCache::new(1 << 20).with_interval(8)).unwrap();
            batch.set_step_tokens(&engine, step_tokens);
            let probed = Request { prompt_logprobs: Some(n_top), ..request(n_prompt, max_new, 4) };
            // Beside others, from a warm cache, and twice.
            let other = batch.submit(&engine, request(30, 20, 4)).unwrap();
            let ids = [(); 2].map(|()| batch.submit(&engine, probed.clone()).unwrap());
            let told = serve(&mut engine, &mut batch);
            for id in ids {
                assert_eq!(told[&id].0, expected, "{n_prompt} tokens in steps of {step_tokens}");
                assert_eq!(told[&id].1.len(), max_new.min(101 - n_prompt));
            }
            assert!(told[&other].0.is_empty());
        }
    }
    let none = Request { options: GenerateOptions::default(), ..request(5, 1, 1) };
    let error = Batch::new(&engine).submit(&engine, none).unwrap_err();
    assert!(matches!(error, RuntimeError::Option { name: "max new", .. }), "{error}");
}

#[test]
fn a_preempted_prompt_is_reported_once() {
    let (_folder, mut engine) = spread();
    for swap_bytes in [0, 1 << 20] {
        let mut batch = Batch::with_options(&engine, BatchOptions { swap_bytes, ..BatchOptions::default() });
        batch.set_cache(&engine, PrefixCache::new(1 << 20).with_interval(32)).unwrap();
        let slow = Request { prompt_logprobs: Some(1), priority: 1, n: 2, ..request(90, 8, 4) };
        let id = batch.submit(&engine, slow.clone()).unwrap();
        let mut told = Vec::new();
        let mut tokens = [Vec::new(), Vec::new()];
        for step in 0.. {
            // Urgent requests that take all pages.
            if step % 9 == 1 && step < 40 {
                batch.submit(&engine, request(100, 1, step)).unwrap();
            }
            if batch.is_idle() {
                break;
            }
            for Event { request, choice, prompt, token, .. } in batch.step(&mut engine).unwrap() {
                if *request == id {
                    assert!(*choice == 0 || prompt.is_empty());
                    told.extend(prompt.iter().cloned());
                    tokens[*choice].extend(token.as_ref().map(|token| token.token));
                }
            }
        }
        assert!(batch.n_preemptions() > 1, "{swap_bytes}: {}", batch.n_preemptions());
        assert_eq!(told, of_prompt(&mut engine, &slow.prompt, 1));
        let alone = engine.generate(&slow.prompt, &slow.options, |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(tokens, [alone.tokens.clone(), alone.tokens]);
    }
}

#[test]
fn a_request_that_moves_goes_on_with_its_draws() {
    let (_folder, mut engine) = spread();
    let sampler = SamplerOptions { temperature: 1.0, top_k: 50, ..SamplerOptions::GREEDY };
    let mut random = request(12, 20, 3);
    random.options.sampler = sampler;
    let mut batch = Batch::new(&engine);
    batch.submit(&engine, Request { n: 2, ..random.clone() }).unwrap();
    let mut told = [(0, Vec::new()), (0, Vec::new())];
    while !batch.is_idle() {
        for event in batch.step(&mut engine).unwrap() {
            told[event.choice].0 = event.seed;
            told[event.choice].1.extend(event.token.as_ref().map(|token| token.token));
        }
    }
    assert_eq!(told[1].0, told[0].0.wrapping_add(1));
    assert_ne!(told[0].1, told[1].1);
    for (seed, tokens) in told {
        for n in [0, 1, 7, 19] {
            let mut moved = Request { prompt: [&random.prompt, &tokens[..n]].concat(), ..random.clone() };
            moved.options.sampler.seed = Some(seed);
            moved.options.max_new -= n;
            let id = batch.submit(&engine, moved.clone()).unwrap();
            assert_eq!(serve(&mut engine, &mut batch)[&id].1, tokens[n..]);
            let alone = engine.generate(&moved.prompt, &moved.options, |_| ControlFlow::Continue(())).unwrap();
            assert_eq!((alone.seed, &alone.tokens[..]), (seed, &tokens[n..]));
        }
    }
}
