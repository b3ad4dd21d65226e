//! A sequence's logits are the same bits in any batch, for any split of its tokens, with any number of threads, prefilled or
//! decoded, in new or reused memory. Checked for every plan in `PLANS`.

use std::path::PathBuf;

use jamba_runtime::{DebugOptions, Engine, Feed, OpenOptions, Outputs, SequenceId};
use jambac::compile::{Progress, Request, build};
use jambac::manifest::{ModelFile, kv_dtype, targets, weight_format};

use crate::batching::Draws;
use crate::fixtures::{Fixture, runs};

/// Length of the prompt that is split at every place.
const SHORT: usize = 64;

/// Length of the prompts that are split at random.
const LONG: usize = 300;

/// Largest batch.
const SLOTS: usize = 6;

/// Model and build options of a plan.
struct Recipe {
    checkpoint: &'static str,
    fusion: &'static str,
    weights: Option<&'static str>,
    kv: &'static str,
    target: &'static str,
}

impl Recipe {
    fn build(&self, folder: &std::path::Path) -> PathBuf {
        let mut model = ModelFile::open(&Fixture::open(self.checkpoint).checkpoint).unwrap();
        model.build.targets = targets(&[self.target]).unwrap();
        model.build.fusion = self.fusion.parse().unwrap();
        model.weights.default = self.weights.map(|format| weight_format("weights.default", format).unwrap());
        model.limits.kv_dtype = Some(kv_dtype(self.kv).unwrap());
        model.limits.max_context = LONG as u64;
        model.limits.max_sequences = SLOTS as u64;
        model.limits.kv_tokens = None;
        model.limits.prefill_chunk = LONG as u64;
        model.limits.max_outputs = LONG as u64;
        let output = folder.join("same.plan");
        let request = Request::new(model, output.clone());
        build(&request, &Progress::hidden()).unwrap();
        output
    }
}

/// Bits of the logits of every token.
type Bits = Vec<Vec<u32>>;

