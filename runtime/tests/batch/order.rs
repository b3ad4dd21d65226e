//! The order of requests: priorities, deadlines, the queue's limits, overtaking, and the shares of steps with a target time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jamba_runtime::{Batch, BatchOptions, Event, Request, Usage};

use super::cache::roomy;
use super::*;

/// A clock that goes on by `tick` each time it is read, and the time at its first reading.
fn ticking(batch: &mut Batch, tick: Duration) -> Instant {
    let (begin, n) = (Instant::now(), AtomicU64::new(0));
    batch.set_clock(move || begin + tick * n.fetch_add(1, Ordering::Relaxed) as u32);
    begin
}

/// A clock that the test sets, in milliseconds after the returned time.
fn set_by_hand(batch: &mut Batch) -> (Arc<AtomicU64>, Instant) {
    let (begin, milliseconds) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let now = Arc::clone(&milliseconds);
    batch.set_clock(move || begin + Duration::from_millis(now.load(Ordering::Relaxed)));
    (milliseconds, begin)
}

#[test]
fn urgent_requests_preempt_others_and_disturb_none() {
    let (_folder, mut engine) = toy();
    let mut batch = Batch::new(&engine);
    let slow = [1, 2, 3, 4].map(|salt| Request { priority: 5, ..request(20, 25, salt) });
    let slow_ids = slow.clone().map(|request| batch.submit(&engine, request).unwrap());
    for _ in 0..6 {
        batch.step(&mut engine).unwrap();
    }
    assert_eq!((batch.n_running(), batch.n_preemptions()), (3, 0));
    let urgent = Request { priority: -1, ..request(30, 3, 9) };
    let id = batch.submit(&engine, urgent.clone()).unwrap();
    // One step for its prompt of 30 tokens beside two decoders.
    let first: Vec<RequestId> = batch.step(&mut engine).unwrap().iter().map(|event| event.request).collect();
    assert_eq!(first, [slow_ids[0], slow_ids[1], id]);
    assert_eq!(batch.n_preemptions(), 1);
    // Requests of the same priority do not preempt each other.
    let same = batch.submit(&engine, Request { priority: 5, ..request(9, 2, 5) }).unwrap();
    let mut order = Vec::new();
    let results = run(&mut engine, &mut batch, |_, batch, _| order.push(batch.n_preemptions()));
    assert_eq!(order.last(), Some(&1));
    assert_eq!(results[&id].0, expected(&urgent).0[1..]);
    let before = |tokens: usize, index: usize| expected(&slow[index]).0[tokens..].to_vec();
    assert_eq!(results[&slow_ids[3]], expected(&slow[3]));
    assert!((0..3).all(|index| before(0, index).ends_with(&results[&slow_ids[index]].0)));
    assert_eq!(results[&same], expected(&request(9, 2, 5)));
}

#[test]
fn the_queue_is_in_order_of_priority_and_arrival() {
    let (_folder, mut engine) = toy();
    let mut batch = Batch::new(&engine);
    let ids = [3, 1, 2, 1, 3, 0].map(|priority| {
        let request = Request { priority, ..request(90, 1, 1) };
        batch.submit(&engine, request).unwrap()
    });
    let mut order = Vec::new();
    while !batch.is_idle() {
        order.extend(batch.step(&mut engine).unwrap().iter().map(|event| event.request));
    }
    assert_eq!(order, [5, 1, 3, 2, 0, 4].map(|index| ids[index]));
}

