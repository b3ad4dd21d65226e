//! Random requests, cancellations, preemptions, caches and snapshots on one engine, without end. Each round has a batch with options of its own;
//! after it every slot and page is back, and every answer is that of its request alone.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use jamba_runtime::{
    Batch, BatchOptions, Cancel, Engine, Finish, GenerateOptions, OpenOptions, PrefixCache, Request, RequestId,
    SamplerOptions,
};
use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{RngCore, SeedableRng};

/// What has happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub rounds: u64,
    pub steps: u64,
    pub answers: u64,
    /// Answers that were cancelled, or whose time was over.
    pub cut: u64,
    pub tokens: u64,
    pub preemptions: u64,
    pub snapshots: u64,
}

/// An engine, and what happens to it.
pub struct Soak {
    engine: Engine,
    draws: Pcg64Mcg,
    pub counts: Counts,
}

/// A request, and what its answers were so far.
struct Told {
    id: RequestId,
    request: Request,
    cancel: Cancel,
    answers: Vec<(Vec<u32>, Option<Finish>)>,
    is_cut: bool,
}

impl Soak {
    /// # Panics
    /// If the plan cannot be opened.
    pub fn new(plan: &Path, seed: u64) -> Soak {
        let options = OpenOptions { threads: Some(1), ..OpenOptions::default() };
        let engine = Engine::open(plan, options).unwrap_or_else(|error| panic!("{error}"));
        Soak { engine, draws: Pcg64Mcg::seed_from_u64(seed), counts: Counts::default() }
    }

    fn below(&mut self, n: usize) -> usize {
        (self.draws.next_u64() % n.max(1) as u64) as usize
    }

    fn batch(&mut self) -> Batch {
        let options = BatchOptions {
            swap_bytes: [0, 1 << 12, 1 << 16, 1 << 20][self.below(4)],
            skip_ahead: self.below(4) as u32,
            cache_answers: self.below(2) == 0,
            step_target: (self.below(3) == 0).then(|| Duration::from_millis(1 + self.below(30) as u64)),
            ..BatchOptions::default()
        };
        let mut batch = Batch::with_options(&self.engine, options);
        // Steps take times that are random too.
        let (mut now, mut draws) = (Instant::now(), Pcg64Mcg::seed_from_u64(self.draws.next_u64()));
        batch.set_clock(move || {
            now += Duration::from_micros(draws.next_u64() % 20_000);
            now
        });
        batch
    }

    /// A prompt that begins as others do, and at most half of the context.
    fn prompt(&mut self) -> Vec<u32> {
        let (vocab, context) = (self.engine.manifest().model.vocab, self.engine.manifest().limits.max_context as usize);
        let most = (context / 2).clamp(2, 64);
        let (text, common) = (self.below(3) as u32, self.below(most / 2));
        let mut prompt: Vec<u32> = (0..common as u32).map(|at| (at * at * 7 + text * 31 + 3) % vocab as u32).collect();
        let end = 1 + self.below(most - common);
        prompt.extend((0..end).map(|_| self.below(vocab as usize) as u32));
        prompt
    }

    fn request(&mut self, cancel: &Cancel) -> Request {
        let prompt = self.prompt();
        let sampler = match self.below(3) {
            0 => SamplerOptions::GREEDY,
            1 => SamplerOptions { temperature: 0.8, seed: Some(self.draws.next_u64()), ..SamplerOptions::GREEDY },
            _ => SamplerOptions {
                temperature: 1.2,
                top_k: 30,
                repetition_penalty: 1.2,
                seed: Some(self.draws.next_u64()),
                ..SamplerOptions::GREEDY
            },
        };
        let options = GenerateOptions {
            max_new: 1 + self.below(24),
            sampler,
            ignore_eos: self.below(2) == 0,
            cancel: cancel.clone(),
            ..GenerateOptions::default()
        };
        let snapshot_at = (0..self.below(3)).map(|_| 1 + self.below(prompt.len())).collect();
        let (n, priority) = (1 + self.below(3), self.below(5) as i32 - 2);
        Request { prompt, options, n, priority, snapshot_at, ..Request::default() }
    }