fn step(engine: &mut Engine, feeds: &[Feed<'_>]) -> Bits {
    let logits = engine.step(feeds).unwrap();
    logits.rows().map(|row| row.iter().map(|logit| logit.to_bits()).collect()).collect()
}

/// Feeds a sequence in chunks of these sizes, then the remaining tokens in one chunk.
fn chunks(engine: &mut Engine, tokens: &[u32], sizes: impl IntoIterator<Item = usize>) -> Bits {
    let sequence = engine.add_sequence().unwrap();
    let mut bits = Bits::new();
    let mut sizes = sizes.into_iter();
    while bits.len() < tokens.len() {
        let rest = &tokens[bits.len()..];
        let size = sizes.next().unwrap_or(rest.len()).clamp(1, rest.len());
        bits.extend(step(engine, &[Feed { sequence, tokens: &rest[..size], outputs: Outputs::All }]));
    }
    engine.remove_sequence(sequence).unwrap();
    bits
}

/// Progress of a sequence in a ragged batch.
struct Member {
    sequence: SequenceId,
    tokens: Vec<u32>,
    bits: Bits,
}

/// Runs the tokens in a batch with other sequences of random lengths that join and leave. Returns the logits of the tokens, and
/// of the last other sequence.
fn in_company(engine: &mut Engine, tokens: &[u32], companions: usize, draws: &mut Draws) -> Bits {
    let vocab = engine.manifest().model.vocab;
    let join =
        |engine: &mut Engine, tokens| Member { sequence: engine.add_sequence().unwrap(), tokens, bits: Bits::new() };
    let mut members: Vec<Member> = (0..companions)
        .map(|_| {
            let n = 1 + draws.below(80);
            join(engine, draws.tokens(n, vocab))
        })
        .collect();
    let place = draws.below(companions + 1);
    members.insert(place, join(engine, tokens.to_vec()));
    while members[place].bits.len() < tokens.len() {
        // Some sequences decode, some prefill, some pause; a finished one is replaced by a new one.
        let sizes: Vec<usize> = members.iter().map(|_| [0, 1, 1, 2, 5, 17, 40][draws.below(7)]).collect();
        let feeds: Vec<Feed<'_>> = (members.iter().zip(&sizes))
            .filter(|&(_, &size)| size > 0)
            .map(|(member, &size)| {
                let rest = &member.tokens[member.bits.len()..];
                Feed { sequence: member.sequence, tokens: &rest[..size.min(rest.len())], outputs: Outputs::All }
            })
            .collect();
        if feeds.is_empty() {
            continue;
        }
        let counts: Vec<usize> = feeds.iter().map(|feed| feed.tokens.len()).collect();
        let mut rows = step(engine, &feeds).into_iter();
        let fed = members.iter_mut().zip(&sizes).filter(|&(_, &size)| size > 0);
        for ((member, _), count) in fed.zip(counts) {
            member.bits.extend(rows.by_ref().take(count));
        }
        for (index, member) in members.iter_mut().enumerate() {
            if index != place && member.bits.len() == member.tokens.len() {
                engine.remove_sequence(member.sequence).unwrap();
                let n = 1 + draws.below(80);
                *member = join(engine, draws.tokens(n, vocab));
            }
        }
    }
    for member in &members {
        engine.remove_sequence(member.sequence).unwrap();
    }
    members.swap_remove(place).bits
}

fn check(recipe: Recipe) {
    let folder = tempfile::tempdir().unwrap();
    let path = recipe.build(folder.path());
    let open = |threads, check| {
        Engine::open(
            &path,
            OpenOptions {
                threads: Some(threads),
                debug: DebugOptions { check, ..DebugOptions::default() },
                ..OpenOptions::default()
            },
        )
        .unwrap()
    };
    let mut engines: Vec<Engine> = (1..=4).map(|threads| open(threads, false)).collect();
    let fixture = Fixture::open(recipe.checkpoint);
    let long = fixture.prompt(LONG).ids;
    let short = &long[..SHORT];
    let mut draws = Draws::new(11);

    let whole = chunks(&mut engines[0], &long, []);
    let expected = &whole[..SHORT];
    for engine in &mut engines {
        let threads = engine.threads();
        assert!(chunks(engine, &long, []) == whole, "{threads} threads");
        assert!(chunks(engine, short, []) == expected, "a shorter prompt on {threads} threads");
    }
    for split in 1..SHORT {
        let engine = &mut engines[split % 4];
        assert!(chunks(engine, short, [split]) == expected, "split at {split}, {} threads", engine.threads());
    }
    for engine in &mut engines[..2] {
        assert!(chunks(engine, short, [1; SHORT]) == expected, "decoded on {} threads", engine.threads());
        let sizes: Vec<usize> = (0..LONG).map(|_| [1, 1, 3, 16, 61][draws.below(5)]).collect();
        assert!(chunks(engine, &long, sizes.iter().copied()) == whole, "split as {sizes:?}");
    }
    for (companions, engine) in [(1, 1), (SLOTS - 1, 2), (2, 3), (SLOTS - 1, 0)] {
        let engine = &mut engines[engine];
        let found = in_company(engine, short, companions, &mut draws);
        assert!(found == expected, "among {companions}, {} threads", engine.threads());
    }
    // A checking engine fills unused memory with NaN: new memory, and the state of removed sequences.
    let mut poisoned = open(2, true);
    assert!(chunks(&mut poisoned, short, [5, 1, 20]) == expected, "new memory");
    assert!(in_company(&mut poisoned, short, SLOTS - 1, &mut draws) == expected, "among others, checked");
    assert!(chunks(&mut poisoned, short, [33]) == expected, "used memory");
}

macro_rules! plans {
    ($($name:ident: $checkpoint:literal, fusion $fusion:literal, weights $weights:expr, kv $kv:literal, $target:literal;)*) => {$(
        #[test]
        fn $name() {
            if runs($target) {
                check(Recipe { checkpoint: $checkpoint, fusion: $fusion, weights: $weights, kv: $kv, target: $target });
            }
        }
    )*};
}

plans! {
    tiny_fused: "tiny", fusion "all", weights None, kv "f32", "x86-64-v3";
    tiny_unfused: "tiny", fusion "none", weights None, kv "f32", "x86-64-v3";
    odd_fused: "odd", fusion "all", weights None, kv "f32", "x86-64-v3";
    odd_unfused: "odd", fusion "none", weights None, kv "f32", "x86-64-v3";
    odd_f32_with_bf16_keys: "odd", fusion "all", weights Some("f32"), kv "bf16", "x86-64-v3";
    tiny_int8: "tiny", fusion "all", weights Some("int8"), kv "f32", "x86-64-v3";
    odd_int8_unfused: "odd", fusion "none", weights Some("int8"), kv "f32", "x86-64-v3";
    odd_int4: "odd", fusion "all", weights Some("int4"), kv "f32", "x86-64-v3";
    odd_int3: "odd", fusion "all", weights Some("int3"), kv "f32", "x86-64-v3";
    odd_bf16_pairs: "odd", fusion "all", weights Some("bf16"), kv "f32", "x86-64-v4-bf16";
    odd_bf16_tiles: "odd", fusion "all", weights Some("bf16"), kv "f32", "x86-64-v4-amx-bf16";
    tiny_bf16_tiles_unfused: "tiny", fusion "none", weights Some("bf16"), kv "f32", "x86-64-v4-amx-bf16";
    odd_int8_tiles: "odd", fusion "all", weights Some("int8"), kv "f32", "x86-64-v4-amx";
    odd_int4_tiles: "odd", fusion "all", weights Some("int4"), kv "f32", "x86-64-v4-amx";
}
