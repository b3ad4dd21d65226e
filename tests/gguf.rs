//! GGUF files: every type of tensors against its formula, plans against those of the same weights in safetensors, vocabularies against
//! tokenizer.json and against SentencePiece's algorithm, and damaged files by name.

mod blocks;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use half::bf16;
use jamba_plan::format::WeightFormat;
use jamba_runtime::Tokenizer;
use jambac::compile::{Built, Progress, Request, build};
use jambac::manifest::{ModelFile, targets, weight_format};
use jambac_checkpoint::{Checkpoint, DType, JambaConfig, TensorInfo, Values};
use jambac_codegen::pack::Measure;
use jambac_models::jamba;
use jambac_models::tiny::{Storage, Tiny};
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize_to_file};

use crate::oracle::{logits, open};
use blocks::Type;
use writer::{File, Meta, Tensor};

const PROMPT: [u32; 9] = [1, 17, 99, 30, 4, 160, 71, 8, 12];

fn tiny() -> Tiny {
    Tiny { storage: Storage::All(jambac_checkpoint::DType::Bf16), ..Tiny::in_blocks(256) }
}

/// The type that llama.cpp would store a parameter in, if linears are stored in `of`.
fn type_of(name: &str, shape: &[usize], of: Type) -> Type {
    let is_linear = ["_proj.weight", "lm_head.weight"].iter().any(|ending| name.ends_with(ending));
    match () {
        () if name == "model.embed_tokens.weight" => Type::Bf16,
        // llama.cpp gives the output projection more bits.
        () if name == "lm_head.weight" && of == Type::Q4_0 => Type::Q6K,
        () if is_linear && (!of.is_blocks() || shape[shape.len() - 1].is_multiple_of(256)) => of,
        () => Type::F32,
    }
}

/// The values of a parameter, as the file holds them.
type Held = BTreeMap<String, (Vec<usize>, Vec<f64>)>;

/// A checkpoint's folder as a GGUF file with linears in `of`.
fn converted(folder: &Path, of: impl Fn(&str, &[usize]) -> Type) -> (File, Held) {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let parameters = jamba::bind(&checkpoint).unwrap();
    let mut file = File { version: 3, metadata: writer::sizes(checkpoint.config()), tensors: Vec::new() };
    let mut held = Held::new();
    for spec in jamba::table(checkpoint.config()) {
        let mut values = parameters.read_f32(&spec.name).unwrap();
        let of = of(&spec.name, &spec.shape);
        if of.is_blocks() {
            // Numbers of more than 8 bits, so that scales have more too.
            values.iter_mut().for_each(|value| *value *= 1.01);
        }
        let (tensor, values) = writer::tensor(&spec.name, &spec.shape, &values, of);
        file.tensors.push(tensor);
        held.insert(spec.name, (spec.shape, values));
    }
    (file, held)
}

/// A checkpoint's folder with these values: the embedding in bf16, all else in f32.
fn twin(of: &Path, held: &Held, config: &JambaConfig, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    std::fs::copy(of.join("config.json"), to.join("config.json")).unwrap();
    let mut tensors: Vec<(String, Vec<usize>, Dtype, Vec<u8>)> = Vec::new();
    for spec in jamba::table(config) {
        let (_, values) = &held[&spec.name];
        let size: usize = spec.tensor_shape().iter().product();
        for (name, values) in spec.tensor_names().into_iter().zip(values.chunks(size)) {
            let (dtype, bytes): (Dtype, Vec<u8>) = match spec.name == "model.embed_tokens.weight" {
                true => (Dtype::BF16, values.iter().flat_map(|&x| bf16::from_f64(x).to_le_bytes()).collect()),
                false => (Dtype::F32, values.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect()),
            };
            tensors.push((name, spec.tensor_shape().to_vec(), dtype, bytes));
        }
    }
    let view = |(name, shape, dtype, bytes): &'_ (String, Vec<usize>, Dtype, Vec<u8>)| -> (String, Vec<usize>, Dtype, Vec<u8>) {
        (name.clone(), shape.clone(), *dtype, bytes.clone())
    };
    let owned: Vec<_> = tensors.iter().map(view).collect();
    let views =
        owned.iter().map(|(name, shape, dtype, bytes)| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    serialize_to_file(views, None, &to.join("model.safetensors")).unwrap();
}