    /// Runs a round.
    ///
    /// # Panics
    /// If an answer is not as alone, or something is not given back.
    pub fn round(&mut self) {
        let free = self.engine.free();
        let mut batch = self.batch();
        let mut all: Vec<Told> = Vec::new();
        for _ in 0..10 + self.below(40) {
            match self.below(12) {
                0..=3 => {
                    let cancel = Cancel::new();
                    let request = self.request(&cancel);
                    let id = batch.submit(&self.engine, request.clone()).expect("a sound request");
                    let answers = vec![(Vec::new(), None); request.n];
                    all.push(Told { id, request, cancel, answers, is_cut: false });
                }
                4 => {
                    let at = self.below(all.len());
                    let by_id = self.below(2) == 0;
                    let Some(told) = all.get_mut(at) else { continue };
                    told.is_cut = true;
                    match by_id {
                        true => drop(batch.cancel(&mut self.engine, told.id).expect("a request of the batch")),
                        false => told.cancel.cancel(),
                    }
                }
                5 => {
                    let (budget, interval) = ([0, 3000, 1 << 16, 1 << 20][self.below(4)], self.below(40));
                    let cache = PrefixCache::new(budget).with_interval(interval);
                    batch.set_cache(&self.engine, cache).expect("an empty cache");
                }
                6 => drop(batch.take_cache()),
                7 => {
                    let n = 1 + self.below(40);
                    batch.set_step_tokens(&self.engine, n);
                }
                8 => self.moves(),
                _ => (0..self.below(12)).for_each(|_| self.step(&mut batch, &mut all)),
            }
        }
        while !batch.is_idle() {
            self.step(&mut batch, &mut all);
        }
        self.counts.preemptions += batch.n_preemptions();
        assert_eq!(batch.swapped_bytes(), 0, "states that gave way are left");
        drop(batch);
        assert_eq!(self.engine.free(), free, "slots and pages come back");
        all.iter().for_each(|told| self.compare(told));
        assert_eq!(self.engine.free(), free, "slots and pages come back");
        self.counts.rounds += 1;
    }

    fn step(&mut self, batch: &mut Batch, all: &mut [Told]) {
        self.counts.steps += 1;
        for event in batch.step(&mut self.engine).expect("a step") {
            let told = all.iter_mut().find(|told| told.id == event.request).expect("a request of this batch");
            let (tokens, finish) = &mut told.answers[event.choice];
            assert!(finish.is_none() && event.error.is_none(), "{event:?}");
            tokens.extend(event.token.as_ref().map(|token| token.token));
            *finish = event.finish;
        }
    }

    /// A sequence beside the batch, if there is room: read, kept, removed, restored and continued.
    fn moves(&mut self) {
        let free = self.engine.free();
        let prompt = self.prompt();
        let pages = prompt.len() as u64 / 16 + 2;
        if free.0 == 0 || free.1 < pages {
            return;
        }
        let sequence = self.engine.add_sequence().expect("a free slot");
        let (head, last) = prompt.split_at(prompt.len() - 1);
        if !head.is_empty() {
            self.engine.prefill(sequence, head, None, None).expect("room");
        }
        let snapshot = self.engine.snapshot(sequence).expect("a snapshot");
        let mut rows = Vec::new();
        let read = |engine: &mut Engine, sequence| {
            let logits = engine.prefill(sequence, last, None, None).expect("room");
            logits.row(0).iter().map(|value| value.to_bits()).collect::<Vec<u32>>()
        };
        rows.push(read(&mut self.engine, sequence));
        self.engine.remove_sequence(sequence).expect("the sequence");
        let again = self.engine.restore(&snapshot).expect("room");
        rows.push(read(&mut self.engine, again));
        self.engine.remove_sequence(again).expect("the sequence");
        assert_eq!(rows[0], rows[1], "a state that is restored goes on as it would have");
        assert_eq!(self.engine.free(), free, "slots and pages come back");
        self.counts.snapshots += 1;
    }

    fn compare(&mut self, told: &Told) {
        for ((tokens, finish), choice) in told.answers.iter().zip(0..) {
            let mut options = told.request.options.clone();
            options.cancel = Cancel::new();
            options.sampler.seed = options.sampler.seed.map(|seed| seed.wrapping_add(choice));
            let alone = self.engine.generate(&told.request.prompt, &options, |_| ControlFlow::Continue(()));
            let alone = alone.expect("a sound request");
            self.counts.answers += 1;
            self.counts.tokens += tokens.len() as u64;
            if told.is_cut {
                self.counts.cut += 1;
                assert!(alone.tokens.starts_with(tokens), "{:?} {tokens:?}", alone.tokens);
            } else {
                assert_eq!((&alone.tokens, Some(alone.finish)), (tokens, *finish), "{:?}", told.request);
            }
        }
    }
}

/// Bytes of the process that are resident.
pub fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) << 10
}
