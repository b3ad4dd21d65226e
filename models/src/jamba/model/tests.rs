//! The graph's text, its invariants, and the interpreter's results for miniatures.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;

use expect_test::expect_file;
use jambac_checkpoint::Checkpoint;
use jambac_graph::{Op, text, verify};
use jambac_reference::{Batch, Interpreter, State, Tolerance, compare};

use super::*;
use crate::jamba::{Parameters, bind};
use crate::tiny::Tiny;

const F32: &dyn Fn(&str) -> DType = &|_| DType::F32;
const BF16: &dyn Fn(&str) -> DType = &|_| DType::Bf16;

/// The two kinds of mixer and of feed-forward in two layers: Mamba and MLP, attention and experts.
fn two_layers() -> Tiny {
    Tiny { layers: 2, attention: (2, 1), ..Tiny::base() }
}

#[test]
fn two_layers_in_full() {
    let graph = prefill(&two_layers().config().unwrap(), BF16, &Options::default());
    expect_file!["two_layers.graph"].assert_eq(&text::print(&graph));
}

/// Verifies, and reads every parameter of the table at the table's shape.
fn check(config: &JambaConfig) {
    for kv_dtype in [DType::F32, DType::Bf16] {
        for (entry, graph) in [
            ("prefill", prefill(config, BF16, &Options { kv_dtype })),
            ("decode", decode(config, BF16, &Options { kv_dtype })),
        ] {
            verify::verify(&graph).unwrap();
            assert_eq!((graph.name.as_str(), graph.one_token), (entry, entry == "decode"));
            let parameters: BTreeSet<(String, Vec<Dim>)> = graph
                .order()
                .into_iter()
                .filter_map(|node| match graph.op(node) {
                    Op::Parameter { name, ty } => Some((name.clone(), ty.shape.clone())),
                    _ => None,
                })
                .collect();
            let dims = |shape: Vec<usize>| shape.into_iter().map(Dim::Fixed).collect();
            let expected = table(config).into_iter().map(|spec| (spec.name, dims(spec.shape))).collect();
            assert_eq!(parameters, expected);
        }
    }
}

#[test]
fn every_miniature_verifies() {
    for (_, tiny) in Tiny::presets() {
        check(&tiny.config().unwrap());
    }
}

#[test]
fn the_family_verifies() {
    for model in ["jamba-3b", "jamba-mini", "jamba-large"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(model).join("config.json");
        check(&JambaConfig::read(&path).unwrap());
    }
}

/// The interpreter's view of a bound checkpoint.
struct Bound<'c>(Parameters<'c>);

impl jambac_reference::Parameters for Bound<'_> {
    fn parameter(&self, name: &str) -> Option<Cow<'_, [f32]>> {
        self.0.read_f32(name).ok().map(Cow::Owned)
    }
}

const PROMPT: [u32; 12] = [1, 20, 33, 7, 7, 150, 2, 90, 41, 64, 8, 111];

#[test]
fn chunks_give_the_bits_of_the_whole() {
    for (preset, tiny) in Tiny::presets() {
        let folder = tempfile::tempdir().unwrap();
        tiny.write(folder.path(), 5).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let parameters = Bound(bind(&checkpoint).unwrap());
        for kv_dtype in [DType::F32, DType::Bf16] {
            let graph = prefill(checkpoint.config(), &|name| parameters.0.dtype(name), &Options { kv_dtype });
            let interpreter = Interpreter::new(&graph, &parameters).unwrap();
            let mut whole = State::new(1);
            let expected = interpreter.run(&Batch::one(&PROMPT), &mut whole).unwrap()["logits"].clone();
            for chunk in [1, 5] {
                let mut state = State::new(1);
                let mut logits = Vec::new();
                for ids in PROMPT.chunks(chunk) {
                    let out = interpreter.run(&Batch::one(ids), &mut state).unwrap();
                    logits.extend_from_slice(out["logits"].as_f32().unwrap());
                }
                let report = compare(&logits, expected.as_f32().unwrap(), Tolerance::EXACT);
                assert!(report.ok(), "{preset}, {kv_dtype} cache, chunks of {chunk}: {report}");
                assert_eq!(state, whole, "{preset}, {kv_dtype} cache, chunks of {chunk}");
            }
        }
    }
}

#[test]
fn a_sequence_in_a_batch_gives_the_bits_of_one_alone() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::odd().write(folder.path(), 6).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let parameters = Bound(bind(&checkpoint).unwrap());
    let graph = prefill(checkpoint.config(), F32, &Options::default());
    let interpreter = Interpreter::new(&graph, &parameters).unwrap();
    let mut state = State::new(3);
    let (a, b) = PROMPT.split_at(5);
    let together = interpreter.run(&Batch::ragged(&[a, &[], b]), &mut state).unwrap();
    let mut alone = Vec::new();
    for ids in [a, b] {
        let out = interpreter.run(&Batch::one(ids), &mut State::new(1)).unwrap();
        alone.extend_from_slice(out["logits"].as_f32().unwrap());
    }
    assert_eq!(together["logits"].as_f32().unwrap(), alone);
    assert!(state.sequence(1).all(|(_, tensor)| tensor.as_f32().unwrap().iter().all(|&x| x == 0.0)));
}

#[test]
fn the_cache_dtype_matters() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::base().write(folder.path(), 7).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let parameters = Bound(bind(&checkpoint).unwrap());
    let logits = [DType::F32, DType::Bf16].map(|kv_dtype| {
        let graph = prefill(checkpoint.config(), F32, &Options { kv_dtype });
        let batch = Batch { rows: vec![PROMPT.len() - 1], ..Batch::one(&PROMPT) };
        jambac_reference::interpret(&graph, &parameters, &batch, &mut State::new(1)).unwrap()["logits"].clone()
    });
    let report = compare(logits[1].as_f32().unwrap(), logits[0].as_f32().unwrap(), Tolerance::abs(0.05));
    assert!(report.ok() && report.max_abs > 1e-5, "{report}");
}
