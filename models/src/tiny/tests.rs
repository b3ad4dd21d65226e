//! Miniatures are whole checkpoints, and the same ones every time.

use super::*;
use crate::jamba::bind;
use jambac_checkpoint::Checkpoint;

/// Every file of a miniature, by name.
fn files(tiny: &Tiny, seed: u64) -> BTreeMap<String, Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    tiny.write(folder.path(), seed).unwrap();
    fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
        })
        .collect()
}

#[test]
fn every_preset_is_a_whole_checkpoint() {
    for (preset, tiny) in Tiny::presets() {
        let folder = tempfile::tempdir().unwrap();
        tiny.write(folder.path(), 3).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(*checkpoint.config(), tiny.config().unwrap(), "{preset}");
        let parameters = bind(&checkpoint).unwrap();
        let all: Vec<f32> = parameters.iter().flat_map(|(_, parameter)| parameter.to_f32_vec()).collect();
        assert!(all.iter().all(|x| x.is_finite()), "{preset}");
        assert!(all.iter().filter(|&&x| x == 0.0).count() < 10, "{preset}");
    }
}

#[test]
fn a_seed_gives_the_same_bytes_and_another_seed_others() {
    let tiny = Tiny::with_biases();
    assert_eq!(files(&tiny, 1), files(&tiny, 1));
    let shard = "model-00002-of-00003.safetensors";
    assert_ne!(files(&tiny, 1)[shard], files(&tiny, 2)[shard]);
    assert_eq!(
        files(&tiny, 1).into_keys().collect::<Vec<_>>(),
        [
            "config.json",
            "model-00001-of-00003.safetensors",
            shard,
            "model-00003-of-00003.safetensors",
            "model.safetensors.index.json"
        ]
    );
}

#[test]
fn splitmix64_is_the_published_one() {
    // The first numbers of SplittableRandom's mixer from seed 1234567.
    let mut random = SplitMix64(1_234_567);
    assert_eq!([random.next(), random.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
}

#[test]
fn normal_numbers_have_mean_0_and_deviation_1() {
    let mut random = SplitMix64(9);
    let n = 20_000.0;
    let (mut sum, mut squares) = (0.0, 0.0);
    for _ in 0..20_000 {
        let x = random.normal();
        sum += x;
        squares += x * x;
    }
    assert!((sum / n).abs() < 0.02 && (squares / n - 1.0).abs() < 0.03, "{} {}", sum / n, squares / n);
}

#[test]
fn sizes_that_contradict_each_other_are_refused() {
    let error = Tiny { kv_heads: 3, ..Tiny::base() }.config().unwrap_err();
    assert!(error.to_string().contains("num_key_value_heads"), "{error}");
}