/// The plan of a folder or file, with linears in a format.
fn plan(model: &Path, format: Option<&str>, output: PathBuf) -> Built {
    let mut model = ModelFile::open(model).unwrap();
    model.build.targets = targets(&["x86-64-v3"]).unwrap();
    model.weights.default = format.map(|format| weight_format("weights.default", format).unwrap());
    model.limits.max_context = 64;
    let request = Request { measure: Measure::Loss, ..Request::new(model, output) };
    build(&request, &Progress::hidden()).unwrap()
}

#[test]
fn every_type_holds_the_values_of_its_formula() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("checkpoint");
    tiny().write(&dir, 5).unwrap();
    for of in Type::ALL {
        let (file, held) = converted(&dir, |name, shape| type_of(name, shape, of));
        let path = folder.path().join("x.gguf");
        file.write(&path);
        let checkpoint = Checkpoint::open(&path).unwrap();
        let parameters = jamba::bind(&checkpoint).unwrap();
        for (name, (_, values)) in &held {
            let found = parameters.read_f32(name).unwrap();
            let different = found.iter().zip(values).position(|(&found, &value)| found != value as f32);
            assert_eq!(different, None, "{of:?} {name}");
            // Ranges that begin and end inside of blocks.
            let tensor = &parameters.get(name).unwrap().tensors[0];
            for (start, n) in [(0, 1), (1, 30), (31, 2), (77, 300), (255, 2), (256, 512), (500, 13)] {
                if start + n <= tensor.n_elements() {
                    let mut part = vec![0.0; n];
                    tensor.range_f32(start, &mut part);
                    assert_eq!(part, found[start..start + n], "{of:?} {name} {start}");
                }
            }
        }
        assert_eq!(held.len(), parameters.iter().len());
    }
}

#[test]
fn plans_have_the_logits_of_the_same_weights_in_safetensors() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("checkpoint");
    tiny().write(&dir, 5).unwrap();
    for (of, format) in [
        (Type::F32, "f32"),
        (Type::F16, "f32"),
        (Type::Bf16, "bf16"),
        (Type::Q8_0, "int8"),
        (Type::Q4_0, "int4"),
        (Type::Q4K, "int8"),
        (Type::Q5K, "int8"),
        (Type::Q6K, "int8"),
    ] {
        let (file, held) = converted(&dir, |name, shape| type_of(name, shape, of));
        let path = folder.path().join("x.gguf");
        file.write(&path);
        let same = folder.path().join("same");
        twin(&dir, &held, &tiny().config().unwrap(), &same);
        // Blocks have a format by default; floating-point numbers are as wide as they are stored.
        let chosen = if of.is_blocks() { None } else { Some(format) };
        let built = plan(&path, chosen, folder.path().join("gguf.plan"));
        plan(&same, Some(format), folder.path().join("same.plan"));
        let [found, expected] =
            ["gguf.plan", "same.plan"].map(|name| logits(&mut open(&folder.path().join(name), 1), &PROMPT, 4));
        assert_eq!(found, expected, "{of:?}");
        if !of.is_blocks() {
            continue;
        }
        let lost = || built.losses.iter().map(|(_, loss)| loss).filter(|loss| loss.parameter != "lm_head.weight");
        let formats: BTreeSet<WeightFormat> = lost().map(|loss| loss.format).collect();
        assert_eq!(formats, [weight_format("", format).unwrap()].into(), "{of:?}");
        // The integers of Q4_0 stay, and their scales lose three bits.
        let most = if of == Type::Q4_0 { 1.0 / 256.0 } else { 0.02 };
        assert!(lost().all(|loss| loss.relative_rms < most), "{of:?} {:?}", built.losses);
    }
}

