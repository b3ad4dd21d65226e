//! Generation: callback and iterator, text, ends, and log probabilities.

use std::ops::ControlFlow;

use jamba_runtime::{
    Cancel, Engine, Feed, Finish, GenerateOptions, Generated, NewToken, OpenOptions, Outputs, RuntimeError,
    SamplerOptions, StreamEvent, sample,
};

pub(crate) fn open() -> Engine {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/toy.plan");
    Engine::open(path, OpenOptions { threads: Some(1), ..OpenOptions::default() }).unwrap()
}

/// Samples, because the toy model's most likely tokens repeat soon.
fn warm(seed: u64) -> GenerateOptions {
    let sampler = SamplerOptions { temperature: 1.0, seed: Some(seed), ..SamplerOptions::default() };
    GenerateOptions { max_new: 60, sampler, ignore_eos: true, ..GenerateOptions::default() }
}

fn collect(engine: &mut Engine, prompt: &[u32], options: &GenerateOptions) -> (Vec<NewToken>, Generated) {
    let mut told = Vec::new();
    let generated = engine.generate(prompt, options, |token| {
        told.push(token);
        ControlFlow::Continue(())
    });
    (told, generated.unwrap())
}

/// The text of all tokens and the held back end.
fn text((told, generated): &(Vec<NewToken>, Generated)) -> String {
    told.iter().map(|token| &*token.text).chain([&*generated.rest]).collect()
}

#[test]
fn the_text_is_that_of_the_tokens_by_callback_and_by_iterator() {
    let mut engine = open();
    let prompt = engine.tokenizer().unwrap().encode("Once upon a time").unwrap();
    for seed in 0..20 {
        let options = GenerateOptions { logprobs: Some(3), ..warm(seed) };
        let found = collect(&mut engine, &prompt, &options);
        let (told, generated) = &found;
        let whole = engine.tokenizer().unwrap().decode(&generated.tokens).unwrap();
        assert_eq!((text(&found), &generated.text), (whole.clone(), &whole));
        let tokens: Vec<u32> = told.iter().map(|token| token.token).collect();
        assert_eq!((&tokens, generated.finish), (&generated.tokens, Finish::Length));

        let mut events: Vec<StreamEvent> = engine.stream(&prompt, &options).unwrap().collect::<Result<_, _>>().unwrap();
        let Some(StreamEvent::Done(done)) = events.pop() else { panic!("the last event is the end") };
        let is_token =
            |(event, token): (StreamEvent, &NewToken)| matches!(event, StreamEvent::Token(found) if found == *token);
        assert!(events.into_iter().zip(told).all(is_token));
        assert_eq!((done.tokens, done.text, done.rest), (tokens, whole, generated.rest.clone()));
    }
    assert_eq!(engine.free().0, engine.manifest().limits.max_sequences, "streams end their sequences");
}

#[test]
fn logprobs_are_of_the_raw_logits_whatever_is_picked() {
    let mut engine = open();
    let prompt = [1, 20, 30];
    let sequence = engine.add_sequence().unwrap();
    let row = engine.prefill(sequence, &prompt, None, None).unwrap().row(0).to_vec();
    engine.remove_sequence(sequence).unwrap();
    let sampler = SamplerOptions { temperature: 3.0, top_k: 40, logit_bias: vec![(7, 9.0)], ..warm(3).sampler };
    let options = GenerateOptions { max_new: 1, logprobs: Some(4), sampler, ..GenerateOptions::default() };
    let (told, _) = collect(&mut engine, &prompt, &options);
    assert_eq!(told[0].logprob, sample::logprob(&row, told[0].token));
    assert_eq!(told[0].top, sample::top_logprobs(&row, 4));
    let (told, _) = collect(&mut engine, &prompt, &GenerateOptions { logprobs: None, ..options });
    assert_eq!((told[0].logprob, told[0].top.len()), (None, 0));
}

#[test]
fn stop_strings_end_the_answer_and_are_never_told() {
    let mut engine = open();
    let prompt = [1, 20, 30];
    let mut across = 0;
    for seed in 0..30 {
        let whole = collect(&mut engine, &prompt, &warm(seed)).1.text;
        let characters: Vec<char> = whole.chars().collect();
        let stop: String = characters[characters.len() / 2..][..3].iter().collect();
        let options = GenerateOptions { stop: vec!["never said".to_owned(), stop.clone()], ..warm(seed) };
        let found = collect(&mut engine, &prompt, &options);
        let expected = &whole[..whole.find(&stop).unwrap()];
        assert_eq!((text(&found), &*found.1.text), (expected.to_owned(), expected));
        assert_eq!((found.1.finish, &*found.1.rest), (Finish::Stopped, ""));
        across += usize::from(found.0.iter().rev().take_while(|token| token.text.is_empty()).count() > 1);
    }
    assert!(across > 5, "{across} stop strings lay across tokens");
    let options = GenerateOptions { stop: vec![String::new()], ..warm(0) };
    let refused = engine.generate(&prompt, &options, |_| ControlFlow::Continue(()));
    assert!(matches!(refused, Err(RuntimeError::Option { name: "stop", .. })));
    assert_eq!(engine.free().0, engine.manifest().limits.max_sequences);
}

