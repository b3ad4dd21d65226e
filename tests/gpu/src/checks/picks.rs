//! Tokens picked on the device against tokens picked on the host from the same logits.

use std::ops::ControlFlow;

use anyhow::{Context, Result, ensure};
use jamba_runtime::{Batch, DebugOptions, Engine, GenerateOptions, OpenOptions, Request, SamplerOptions};

use super::{Found, Subject};

/// Generated tokens per request.
const TOKENS: usize = 5;

/// Sampling options: greedy, drawn from all tokens and from few, and two that need the logits on the host (penalties, log
/// probabilities).
pub fn requests() -> Vec<GenerateOptions> {
    let warm = SamplerOptions { temperature: 0.8, seed: Some(3), ..SamplerOptions::GREEDY };
    let samplers = [
        SamplerOptions::GREEDY,
        warm.clone(),
        SamplerOptions { top_k: 40, seed: Some(4), ..warm.clone() },
        SamplerOptions { top_p: 0.9, seed: Some(5), ..warm.clone() },
        SamplerOptions { min_p: 0.05, seed: Some(6), ..warm.clone() },
        SamplerOptions { frequency_penalty: 1.5, seed: Some(7), ..warm.clone() },
    ];
    let options =
        |sampler| GenerateOptions { max_new: TOKENS, ignore_eos: true, sampler, ..GenerateOptions::default() };
    let told = GenerateOptions { logprobs: Some(2), ..options(SamplerOptions { seed: Some(8), ..warm }) };
    samplers.into_iter().map(options).chain([told]).collect()
}

/// All requests get the tokens that the host picks, alone and in one batch, with and without graphs.
pub fn picks(subject: &Subject<'_>) -> Result<Found> {
    let requests = requests();
    let prompt = |nth: usize| subject.text[nth..nth + 9 + nth].to_vec();
    let open = |pick_on_host: bool, launch_each: bool| {
        (subject.on_gpu)(OpenOptions {
            debug: DebugOptions { pick_on_host, launch_each, ..DebugOptions::default() },
            ..OpenOptions::default()
        })
    };
    let alone = |engine: &mut Engine| -> Result<Vec<Vec<u32>>> {
        let answer = |(nth, options)| Ok(engine.generate(&prompt(nth), options, |_| ControlFlow::Continue(()))?.tokens);
        requests.iter().enumerate().map(answer).collect()
    };
    let expected = alone(&mut open(true, false)?)?;
    ensure!(alone(&mut open(false, false)?)? == expected, "the device picks other tokens than the host");
    ensure!(alone(&mut open(false, true)?)? == expected, "without graphs the device picks other tokens");

    let mut engine = open(false, false)?;
    let mut batch = Batch::new(&engine);
    let mut ids = Vec::new();
    for (nth, options) in requests.iter().enumerate() {
        ids.push(
            batch.submit(&engine, Request { prompt: prompt(nth), options: options.clone(), ..Request::default() })?,
        );
    }
    let mut found = vec![Vec::new(); ids.len()];
    while !batch.is_idle() {
        for event in batch.step(&mut engine)? {
            let nth = ids.iter().position(|&id| id == event.request).context("an event of nobody's")?;
            found[nth].extend(event.token.as_ref().map(|token| token.token));
        }
    }
    ensure!(found == expected, "in a batch requests have other tokens than alone: {found:?}, expected {expected:?}");
    let drawn: usize = expected[1..].iter().map(Vec::len).sum();
    Ok(Found { check: "picks", difference: None, note: format!("{TOKENS} greedy and {drawn} drawn tokens") })
}