#[test]
fn a_trained_model_keeps_its_words_its_template_and_its_sizes() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny");
    let folder = tempfile::tempdir().unwrap();
    let (mut file, _) = converted(&tiny, |name, shape| match shape[shape.len() - 1] % 32 {
        0 if name.ends_with("_proj.weight") => Type::Q8_0,
        _ => Type::F32,
    });
    let original = Checkpoint::open(&tiny).unwrap();
    let json = serde_json::from_slice(original.tokenizer().tokenizer.as_deref().unwrap()).unwrap();
    file.metadata.extend(writer::vocabulary(&json, original.tokenizer().chat_template.as_deref()));
    let path = folder.path().join("tiny-q8_0.gguf");
    file.write(&path);
    let read = Checkpoint::open(&path).unwrap();
    let sizes = |config: &JambaConfig| JambaConfig { quantization: None, ..config.clone() };
    assert_eq!(sizes(read.config()), sizes(original.config()));
    // generation_config.json adds an end token.
    assert_eq!((read.eos(), original.eos()), (&[2][..], &[2, 201][..]));
    assert_eq!(read.tokenizer().chat_template, original.tokenizer().chat_template);
    let tokenizer = |checkpoint: &Checkpoint| {
        let files = checkpoint.tokenizer();
        let (json, config) = (files.tokenizer.as_deref().unwrap(), files.tokenizer_config.as_deref());
        Tokenizer::new(json, config, checkpoint.config().bos).unwrap()
    };
    let (found, expected) = (tokenizer(&read), tokenizer(&original));
    let text = std::fs::read_to_string(tiny.join("heldout.txt")).unwrap();
    for line in text.lines().chain(["", "<|startoftext|>a<|endoftext|>", "Größe 日本 \u{1f600}\r\n\t it's  12,345"])
    {
        assert_eq!(found.encode(line).unwrap(), expected.encode(line).unwrap(), "{line:?}");
    }
    let built = plan(&path, None, folder.path().join("x.plan"));
    let engine = open(&built.summary.path, 1);
    assert_eq!(engine.tokenizer().unwrap().encode("Once").unwrap(), expected.encode("Once").unwrap());
}

/// SentencePiece's merges: of all neighbours that make a piece, those with the best score, the leftmost of several.
fn sentencepiece(text: &str, scores: &BTreeMap<String, f32>, ids: &BTreeMap<String, u32>) -> Vec<u32> {
    let mut parts: Vec<String> = text.replace(' ', "\u{2581}").chars().map(String::from).collect();
    loop {
        let mut best: Option<(f32, usize)> = None;
        for (at, pair) in parts.windows(2).enumerate() {
            if let Some(&score) = scores.get(&pair.concat())
                && best.is_none_or(|(known, _)| score > known)
            {
                best = Some((score, at));
            }
        }
        let Some((_, at)) = best else { break };
        let joined = parts[at..at + 2].concat();
        parts.splice(at..at + 2, [joined]);
    }
    let of_part = |part: &String| match ids.get(part) {
        Some(&id) => vec![id],
        None => part.bytes().map(|byte| ids[&format!("<0x{byte:02X}>")]).collect(),
    };
    parts.iter().flat_map(of_part).collect()
}