#[test]
fn deadlines_end_requests_wherever_they_are() {
    let (_folder, mut engine) = toy();
    let mut batch = Batch::new(&engine);
    let (now, begin) = set_by_hand(&mut batch);
    let until = |milliseconds| Some(begin + Duration::from_millis(milliseconds));
    let running = batch.submit(&engine, Request { deadline: until(50), ..request(5, 90, 1) }).unwrap();
    let reading = batch.submit(&engine, Request { deadline: until(20), n: 2, ..request(90, 3, 2) }).unwrap();
    let waiting = batch.submit(&engine, Request { deadline: until(20), ..request(90, 3, 3) }).unwrap();
    let endless = batch.submit(&engine, Request { deadline: until(1000), ..request(5, 20, 4) }).unwrap();
    let mut ended = Vec::new();
    for milliseconds in [0, 19, 20, 49, 50, 51] {
        now.store(milliseconds, Ordering::Relaxed);
        let events = batch.step(&mut engine).unwrap().iter();
        let over = events.filter(|event| event.finish == Some(Finish::Deadline));
        ended.extend(over.map(|event| (milliseconds, event.request, event.choice, event.usage.new_tokens)));
    }
    assert_eq!(ended, [(20, waiting, 0, 0), (20, reading, 0, 0), (20, reading, 1, 0), (50, running, 0, 4)]);
    let results = run(&mut engine, &mut batch, |_, _, _| ());
    assert_eq!(results[&endless].1, Some(Finish::Length));
    assert_eq!(engine.free(), (3, 10));
}

#[test]
fn usage_counts_tokens_and_times() {
    let (_folder, mut engine) = toy();
    let mut batch = Batch::new(&engine);
    let (now, _) = set_by_hand(&mut batch);
    let id = batch.submit(&engine, request(60, 3, 1)).unwrap();
    let mut usages = Vec::new();
    for milliseconds in [10, 15, 35, 75] {
        now.store(milliseconds, Ordering::Relaxed);
        usages.extend(batch.step(&mut engine).unwrap().iter().map(|event| (event.request, event.usage)));
    }
    // It joined at 10; its prompt of 60 tokens took two steps of at most 40.
    let times = |new_tokens, decode| Usage {
        prompt_tokens: 60,
        new_tokens,
        queue: Duration::from_millis(10),
        prefill: Duration::from_millis(5),
        decode: Duration::from_millis(decode),
        ..Usage::default()
    };
    assert_eq!(usages, [(id, times(1, 0)), (id, times(2, 20)), (id, times(3, 60))]);
}

#[test]
fn a_full_queue_refuses() {
    let (_folder, mut engine) = toy();
    let options = BatchOptions { max_waiting: Some(4), max_waiting_tokens: Some(100), ..BatchOptions::default() };
    let mut batch = Batch::with_options(&engine, options);
    let refused = |engine: &Engine, batch: &mut Batch, request: Request| {
        let error = batch.submit(engine, request).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Busy, "{error}");
        error.to_string()
    };
    batch.submit(&engine, Request { n: 3, ..request(30, 2, 1) }).unwrap();
    let text = refused(&engine, &mut batch, Request { n: 2, ..request(5, 2, 1) });
    assert!(text.contains("5 requests would wait, at most 4"), "{text}");
    batch.submit(&engine, request(70, 2, 1)).unwrap();
    assert!(refused(&engine, &mut batch, request(1, 2, 1)).contains("requests"));
    // Both join; three slots are in use, with the other answers of the first one after its prompt.
    batch.step(&mut engine).unwrap();
    assert_eq!(batch.n_waiting(), 0);
    batch.submit(&engine, request(60, 2, 1)).unwrap();
    batch.submit(&engine, request(40, 2, 1)).unwrap();
    let ids = [request(100, 1, 1), request(100, 1, 1)];
    while batch.n_waiting() == 0 {
        batch.step(&mut engine).unwrap();
    }
    let text = refused(&engine, &mut batch, ids[0].clone());
    assert!(text.contains("prompt tokens would wait, at most 100"), "{text}");
    while !batch.is_idle() {
        batch.step(&mut engine).unwrap();
    }
    // A request alone is never refused for its length.
    let options = BatchOptions { max_waiting_tokens: Some(9), ..BatchOptions::default() };
    let mut batch = Batch::with_options(&engine, options);
    batch.submit(&engine, ids[1].clone()).unwrap();
    assert!(refused(&engine, &mut batch, request(1, 1, 1)).contains("101 prompt tokens"));
}

