//! Whole folders: valid ones, and every fault of shards.

use std::fs;
use std::path::Path;

use expect_test::{Expect, expect};
use half::{bf16, f16};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Checkpoint, DType, Ignore, Links};

const CONFIG: &str = r#"{"model_type": "jamba", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 8, "vocab_size": 128}"#;

/// A folder of `files`, and a config.json unless they have one.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("config.json"), CONFIG).unwrap();
    for (name, content) in files {
        fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

/// Why `path` is refused, with DIR for the folder, as a line.
fn error_of(path: &Path, dir: &TempDir) -> String {
    let error = Checkpoint::open(path).expect_err("a broken folder");
    format!("{error}\n").replace(dir.path().to_str().unwrap(), "DIR")
}

/// Refuses the folder of `files`, with DIR for the folder.
fn refused(files: &[(&str, &[u8])], expected: Expect) {
    let dir = folder(files);
    expected.assert_eq(&error_of(dir.path(), &dir));
}

/// A file with one tensor, two f32.
fn one(name: &str) -> Vec<u8> {
    serialize(&[(name, safetensors::Dtype::F32, vec![2], &[0; 8])])
}

/// An index file.
fn index(weight_map: Value) -> Vec<u8> {
    json!({"metadata": {"total_size": 16}, "weight_map": weight_map}).to_string().into_bytes()
}

/// A file written by the safetensors crate.
fn serialize(tensors: &[(&str, safetensors::Dtype, Vec<usize>, &[u8])]) -> Vec<u8> {
    let view = |dtype, shape: &Vec<usize>, bytes| safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes);
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| (*name, view(*dtype, shape, bytes).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

#[test]
fn opens_shards_of_mixed_dtypes() {
    let f32s: Vec<u8> = [1.5f32, -2.0, 3.25, 1e-30, 0.0, -0.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let bf16s: Vec<u8> = [1.5, -2.0, 3.25].iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
    let f16s: Vec<u8> = [0.5, 65504.0].iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
    let first = serialize(&[("c", safetensors::Dtype::F32, vec![2, 3], &f32s)]);
    let second = serialize(&[
        ("a", safetensors::Dtype::BF16, vec![3], &bf16s),
        ("b", safetensors::Dtype::F16, vec![1, 2], &f16s),
    ]);
    let list = index(json!({"a": "2.safetensors", "b": "2.safetensors", "c": "1.safetensors"}));
    let dir = folder(&[
        ("1.safetensors", &first),
        ("2.safetensors", &second),
        ("model.safetensors.index.json", &list),
        ("pytorch_model.bin", b"left over"),
    ]);

    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let tensors: Vec<_> = checkpoint.tensors().map(|t| (t.name.as_str(), t.dtype, t.shape.as_slice())).collect();
    let expected: [(_, _, &[usize]); 3] =
        [("a", DType::Bf16, &[3]), ("b", DType::F16, &[1, 2]), ("c", DType::F32, &[2, 3])];
    assert_eq!(tensors, expected);

    let [a, b, c] = ["a", "b", "c"].map(|name| checkpoint.tensor(name).unwrap());
    assert_eq!(a.bytes, bf16s);
    assert_eq!(a.to_f32_vec(), [1.5, -2.0, 3.25]);
    assert_eq!(b.to_f32_vec(), [0.5, 65504.0]);
    let mut row = [0.0; 3];
    c.row_f32(1, &mut row);
    assert_eq!(row.map(f32::to_bits), [1e-30, 0.0, -0.0f32].map(f32::to_bits));
    assert!(checkpoint.tensor("d").is_none());
    assert_eq!(checkpoint.shard_path(c.info), dir.path().join("1.safetensors"));
    assert_eq!(checkpoint.index_path(), dir.path().join("model.safetensors.index.json"));
}

#[test]
fn opens_the_tiny_model() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let config = checkpoint.config();
    assert_eq!((config.d_model, config.n_layers, config.n_experts, config.vocab), (128, 8, 4, 512));
    let embedding = checkpoint.tensor("model.embed_tokens.weight").unwrap();
    assert_eq!(embedding.info.shape, [512, 128]);
    assert!(embedding.iter_f32().all(f32::is_finite));
    assert!(checkpoint.tokenizer().tokenizer.is_some() && checkpoint.tokenizer().chat_template.is_some());
    assert_eq!(checkpoint.eos(), [2, 201]); // the end of a document, and the line break after an answer
}

#[test]
fn reads_the_files_beside_the_tensors() {
    let tensors = one("a");
    let none = folder(&[("model.safetensors", &tensors)]);
    let none = Checkpoint::open(none.path()).unwrap();
    assert_eq!(none.tokenizer(), &Default::default());
    assert_eq!(none.eos(), [2]);

    let named = json!({"chat_template": [
        {"name": "tool_use", "template": "tools"}, {"name": "default", "template": "{{ messages }}"},
    ]});
    let named = named.to_string().into_bytes();
    let old = folder(&[
        ("model.safetensors", &tensors),
        ("tokenizer_config.json", &named),
        ("generation_config.json", br#"{"eos_token_id": [2, 9], "temperature": 0.4}"#),
    ]);
    let checkpoint = Checkpoint::open(old.path()).unwrap();
    assert_eq!(checkpoint.eos(), [2, 9]);
    assert_eq!(checkpoint.config().eos, [2]);
    assert_eq!(checkpoint.tokenizer().chat_template.as_deref(), Some("{{ messages }}"));
    assert_eq!(checkpoint.tokenizer().tokenizer_config.as_deref(), Some(&named[..]));

    let templates = |dir: &Path| -> Vec<(String, String)> {
        let all = Checkpoint::open(dir).unwrap().tokenizer().chat_templates.clone();
        all.into_iter().map(|template| (template.name, template.source)).collect()
    };
    let pair = |name: &str, template: &str| (name.to_owned(), template.to_owned());
    assert_eq!(templates(old.path()), [pair("tool_use", "tools"), pair("default", "{{ messages }}")]);

    fs::write(old.path().join("chat_template.jinja"), "newer").unwrap();
    assert_eq!(Checkpoint::open(old.path()).unwrap().tokenizer().chat_template.as_deref(), Some("newer"));
    assert_eq!(templates(old.path()), [pair("default", "newer")]);

    let more = old.path().join("additional_chat_templates");
    fs::create_dir(&more).unwrap();
    fs::write(more.join("tool_use.jinja"), "newer tools").unwrap();
    fs::write(more.join("notes.txt"), "no template").unwrap();
    assert_eq!(templates(old.path()), [pair("default", "newer"), pair("tool_use", "newer tools")]);
    fs::remove_file(old.path().join("chat_template.jinja")).unwrap();
    assert_eq!(templates(old.path()), [pair("tool_use", "newer tools")]);
    assert_eq!(Checkpoint::open(old.path()).unwrap().tokenizer().chat_template, None);

    fs::remove_dir_all(more).unwrap();
    fs::write(old.path().join("tokenizer_config.json"), r#"{"chat_template": {"rag": "r", "default": "d"}}"#).unwrap();
    let mut found = templates(old.path());
    found.sort();
    assert_eq!(found, [pair("default", "d"), pair("rag", "r")]);
}

#[test]
fn refuses_files_beside_the_tensors_that_make_no_sense() {
    let tensors = one("a");
    let with = |name, content: &str, expected| {
        refused(&[("model.safetensors", &tensors), (name, content.as_bytes())], expected)
    };
    with(
        "generation_config.json",
        r#"{"eos_token_id": "</s>"}"#,
        expect![[r#"
        DIR/generation_config.json: eos_token_id: found "</s>", expected token ids: an integer, a list of integers or null
    "#]],
    );
    with(
        "generation_config.json",
        r#"{"temperature": -1}"#,
        expect![[r#"
        DIR/generation_config.json: temperature: found -1, expected a number from 0
    "#]],
    );
    with(
        "tokenizer_config.json",
        r#"{"eos_token": 2}"#,
        expect![[r#"
        DIR/tokenizer_config.json: eos_token: found 2, expected a token, or an object with its content
    "#]],
    );
    with(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "tool_use"}]}"#,
        expect![[r#"
        DIR/tokenizer_config.json: chat_template: found [{"name":"tool_use"}], expected a template, a list of objects with name and template, or an object of templates
    "#]],
    );
    with(
        "tokenizer_config.json",
        "{",
        expect![[r#"
        DIR/tokenizer_config.json: JSON error: EOF while parsing an object at line 1 column 1
    "#]],
    );
}

#[test]
fn refuses_what_is_no_checkpoint() {
    refused(
        &[],
        expect![[r#"
        DIR: found neither model.safetensors nor model.safetensors.index.json, expected one of them
    "#]],
    );
    refused(
        &[("pytorch_model.bin", b"PK")],
        expect![[r#"
        DIR: found pytorch_model.bin, expected model.safetensors or model.safetensors.index.json; convert it once, in Python: AutoModelForCausalLM.from_pretrained(DIR, torch_dtype="auto").save_pretrained(NEW_DIR, safe_serialization=True)
    "#]],
    );
    refused(
        &[("config.json", b"{}")],
        expect![[r#"
        DIR/config.json: model_type: found nothing, expected "jamba"
    "#]],
    );
    refused(
        &[("model.safetensors", b"")],
        expect![[r#"
        DIR/model.safetensors: found 0 bytes, expected at least 8 (it is truncated)
    "#]],
    );
    let dir = folder(&[]);
    expect![[r#"
        DIR/config.json: found a file, expected a checkpoint folder or a GGUF file
    "#]]
    .assert_eq(&error_of(&dir.path().join("config.json"), &dir));
    expect![[r#"
        DIR/elsewhere: No such file or directory (os error 2)
    "#]]
    .assert_eq(&error_of(&dir.path().join("elsewhere"), &dir));
}

/// Refuses a folder of `shards` that are listed by `weight_map`.
fn refused_shards(weight_map: Value, shards: &[(&str, &[u8])], expected: Expect) {
    let list = index(weight_map);
    let files: Vec<(&str, &[u8])> =
        shards.iter().copied().chain([("model.safetensors.index.json", &list[..])]).collect();
    refused(&files, expected);
}

#[test]
fn refuses_shards_that_are_not_as_the_index_says() {
    let (a, b) = (one("a"), one("b"));
    let listed = json!({"a": "1.safetensors", "b": "2.safetensors"});
    refused_shards(
        listed.clone(),
        &[("1.safetensors", &a)],
        expect![[r#"
        DIR/2.safetensors: found no such file, expected the shard that model.safetensors.index.json lists
    "#]],
    );
    refused_shards(
        listed.clone(),
        &[("1.safetensors", &a), ("2.safetensors", &a)],
        expect![[r#"
        DIR/2.safetensors: tensor a: found it here and in 1.safetensors, expected it in one shard
    "#]],
    );
    refused_shards(
        listed.clone(),
        &[("1.safetensors", &b), ("2.safetensors", &a)],
        expect![[r#"
        DIR/2.safetensors: tensor a: found it in this shard, expected it in 1.safetensors, as model.safetensors.index.json says
    "#]],
    );
    refused_shards(
        listed.clone(),
        &[("1.safetensors", &a), ("2.safetensors", &b), ("model.safetensors", &a)],
        expect![[r#"
            DIR: found model.safetensors and model.safetensors.index.json, which does not list it, expected one of them
        "#]],
    );
    let missing = json!({"a": "1.safetensors", "c": "1.safetensors"});
    refused_shards(
        missing,
        &[("1.safetensors", &a)],
        expect![[r#"
        DIR/1.safetensors: tensor c: found no such tensor, expected it in 1.safetensors, as model.safetensors.index.json says
    "#]],
    );
    refused_shards(
        json!({"a": "1.safetensors", "x": "2.safetensors"}),
        &[("1.safetensors", &a), ("2.safetensors", &b)],
        expect![[r#"
            DIR/2.safetensors: tensor b: found it in this shard, expected only tensors that model.safetensors.index.json lists
        "#]],
    );
}

#[test]
fn links_of_a_checkpoint_lead_nowhere_else_unless_allowed() {
    let tensors = one("a");
    let outside = TempDir::new().unwrap();
    fs::write(outside.path().join("secret"), "a private key").unwrap();
    fs::write(outside.path().join("tensors"), &tensors).unwrap();
    for (name, target) in [
        ("tokenizer.json", "secret"),
        ("tokenizer_config.json", "secret"),
        ("chat_template.jinja", "secret"),
        ("generation_config.json", "secret"),
        ("special_tokens_map.json", "secret"),
        ("additional_chat_templates/x.jinja", "secret"),
        ("config.json", "secret"),
        ("model.safetensors", "tensors"),
        ("model.safetensors.index.json", "secret"),
    ] {
        let dir = folder(&[("model.safetensors", &tensors)]);
        let link = dir.path().join(name);
        let _ = fs::remove_file(&link);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(outside.path().join(target), &link).unwrap();
        let error = error_of(dir.path(), &dir);
        let expected = format!("DIR/{name}: found a symbolic link that leads out of the folder");
        assert!(error.starts_with(&expected), "{error}");
        let found = Checkpoint::open_ignoring(dir.path(), Ignore::default(), Links::Anywhere);
        let is_refused = found.as_ref().is_err_and(|error| error.to_string().contains("symbolic link"));
        assert!(!is_refused, "{found:?}");
    }
}

#[test]
fn refuses_an_index_that_leads_out_of_the_folder_or_nowhere() {
    for shard in ["../1.safetensors", "/1.safetensors", "sub/1.safetensors", "..", ""] {
        let expected = format!(
            "DIR/model.safetensors.index.json: tensor a: found shard {shard:?}, expected the name of a shard in the \
             same folder\n"
        );
        let dir = folder(&[("model.safetensors.index.json", &index(json!({"a": shard})))]);
        assert_eq!(error_of(dir.path(), &dir), expected);
    }
    refused_shards(
        json!({}),
        &[],
        expect![[r#"
        DIR/model.safetensors.index.json: weight_map: found {}, expected a shard for each tensor
    "#]],
    );
    refused(
        &[("model.safetensors.index.json", b"{\"metadata\": {}}")],
        expect![[r#"
        DIR/model.safetensors.index.json: JSON error: missing field `weight_map` at line 1 column 16
    "#]],
    );
    refused(
        &[("model.safetensors.index.json", b"{\"weight_map\": {\"a\": \"1\", \"a\": \"2\"}}")],
        expect![[r#"
        DIR/model.safetensors.index.json: JSON error: key "a" is there twice at line 1 column 35
    "#]],
    );
}

#[test]
fn digests_tell_checkpoints_apart() {
    let digests = |values: &[u8], config: &str| {
        let shard = serialize(&[("a", safetensors::Dtype::F32, vec![2, 2000], values)]);
        let dir = folder(&[("config.json", config.as_bytes()), ("model.safetensors", &shard)]);
        Checkpoint::open(dir.path()).unwrap().digests()
    };
    let mut values = vec![0; 16_000];
    let before = digests(&values, CONFIG);
    let names: Vec<&str> = before.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["config.json", "model.safetensors"]);
    assert_eq!(before[0].bytes, CONFIG.len() as u64);
    assert_eq!(digests(&values, CONFIG), before);
    assert_ne!(digests(&values, &format!("{CONFIG} "))[0], before[0]);
    for at in [0, 4096, 15_999] {
        values[at] = 1;
        assert_ne!(digests(&values, CONFIG)[1], before[1], "byte {at}");
        values[at] = 0;
    }
}

/// The end tokens and the remarks of a folder with these files and tokens 0 to 127; DIR for the folder.
fn ends(files: &[(&str, Value)]) -> (Vec<u32>, Vec<String>) {
    let texts: Vec<(&str, Vec<u8>)> = files.iter().map(|(name, json)| (*name, json.to_string().into_bytes())).collect();
    let mut all: Vec<(&str, &[u8])> = texts.iter().map(|(name, text)| (*name, text.as_slice())).collect();
    let tensors = one("a");
    all.push(("model.safetensors", &tensors));
    let dir = folder(&all);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let text = |remark: &crate::Remark| remark.to_string().replace(dir.path().to_str().unwrap(), "DIR");
    (checkpoint.eos().to_vec(), checkpoint.remarks().iter().map(text).collect())
}

fn config_with(eos: Value) -> (&'static str, Value) {
    let mut config: Value = serde_json::from_str(CONFIG).unwrap();
    config["eos_token_id"] = eos;
    ("config.json", config)
}

#[test]
fn every_place_that_names_an_end_counts() {
    let vocab = || json!({"added_tokens": [{"id": 9, "content": "<|im_end|>"}], "model": {"vocab": {"</s>": 7}}});
    let config = || config_with(json!([5, 3]));
    let generation = ("generation_config.json", json!({"eos_token_id": 2}));
    for (eos_token, end) in [
        (json!("<|im_end|>"), 9),
        (json!({"content": "<|im_end|>", "lstrip": false, "special": true}), 9),
        (json!("</s>"), 7),
    ] {
        let tokenizer = [("tokenizer.json", vocab()), ("tokenizer_config.json", json!({"eos_token": eos_token}))];
        let files = [&[config(), generation.clone()][..], &tokenizer].concat();
        assert_eq!(ends(&files), (vec![5, 3, 2, end], vec![]));
        // A token that two places name counts once; older checkpoints name it in special_tokens_map.json.
        let files = [
            config_with(json!(end)),
            ("tokenizer.json", vocab()),
            ("tokenizer_config.json", json!({"eos_token": null})),
            ("special_tokens_map.json", json!({"eos_token": eos_token})),
        ];
        assert_eq!(ends(&files), (vec![end], vec![]));
    }
    // A token that tokenizer_config.json alone lists, and a Unigram vocabulary.
    let listed = json!({"eos_token": "<end>", "added_tokens_decoder": {"11": {"content": "<end>", "special": true}}});
    let files = [config(), ("tokenizer.json", vocab()), ("tokenizer_config.json", listed)];
    assert_eq!(ends(&files).0, [5, 3, 11]);
    let unigram = json!({"model": {"vocab": [["<unk>", 0.0], ["</s>", -1.5]]}});
    let files = [config(), ("tokenizer.json", unigram), ("tokenizer_config.json", json!({"eos_token": "</s>"}))];
    assert_eq!(ends(&files).0, [5, 3, 1]);
}

#[test]
fn ends_outside_the_vocabulary_and_missing_ones_are_warnings() {
    let (eos, remarks) = ends(&[
        config_with(json!([2, 128])),
        ("generation_config.json", json!({"eos_token_id": [4, -1]})),
        ("tokenizer.json", json!({"model": {"vocab": {"</s>": 500}}})),
        ("tokenizer_config.json", json!({"eos_token": "</s>"})),
    ]);
    assert_eq!(eos, [2, 4]);
    assert_eq!(
        remarks,
        [
            "warning: DIR/config.json: eos_token_id: found 128, outside the vocabulary of 128: ignored",
            "warning: DIR/generation_config.json: eos_token_id: found -1, outside the vocabulary of 128: ignored",
            "warning: DIR/tokenizer_config.json: eos_token: \"</s>\" is token 500, which is not below vocab_size = 128: ignored",
        ]
    );
    let (eos, remarks) = ends(&[config_with(Value::Null)]);
    assert_eq!(eos, [0; 0]);
    assert!(
        remarks[0].starts_with("warning: DIR: config.json, generation_config.json and the tokenizer name no token")
    );
    let (eos, remarks) = ends(&[]);
    assert_eq!(eos, [2]);
    assert!(remarks[0].ends_with("token 2, transformers' default for Jamba, ends one"), "{remarks:?}");
    let (eos, remarks) = ends(&[
        config_with(json!(2)),
        ("tokenizer.json", json!({"model": {"vocab": {"a": 0}}})),
        ("tokenizer_config.json", json!({"eos_token": "<end>"})),
    ]);
    assert_eq!(eos, [2]);
    assert_eq!(
        remarks,
        ["warning: DIR/tokenizer_config.json: eos_token: \"<end>\" is not in the tokenizer's vocabulary: ignored"]
    );
}

#[test]
fn the_head_of_a_tied_model_may_be_listed_and_not_stored_or_stored_and_not_listed() {
    let mut config: Value = serde_json::from_str(CONFIG).unwrap();
    let open = |config: &Value, files: &[(&str, &[u8])], map: Value| {
        let (config, list) = (config.to_string().into_bytes(), index(map));
        let dir = folder(&[&[("config.json", &config[..]), ("model.safetensors.index.json", &list)], files].concat());
        let names = |checkpoint: Checkpoint| checkpoint.tensors().map(|info| info.name.clone()).collect::<Vec<_>>();
        Checkpoint::open(dir.path()).map(names)
    };
    let (a, b, head) = (one("a"), one("b"), one("lm_head.weight"));
    let listed = || json!({"a": "1.safetensors", "lm_head.weight": "2.safetensors"});
    // Listed in a shard that lacks it, in a shard that does not exist; stored in a shard that does not list it.
    let others = [
        (
            vec![("1.safetensors", &a[..]), ("2.safetensors", &b[..])],
            json!({"a": "1.safetensors", "b": "2.safetensors", "lm_head.weight": "2.safetensors"}),
            vec!["a", "b"],
        ),
        (vec![("1.safetensors", &a[..])], listed(), vec!["a"]),
        (vec![("1.safetensors", &a[..]), ("2.safetensors", &head[..])], listed(), vec!["a", "lm_head.weight"]),
    ];
    for tied in [true, false] {
        config["tie_word_embeddings"] = tied.into();
        for (index, (files, map, names)) in others.iter().enumerate() {
            let found = open(&config, files, map.clone());
            match tied || index == 2 {
                true => assert_eq!(found.unwrap(), *names),
                false => assert!(found.is_err(), "{index}"),
            }
        }
    }
}

#[test]
fn ignored_tensors_may_have_any_dtype_and_are_named() {
    let ids = [0; 16];
    let file = serialize(&[
        ("a", safetensors::Dtype::F32, vec![2], &[0; 8]),
        ("b.position_ids", safetensors::Dtype::F64, vec![2], &ids),
        ("c.inv_freq", safetensors::Dtype::F32, vec![4], &ids),
    ]);
    refused(
        &[("model.safetensors", &file)],
        expect![[r#"
        DIR/model.safetensors: tensor b.position_ids: found dtype F64, expected F32, BF16, F16, I8, F8_E4M3 or F8_E5M2
    "#]],
    );
    let dir = folder(&[("model.safetensors", &file)]);
    let patterns = ["*.position_ids", "*.inv_freq"].map(|text| glob::Pattern::new(text).unwrap());
    let ignore = Ignore { tensors: patterns.to_vec(), ..Ignore::default() };
    let checkpoint = Checkpoint::open_ignoring(dir.path(), ignore, Links::Inside).unwrap();
    assert_eq!(checkpoint.tensors().map(|info| info.name.as_str()).collect::<Vec<_>>(), ["a"]);
    let note = checkpoint.remarks().last().unwrap().to_string();
    assert!(note.ends_with("ignored tensors: b.position_ids and 1 more"), "{note}");

    let patterns = ["*.position_ids", "*.inv_freq", "*.rotary"].map(|text| glob::Pattern::new(text).unwrap());
    let ignore = Ignore { tensors: patterns.to_vec(), ..Ignore::default() };
    let checkpoint = Checkpoint::open_ignoring(dir.path(), ignore, Links::Inside).unwrap();
    let warning = checkpoint.remarks().last().unwrap().to_string();
    let expected = "warning: model.ignore_tensors: \"*.rotary\" matches no tensor of ";
    assert!(warning.starts_with(expected) && warning.ends_with("/model.safetensors"), "{warning}");
}

#[test]
fn a_stated_type_that_no_tensor_has_is_noted() {
    let file = serialize(&[("a", safetensors::Dtype::BF16, vec![2], &[0; 4])]);
    let dir = folder(&[("model.safetensors", &file)]);
    let path = dir.path().join("config.json");
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let remarks = |dtype: &str| {
        let mut config = config.clone();
        config["dtype"] = dtype.into();
        std::fs::write(&path, config.to_string()).unwrap();
        let remarks = Checkpoint::open(dir.path()).unwrap().remarks();
        remarks.iter().map(ToString::to_string).filter(|text| text.contains("dtype")).collect::<Vec<_>>()
    };
    for stated in ["bfloat16", "torch.bfloat16", "auto"] {
        assert_eq!(remarks(stated), [""; 0], "{stated}");
    }
    for stated in ["float64", "float32"] {
        let [note] = &remarks(stated)[..] else { panic!("{stated}") };
        let says = format!("config.json: dtype: found {stated:?}, but tensors of BF16: their own types are used");
        assert!(note.starts_with("note: ") && note.ends_with(&says), "{note}");
    }
}