#[test]
fn sentencepiece_vocabularies_cut_texts_as_sentencepiece_does() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("checkpoint");
    Tiny { vocab: 300, ..tiny() }.write(&dir, 5).unwrap();
    let (plain, _) = converted(&dir, |name, shape| type_of(name, shape, Type::F32));
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    let pieces = [
        "ab",
        "\u{2581}a",
        "bc",
        "abc",
        "\u{2581}ab",
        "ca",
        "cab",
        "\u{2581}\u{2581}",
        "aa",
        "bcab",
        "\u{2581}abc",
        "a",
        "b",
        "c",
        "d",
        "\u{2581}",
    ];
    tokens.extend(pieces.map(str::to_owned));
    tokens.push("<|turn|>".to_owned());
    let mut types = [vec![2, 3, 3], vec![6; 256], vec![1; pieces.len()]].concat();
    types.push(4);
    let ids: BTreeMap<String, u32> = tokens.iter().cloned().zip(0..).collect();
    let scores: BTreeMap<String, f32> =
        pieces.iter().enumerate().map(|(rank, piece)| ((*piece).to_owned(), -(rank as f32))).collect();
    let of_tokens: Vec<f32> = tokens.iter().map(|token| scores.get(token).copied().unwrap_or(0.0)).collect();
    // The converter writes one score for all where there is no tokenizer.model: the order of the pieces is that of their scores.
    for (of_tokens, has_prefix) in [(of_tokens, false), (vec![-1000.0; tokens.len()], true)] {
        let mut file = plain.clone();
        file.metadata.extend([
            ("tokenizer.ggml.model".to_owned(), Meta::Text("llama".into())),
            ("tokenizer.ggml.tokens".to_owned(), Meta::Texts(tokens.clone())),
            ("tokenizer.ggml.scores".to_owned(), Meta::F32s(of_tokens)),
            ("tokenizer.ggml.token_type".to_owned(), Meta::I32s(types.clone())),
            ("tokenizer.ggml.add_space_prefix".to_owned(), Meta::Bool(has_prefix)),
            ("tokenizer.ggml.eot_token_id".to_owned(), Meta::U32(275)),
        ]);
        let path = folder.path().join("x.gguf");
        file.write(&path);
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!(checkpoint.eos(), [2, 275]);
        let files = checkpoint.tokenizer();
        let json = files.tokenizer.as_deref().unwrap();
        let tokenizer = Tokenizer::new(json, files.tokenizer_config.as_deref(), Some(1)).unwrap();
        let mut seed = 7u64;
        for length in 0..60 {
            let letter = |_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ['a', 'b', 'c', 'a', 'b', 'd', ' ', ' ', 'é', '日'][(seed >> 33) as usize % 10]
            };
            let text: String = (0..length).map(letter).collect();
            let prefixed = if has_prefix && length > 0 { format!(" {text}") } else { text.clone() };
            let mut expected = vec![1];
            expected.extend(sentencepiece(&prefixed, &scores, &ids));
            let found = tokenizer.encode(&text).unwrap();
            assert_eq!(found, expected, "{text:?}");
            assert_eq!(tokenizer.decode(&found[1..]).unwrap(), text);
        }
        assert!(tokenizer.encode("ab<|turn|>").unwrap().contains(&275));
    }
}

#[test]
fn a_model_in_several_files_is_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("checkpoint");
    tiny().write(&dir, 5).unwrap();
    let (whole, _) = converted(&dir, |name, shape| type_of(name, shape, Type::Q8_0));
    let at = |number: usize| folder.path().join(format!("x-{number:05}-of-00002.gguf"));
    let (first, second) = whole.tensors.split_at(7);
    for (number, tensors) in [(1, first), (2, second)] {
        let mut metadata = if number == 1 { whole.metadata.clone() } else { Vec::new() };
        metadata.push(("split.count".to_owned(), Meta::U32(2)));
        File { version: 3, metadata, tensors: tensors.to_vec() }.write(&at(number));
    }
    whole.write(&folder.path().join("x.gguf"));
    let [one, two] = [folder.path().join("x.gguf"), at(1)].map(|path| Checkpoint::open(&path).unwrap());
    let [one, two] = [&one, &two].map(|checkpoint| jamba::bind(checkpoint).unwrap());
    for (name, _) in one.iter() {
        assert_eq!(one.read_f32(name).unwrap(), two.read_f32(name).unwrap(), "{name}");
    }
    let error = Checkpoint::open(&at(2)).unwrap_err().to_string();
    assert!(error.contains("one of 2 files (split.count), expected the first of them"), "{error}");
    std::fs::remove_file(at(2)).unwrap();
    let error = Checkpoint::open(&at(1)).unwrap_err().to_string();
    assert!(error.contains("no such file, expected file 2 of 2"), "{error}");
}

/// A change to a file, and what the error says.
type Damage = (&'static str, fn(&mut File), &'static str);