#[test]
fn small_requests_overtake_a_large_one_a_few_times() {
    for (skip_ahead, overtaking) in [(0, 0), (2, 2), (9, 5)] {
        let (_folder, mut engine) = toy();
        let mut batch = Batch::with_options(&engine, BatchOptions { skip_ahead, ..BatchOptions::default() });
        // Ten pages: the first needs six, the second seven, each small one one.
        batch.submit(&engine, request(80, 15, 0)).unwrap();
        let large = batch.submit(&engine, request(100, 1, 1)).unwrap();
        let small: Vec<RequestId> = (2..7).map(|salt| batch.submit(&engine, request(3, 2, salt)).unwrap()).collect();
        let mut order = Vec::new();
        while !batch.is_idle() {
            let ends = batch.step(&mut engine).unwrap().iter().filter(|event| event.finish.is_some());
            order.extend(ends.map(|event| event.request));
        }
        let place = order.iter().position(|&id| id == large).unwrap();
        let before = order[..place].iter().filter(|id| small.contains(id)).count();
        assert_eq!(before, overtaking, "{skip_ahead}");
    }
}

/// Numbers of prompt tokens that each of the requests has in each of the next steps.
fn shares(engine: &mut Engine, batch: &mut Batch, n_steps: usize) -> Vec<usize> {
    engine.set_trace(true);
    for _ in 0..n_steps {
        let _: &[Event] = batch.step(engine).unwrap();
    }
    engine.trace().unwrap().runs().iter().map(|run| run.size.tokens as usize).collect()
}

#[test]
fn a_target_time_bounds_the_prompt_tokens_of_a_step() {
    let (_folder, mut engine) = roomy();
    let with_target = |milliseconds| BatchOptions {
        step_target: Some(Duration::from_millis(milliseconds)),
        ..BatchOptions::default()
    };
    // Every step takes 10 ms, whatever it does.
    let mut batch = Batch::with_options(&engine, with_target(5));
    ticking(&mut batch, Duration::from_millis(10));
    let long = batch.submit(&engine, request(300, 2, 1)).unwrap();
    assert_eq!(shares(&mut engine, &mut batch, 4), [16; 4], "the least");
    batch.cancel(&mut engine, long).unwrap();
    let mut batch = Batch::with_options(&engine, with_target(20));
    ticking(&mut batch, Duration::from_millis(10));
    batch.submit(&engine, request(300, 2, 1)).unwrap();
    assert_eq!(shares(&mut engine, &mut batch, 4), [16, 40, 40, 40], "up to the plan's step");
    let results = run(&mut engine, &mut batch, |_, _, _| ());
    assert_eq!(results.len(), 1);
}

#[test]
fn short_prompts_go_first_and_long_ones_do_not_starve() {
    let (_folder, mut engine) = roomy();
    let target = Some(Duration::from_millis(5));
    let mut batch = Batch::with_options(&engine, BatchOptions { step_target: target, ..BatchOptions::default() });
    ticking(&mut batch, Duration::from_millis(10)); // sixteen prompt tokens a step
    let long = batch.submit(&engine, request(64, 1, 0)).unwrap();
    let mut ends = Vec::new();
    // A prompt of sixteen tokens arrives before each step and goes first, but not always.
    for step in 0..40 {
        if batch.n_waiting() == 0 {
            batch.submit(&engine, request(16, 1, step)).unwrap();
        }
        ends.extend(batch.step(&mut engine).unwrap().iter().map(|event| (step, event.request)));
    }
    // The long one reads sixteen tokens in steps 0, 5 and 10; then it is as short as the others and first in order.
    let end = ends.iter().find(|(_, id)| *id == long).unwrap().0;
    assert_eq!((end, ends.len()), (11, 37));
    run(&mut engine, &mut batch, |_, _, _| ());
}
