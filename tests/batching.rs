//! 200 requests through 8 slots of models/tiny: each request gets the same tokens as when it runs alone.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use jamba_runtime::{Batch, Finish, GenerateOptions, Request, RequestId, SamplerOptions};
use jambac::compile::{Progress, build};
use jambac::manifest::ModelFile;
use rand_pcg::Pcg64;
use rand_pcg::rand_core::{RngCore, SeedableRng};

use crate::oracle::open;

const REQUESTS: usize = 200;
const LONGEST: usize = 2000;

/// Seeded draws.
pub struct Draws(Pcg64);

impl Draws {
    pub fn new(seed: u64) -> Draws {
        Draws(Pcg64::seed_from_u64(seed))
    }

    /// A number below n.
    pub fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() % n as u64) as usize
    }

    /// Random token ids.
    pub fn tokens(&mut self, n: usize, vocab: u64) -> Vec<u32> {
        (0..n).map(|_| self.below(vocab as usize) as u32).collect()
    }
}

/// A request of 1 to 2,000 tokens, including the answer; most are short.
fn request(draws: &mut Draws, index: usize, vocab: u64) -> Request {
    let exponent = (draws.below(1000) as f64 / 999.0).powf(1.7);
    let total = if index == 100 { LONGEST } else { (LONGEST as f64).powf(exponent) as usize };
    let most_new = if index.is_multiple_of(6) { 160 } else { 20 };
    let max_new = 1 + draws.below(total.min(most_new));
    let sampler = match index % 3 {
        0 => SamplerOptions::default(),
        1 => SamplerOptions { temperature: 0.8, seed: Some(index as u64), ..SamplerOptions::default() },
        _ => SamplerOptions {
            temperature: 1.1,
            top_k: 40,
            top_p: 0.9,
            min_p: 0.01,
            repetition_penalty: 1.1,
            presence_penalty: 0.2,
            frequency_penalty: 0.1,
            logit_bias: vec![(index as u32 % 100, 1.0)],
            seed: Some(index as u64),
        },
    };
    let prompt = draws.tokens((total - max_new).max(1), vocab);
    let ignore_eos = index.is_multiple_of(2);
    Request {
        prompt,
        options: GenerateOptions { max_new, sampler, ignore_eos, ..GenerateOptions::default() },
        ..Request::default()
    }
}

#[test]
fn two_hundred_requests_get_what_they_get_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = ModelFile::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny")).unwrap();
    model.limits.max_context = LONGEST as u64;
    model.limits.max_sequences = 8;
    model.limits.kv_tokens = Some(2048); // hardly more than the longest: many have to wait, some to give way
    let output = folder.path().join("tiny.plan");
    build(&jambac::compile::Request::new(model, output.clone()), &Progress::hidden()).unwrap();
    let mut engine = open(&output, 2);
    let mut draws = Draws::new(7);
    let vocab = engine.manifest().model.vocab;
    let requests: Vec<Request> = (0..REQUESTS).map(|index| request(&mut draws, index, vocab)).collect();
    let n_tokens: usize = requests.iter().map(|request| request.prompt.len() + request.options.max_new).sum();

    let mut expected = Vec::new();
    for request in &requests {
        let Request { prompt, options, .. } = request;
        let generated = engine.generate(prompt, options, |_| ControlFlow::Continue(())).unwrap();
        expected.push((generated.tokens, Some(generated.finish)));
    }

    // Requests arrive in bursts while others run.
    let mut batch = Batch::new(&engine);
    let mut ids: Vec<RequestId> = Vec::new();
    let mut found: BTreeMap<RequestId, (Vec<u32>, Option<Finish>)> = BTreeMap::new();
    let (mut n_steps, mut most_running, mut gave_way, mut n_waiting) = (0, 0, 0, 0);
    while ids.len() < REQUESTS || !batch.is_idle() {
        if batch.n_waiting() < 4 {
            let burst = requests[ids.len()..].iter().take(1 + draws.below(12));
            let submitted: Vec<RequestId> =
                burst.map(|request| batch.submit(&engine, request.clone()).unwrap()).collect();
            ids.extend(submitted);
            n_waiting = batch.n_waiting();
        }
        for event in batch.step(&mut engine).unwrap() {
            let (tokens, finish) = found.entry(event.request).or_default();
            tokens.extend(event.token.as_ref().map(|token| token.token));
            *finish = event.finish;
        }
        gave_way += batch.n_waiting().saturating_sub(n_waiting);
        (n_steps, most_running, n_waiting) = (n_steps + 1, most_running.max(batch.n_running()), batch.n_waiting());
    }
    for (index, (id, expected)) in ids.iter().zip(&expected).enumerate() {
        assert_eq!(&found[id], expected, "request {index} of {} tokens", requests[index].prompt.len());
    }
    let ends = |finish| expected.iter().filter(|(_, found)| *found == Some(finish)).count();
    println!("{n_tokens} tokens in {n_steps} steps; {gave_way} gave way; {} ended by themselves", ends(Finish::Eos));
    assert!(most_running == 8 && gave_way > 0 && ends(Finish::Length) > 100, "{most_running} {gave_way}");
    assert_eq!(engine.free(), (8, 2048 / 16));
}