#[test]
fn damaged_files_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("checkpoint");
    tiny().write(&dir, 5).unwrap();
    let (good, _) = converted(&dir, |name, shape| type_of(name, shape, Type::Q8_0));
    let path = folder.path().join("x.gguf");
    let opened = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let checkpoint = Checkpoint::open(&path).map_err(|error| error.to_string())?;
        jamba::bind(&checkpoint).map(|_| ()).map_err(|error| error.to_string())
    };
    opened(&good.bytes()).unwrap();
    let changes: [Damage; 20] = [
        ("version", |file| file.version = 1, "GGUF version 1, expected version 2 or 3"),
        ("order of bytes", |file| file.version = 3u32.swap_bytes(), "a big-endian GGUF file"),
        (
            "architecture",
            |file| *file.key("general.architecture") = Meta::Text("llama".into()),
            "general.architecture: found \"llama\", expected \"jamba\"",
        ),
        ("size", |file| file.drop_key("jamba.block_count"), "jamba.block_count: found nothing, expected a count"),
        (
            "kind of value",
            |file| *file.key("jamba.block_count") = Meta::Text("2".into()),
            "jamba.block_count: found \"2\", expected a count",
        ),
        (
            "width",
            |file| *file.key("jamba.ssm.inner_size") = Meta::U32(500),
            "jamba.ssm.inner_size: found 500, expected a multiple of the width, 256",
        ),
        (
            "epsilon",
            |file| *file.key("jamba.attention.layer_norm_rms_epsilon") = Meta::F32(f32::NAN),
            "layer_norm_rms_epsilon: found null, expected a number",
        ),
        (
            "key twice",
            |file| file.metadata.push(("jamba.block_count".into(), Meta::U32(2))),
            "jamba.block_count: found it twice, expected it once",
        ),
        (
            "unknown key",
            |file| file.metadata.push(("jamba.attention.scale".into(), Meta::F32(2.0))),
            "jamba.attention.scale: unknown key that could change the arithmetic: found 2",
        ),
        (
            "alignment",
            |file| file.metadata.push(("general.alignment".into(), Meta::U32(7))),
            "general.alignment: found 7, expected a power of two",
        ),
        (
            "embedding",
            |file| file.tensors.retain(|tensor| tensor.name != "token_embd.weight"),
            "tensor token_embd.weight: found no such tensor, expected the embedding",
        ),
        (
            "missing tensor",
            |file| file.tensors.retain(|tensor| tensor.name != "blk.0.ssm_d"),
            "tensor model.layers.0.mamba.D: found nothing",
        ),
        (
            "tensor twice",
            |file| {
                let again = file.tensor("blk.0.ssm_d").clone();
                file.tensors.push(again);
            },
            "tensor blk.0.ssm_d: found it in",
        ),
        (
            "extra tensor",
            |file| {
                let extra = Tensor { name: "blk.0.ssm_e".into(), ..file.tensor("blk.0.ssm_d").clone() };
                file.tensors.push(extra);
            },
            "tensor blk.0.ssm_e: found shape [512], expected no such tensor",
        ),
        (
            "type",
            |file| file.tensor("output.weight").number = 20,
            "tensor output.weight: found type 20 IQ4_NL, expected F32",
        ),
        (
            "dimensions",
            |file| file.tensor("output.weight").shape = vec![1; 5],
            "tensor output.weight: found 5 dimensions, expected 1 to 4",
        ),
        (
            "empty",
            |file| file.tensor("output.weight").shape = vec![0, 256],
            "tensor output.weight: found Q8_0 [0, 256]",
        ),
        (
            "row of no whole blocks",
            |file| file.tensor("output.weight").shape = vec![256, 173],
            "rows of whole blocks of 32",
        ),
        ("huge", |file| file.tensor("output.weight").shape = vec![1 << 40, 1 << 40], "that can be addressed"),
        ("places", |file| file.tensor("blk.0.ssm_d").bytes.extend([0; 64]), "where the tensor before it ends"),
    ];
    for (what, change, says) in changes {
        let mut file = good.clone();
        change(&mut file);
        let error = opened(&file.bytes()).expect_err(what);
        assert!(error.contains(says) && error.contains("x.gguf"), "{what}: {error}");
    }
    for (what, change, says) in vocabularies() {
        let mut file = good.clone();
        file.metadata.extend(
            [
                ("tokenizer.ggml.model", Meta::Text("gpt2".into())),
                ("tokenizer.ggml.pre", Meta::Text("gpt-2".into())),
                ("tokenizer.ggml.tokens", Meta::Texts(vec!["a".into(), "b".into(), "ab".into()])),
                ("tokenizer.ggml.token_type", Meta::I32s(vec![1; 3])),
                ("tokenizer.ggml.merges", Meta::Texts(vec!["a b".into()])),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        );
        change(&mut file);
        let error = opened(&file.bytes()).expect_err(what);
        assert!(error.contains(says), "{what}: {error}");
    }

    let bytes = good.bytes();
    for (from, to) in [(0, 4000), (bytes.len() - 4000, bytes.len())] {
        for length in (from..to).step_by(7) {
            assert!(opened(&bytes[..length]).is_err(), "cut to {length} bytes");
        }
    }
    let error = opened(&bytes[..bytes.len() - 1]).unwrap_err();
    assert!(error.contains("all of them in the file (it is truncated)"), "{error}");
    assert!(opened(&[&bytes[..], &[0; 64]].concat()).unwrap_err().contains("where the last tensor ends"));
    // Any byte of the header: an error or a model, never a panic.
    for at in (0..3000).step_by(3) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x55;
        let _ = opened(&bytes);
    }
}