#[test]
fn stop_tokens_and_the_end_of_the_text_are_no_text() {
    let mut engine = open();
    let prompt = [1, 20, 30];
    let (told, _) = collect(&mut engine, &prompt, &warm(1));
    let stop = told[10].token;
    let first = told.iter().position(|token| token.token == stop).unwrap();
    let found = collect(&mut engine, &prompt, &GenerateOptions { stop_tokens: vec![stop], ..warm(1) });
    assert_eq!((found.1.tokens.len(), found.1.finish), (first + 1, Finish::Stopped));
    assert_eq!(found.1.text, engine.tokenizer().unwrap().decode(&found.1.tokens[..first]).unwrap());
    // A bias forces the end token.
    let sampler = SamplerOptions { logit_bias: vec![(2, 100.0)], ..SamplerOptions::default() };
    let options = GenerateOptions { max_new: 9, sampler, ..GenerateOptions::default() };
    let found = collect(&mut engine, &prompt, &options);
    assert_eq!((found.1.tokens, found.1.finish, &*found.1.text), (vec![2], Finish::Eos, ""));
    // No text if none is requested.
    let found = collect(&mut engine, &prompt, &GenerateOptions { tokens_only: true, ..warm(1) });
    assert_eq!((text(&found), found.1.tokens.len()), (String::new(), 60));
}

#[test]
fn answers_are_cancelled_between_tokens_and_between_chunks() {
    let mut engine = open();
    let cancel = Cancel::new();
    let options = GenerateOptions { cancel: cancel.clone(), ..warm(1) };
    let mut n_told = 0;
    let generated = engine.generate(&[1, 20, 30], &options, |_| {
        n_told += 1;
        if n_told == 5 {
            cancel.cancel();
        }
        ControlFlow::Continue(())
    });
    let generated = generated.unwrap();
    assert_eq!((generated.tokens.len(), generated.finish, generated.decode_steps), (5, Finish::Cancelled, 4));

    // Cancelled during the prompt, after three chunks of seven tokens.
    cancel.reset();
    let (theirs, prompt) = (cancel.clone(), vec![9; 50]);
    engine.on_prefill(move |progress| {
        if progress.done == 21 {
            theirs.cancel();
        }
    });
    let sequence = engine.add_sequence().unwrap();
    let options = GenerateOptions { chunk: Some(7), ..options };
    let generated = engine.generate_in(sequence, &prompt, &options, |_| unreachable!("no token")).unwrap();
    assert_eq!((generated.finish, generated.tokens.len(), engine.len(sequence).unwrap()), (Finish::Cancelled, 0, 21));
    // The sequence continues from there.
    cancel.reset();
    let after = engine.prefill(sequence, &prompt[21..], None, None).unwrap().row(0).to_vec();
    let other = engine.add_sequence().unwrap();
    assert_eq!(engine.prefill(other, &prompt, None, None).unwrap().row(0), after);
    cancel.cancel();
    assert!(matches!(engine.prefill(other, &[1], None, Some(&cancel)), Err(RuntimeError::Cancelled)));
}

#[test]
fn a_stream_can_be_stopped_dropped_and_continued() {
    let mut engine = open();
    let mut stream = engine.stream(&[1, 20, 30], &warm(1)).unwrap();
    for _ in 0..3 {
        assert!(matches!(stream.next(), Some(Ok(StreamEvent::Token(_)))));
    }
    stream.stop();
    let Some(Ok(StreamEvent::Done(done))) = stream.next() else { panic!("it was stopped") };
    assert_eq!((done.tokens.len(), done.finish), (3, Finish::Stopped));
    assert!(stream.next().is_none());
    drop(stream);
    engine.stream(&[1, 20, 30], &warm(1)).unwrap().next();
    assert_eq!(engine.free().0, engine.manifest().limits.max_sequences);
    // In an existing sequence: the last token is not part of it yet.
    let sequence = engine.add_sequence().unwrap();
    let options = GenerateOptions { max_new: 4, ..warm(1) };
    let n_events = engine.stream_in(sequence, &[1, 20, 30], &options).unwrap().count();
    assert_eq!((n_events, engine.len(sequence).unwrap()), (5, 6));
    engine.step(&[Feed { sequence, tokens: &done.tokens[..1], outputs: Outputs::None }]).unwrap();
    // An error is the stream's only event.
    let mut stream = engine.stream(&[1, 9999], &warm(1)).unwrap();
    assert!(matches!(stream.next(), Some(Err(RuntimeError::TokenOutOfRange { .. }))));
    assert!(stream.next().is_none());
}