fn vocabularies() -> [Damage; 6] {
    [
        (
            "model",
            |file| *file.key("tokenizer.ggml.model") = Meta::Text("bert".into()),
            "tokenizer.ggml.model: found \"bert\", expected \"llama\" or \"gpt2\"",
        ),
        (
            "words",
            |file| *file.key("tokenizer.ggml.pre") = Meta::Text("x".into()),
            "tokenizer.ggml.pre: found \"x\", expected \"gpt-2\", \"llama-bpe\" or \"qwen2\"",
        ),
        ("merges", |file| file.drop_key("tokenizer.ggml.merges"), "tokenizer.ggml.merges: found nothing"),
        (
            "merge",
            |file| *file.key("tokenizer.ggml.merges") = Meta::Texts(vec!["ab".into()]),
            "tokenizer.ggml.merges: found \"ab\", expected two tokens with a space between",
        ),
        (
            "types",
            |file| *file.key("tokenizer.ggml.token_type") = Meta::I32s(vec![1]),
            "tokenizer.ggml.token_type: found 1 types of 3 tokens",
        ),
        (
            "tokens",
            |file| *file.key("tokenizer.ggml.tokens") = Meta::Texts(vec!["a".into(), "a".into(), "b".into()]),
            "tokenizer.ggml.tokens: found \"a\" as tokens 0 and 1, expected each text once",
        ),
    ]
}

/// Recorded by ggml's own package: `tests/record/blocks.py`.
#[test]
fn blocks_have_the_values_that_ggml_gives_them() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/gguf/blocks.safetensors");
    let file = std::fs::read(path).unwrap();
    let recorded = safetensors::SafeTensors::deserialize(&file).unwrap();
    for dtype in [DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0, DType::Q4K, DType::Q5K, DType::Q6K] {
        let tensor = |part: &str| recorded.tensor(&format!("{dtype}.{part}")).unwrap();
        let (bytes, values) = (tensor("bytes"), tensor("values"));
        let shape = values.shape().to_vec();
        let byte_range = 0..bytes.data().len();
        let info = TensorInfo { name: "x".into(), shard_idx: 0, dtype, shape, byte_range, values: Values::Same };
        let found = jambac_checkpoint::TensorView { info: &info, bytes: bytes.data() }.to_f32_vec();
        let (expected, _) = values.data().as_chunks();
        let expected: Vec<f32> = expected.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        assert_eq!(found, expected, "{dtype}");
    }
}
