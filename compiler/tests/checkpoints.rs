//! `jambac build` of checkpoints as people publish them: end tokens, sampling defaults, tokenizers, weights that are not finite, keys
//! and tensors to ignore, one tap of convolution.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use jamba_runtime::{Chat, Engine, Finish, GenerateOptions, Message, OpenOptions};
use jambac_checkpoint::{Checkpoint, DType};
use jambac_models::tiny::{Storage, Tiny};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Two layers: Mamba and MLP, attention and three experts.
fn small() -> Tiny {
    Tiny { layers: 2, attention: (2, 1), experts: 3, vocab: 173, ..Tiny::base() }
}

/// A miniature's folder.
struct Folder(TempDir);

impl Folder {
    fn new(tiny: &Tiny) -> Folder {
        let folder = tempfile::tempdir().unwrap();
        tiny.write(folder.path(), 3).unwrap();
        Folder(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn json(&self, name: &str, value: Value) {
        self.write(name, &value.to_string());
    }

    /// Changes keys of config.json.
    fn config(&self, changes: Value) {
        let text = fs::read_to_string(self.path("config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        self.json("config.json", config);
    }

    /// Overwrites one f32 of a tensor.
    fn spoil(&self, tensor: &str, index: usize, value: f32) {
        let checkpoint = Checkpoint::open(self.0.path()).unwrap();
        let begin = checkpoint.tensor(tensor).unwrap().info.byte_range.start + 4 * index;
        drop(checkpoint);
        let path = self.path("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        bytes[begin..begin + 4].copy_from_slice(&value.to_le_bytes());
        fs::write(path, bytes).unwrap();
    }

    /// `jambac build FOLDER ARGS…`, with DIR for the folder in stderr.
    /// Compiles for one kind of CPU unless `args` say otherwise.
    fn build(&self, args: &[&str]) -> (Option<i32>, String) {
        let target: &[&str] = if args.contains(&"--target") { &[] } else { &["--target", "native"] };
        let output: Output = Command::new(env!("CARGO_BIN_EXE_jambac"))
            .arg("build")
            .arg(self.0.path())
            .args(args)
            .args(["--max-context", "64", "--max-sequences", "1"])
            .args(target)
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), stderr.replace(self.0.path().to_str().unwrap(), "DIR"))
    }

    /// Reads the checkpoint and stops.
    fn check(&self) -> (Option<i32>, String) {
        self.build(&["--emit", "checkpoint"])
    }

    #[track_caller]
    fn refused(&self, says: &[&str]) {
        let (code, stderr) = self.check();
        assert!(code == Some(1) && says.iter().all(|part| stderr.contains(part)), "{code:?} {stderr}");
    }

    /// Builds a plan; returns it with the remarks.
    #[track_caller]
    fn plan(&self) -> (Engine, String) {
        let path = self.path("x.plan");
        let (code, stderr) = self.build(&["-o", path.to_str().unwrap()]);
        assert_eq!(code, Some(0), "{stderr}");
        (Engine::open(&path, OpenOptions::default()).unwrap(), stderr)
    }
}

/// A tokenizer of `n` tokens: `<s>`, `a`, `b`, and names that no text has.
fn tokenizer(n: u32) -> Value {
    let name = |id: u32| match id {
        0 => "<s>".to_owned(),
        1 => "a".to_owned(),
        2 => "b".to_owned(),
        _ => format!("<{id}>"),
    };
    let vocab: serde_json::Map<String, Value> = (0..n).map(|id| (name(id), id.into())).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "pre_tokenizer": null, "decoder": null,
        "added_tokens": [{
            "id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true,
        }],
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [],
        },
    })
}

fn greedy(engine: &mut Engine, prompt: &[u32], max_new: usize) -> (Vec<u32>, Finish) {
    let options = GenerateOptions { max_new, tokens_only: true, ..GenerateOptions::default() };
    let generated = engine.generate(prompt, &options, |_| ControlFlow::Continue(())).unwrap();
    (generated.tokens, generated.finish)
}

#[test]
fn ends_and_sampling_defaults_of_all_files_reach_the_plan() {
    let folder = Folder::new(&small());
    folder.config(json!({"eos_token_id": null}));
    let (mut engine, remarks) = folder.plan();
    assert!(
        remarks.contains("jambac: warning: DIR: config.json, generation_config.json and the tokenizer name no token")
    );
    assert!(remarks.contains("jambac: warning: DIR: found no tokenizer.json: the plan has no tokenizer"), "{remarks}");
    assert_eq!(engine.manifest().model.eos, [0; 0]);
    let prompt = [1, 20, 33];
    let (answer, finish) = greedy(&mut engine, &prompt, 20);
    assert_eq!((answer.len(), finish), (20, Finish::Length));
    drop(engine);

    // The first new token after the first that the tokenizer may end with. Only added_tokens_decoder has it.
    let at = (1..20).find(|&at| answer[at] > 3 && !answer[..at].contains(&answer[at])).expect("another token");
    let end = answer[at];
    folder.config(json!({"eos_token_id": [9999]}));
    folder.json(
        "generation_config.json",
        json!({
            "eos_token_id": [0, 172], "do_sample": true, "temperature": 0.6, "top_k": 20, "repetition_penalty": 1.05,
            "max_new_tokens": 7, "num_beams": 2,
        }),
    );
    folder.json("tokenizer.json", tokenizer(end));
    folder.json(
        "tokenizer_config.json",
        json!({
            "eos_token": {"content": "<end>"},
            "added_tokens_decoder": {
                "0": {"content": "<s>", "special": true},
                end.to_string(): {"content": "<end>", "lstrip": false, "normalized": false, "special": true},
            },
        }),
    );
    let (mut engine, remarks) = folder.plan();
    for remark in [
        "warning: DIR/config.json: eos_token_id: found 9999, outside the vocabulary of 173: ignored",
        "warning: DIR/generation_config.json: num_beams: found 2, which is not supported: ignored",
        "note: DIR/tokenizer_config.json: tokens that tokenizer.json lacks, added to the plan's tokenizer: <end>\n",
    ] {
        assert!(remarks.contains(&format!("jambac: {remark}")), "{remark}\n{remarks}");
    }
    assert_eq!(engine.manifest().model.eos, [0, 172, end]);
    assert_eq!(greedy(&mut engine, &prompt, 20), (answer[..=at].to_vec(), Finish::Eos));
    let tokenizer = engine.tokenizer().unwrap();
    assert_eq!((tokenizer.eos(), tokenizer.encode_plain("a<end>b").unwrap()), (Some(end), vec![1, end, 2]));
    assert_eq!(tokenizer.decode(&[1, end, 2]).unwrap().replace(' ', ""), "ab");

    let defaults = engine.generate_options();
    let sampler = &defaults.sampler;
    assert_eq!((defaults.max_new, sampler.temperature, sampler.top_k), (7, 0.6, 20));
    assert_eq!((sampler.top_p, sampler.repetition_penalty), (1.0, 1.05));
    let sampled =
        engine.generate(&prompt, &GenerateOptions { ignore_eos: true, tokens_only: true, ..defaults }, |_| {
            ControlFlow::Continue(())
        });
    assert_eq!(sampled.unwrap().tokens.len(), 7);
}

#[test]
fn weights_that_are_not_finite_are_refused_by_name_and_place() {
    let expert = "model.layers.1.feed_forward.experts.2.down_proj.weight";
    for (format, tensor, index, value, found) in [
        ("f32", "model.layers.0.mamba.A_log", 3 * 16 + 2, f32::NAN, "NaN at [3, 2]"),
        ("bf16", "model.layers.1.input_layernorm.weight", 63, f32::INFINITY, "inf at [63]"),
        ("int8", expert, 5 * 128 + 127, f32::NEG_INFINITY, "-inf at [5, 127]"),
        ("int4", "model.layers.0.mamba.conv1d.bias", 0, f32::NAN, "NaN at [0]"),
        ("int8", "model.embed_tokens.weight", 172 * 64, f32::NAN, "NaN at [172, 0]"),
    ] {
        let folder = Folder::new(&small());
        folder.spoil(tensor, index, value);
        let plan = folder.path("x.plan");
        let (code, stderr) = folder.build(&["-o", plan.to_str().unwrap(), "--weights", format]);
        let expected =
            format!("jambac: DIR/model.safetensors: tensor {tensor}: found {found}, expected finite numbers");
        assert!(code == Some(1) && stderr.contains(&expected), "{format}: {code:?} {stderr}");
        let left: Vec<_> = folder.0.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }
}

#[test]
fn a_weight_that_bf16_cannot_hold_is_refused() {
    let folder = Folder::new(&small());
    folder.spoil("model.layers.1.self_attn.q_proj.weight", 7, f32::MAX);
    let plan = folder.path("x.plan");
    let (code, stderr) = folder.build(&["-o", plan.to_str().unwrap(), "--weights", "bf16"]);
    let says = [
        "model.layers.1.self_attn.q_proj.weight",
        "found a weight of 3.4028235e38, which bf16 cannot hold",
        "--weights f32",
    ];
    assert!(code == Some(1) && says.iter().all(|part| stderr.contains(part)), "{code:?} {stderr}");
}

#[test]
fn a_broken_tokenizer_or_template_fails_the_build() {
    let folder = Folder::new(&small());
    folder.write("tokenizer.json", "{\n  \"model\": }");
    folder.refused(&["DIR/tokenizer.json", "line 2 column 12"]);
    folder.write("tokenizer.json", "{\"model\": {\"type\": \"BPE\"}}");
    folder.refused(&["DIR/tokenizer.json"]);
    folder.json("tokenizer.json", tokenizer(9));
    folder.write("tokenizer_config.json", "{\n\"eos_token\": \"a\",\n}");
    folder.refused(&["DIR/tokenizer_config.json", "line 3"]);
    folder.json("tokenizer_config.json", json!({"chat_template": "{{ bos_token }}\n{% for m in messages %}"}));
    folder.refused(&["DIR/tokenizer_config.json: chat template: ", "line 2"]);
    folder.write("chat_template.jinja", "{{ bos_token }}\n\n{% if %}");
    folder.refused(&["DIR/chat_template.jinja: chat template: ", "line 3"]);
    folder.write("chat_template.jinja", CHAT);
    let (code, stderr) = folder.check();
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    // More tokens than the model has.
    folder.json("tokenizer.json", tokenizer(200));
    let (code, stderr) = folder.check();
    let expected = "jambac: warning: DIR/tokenizer.json: found 200 tokens, and config.json has vocab_size = 173";
    assert!(code == Some(0) && stderr.starts_with(expected), "{stderr}");
}

/// A template that is whole.
const CHAT: &str = "{% for m in messages %}{{ m.content }}{% endfor %}";

#[test]
fn a_template_is_rehearsed_when_it_is_built() {
    let folder = Folder::new(&small());
    folder.json("tokenizer.json", tokenizer(9));
    let warned = |template: &str, reason: &str| {
        folder.write("chat_template.jinja", template);
        let expected = format!("jambac: warning: DIR/chat_template.jinja: chat template: {reason}\n");
        assert_eq!(folder.check(), (Some(0), expected));
    };
    warned("\n{{ foo.bar.baz }}", "no chat renders: 'foo' is undefined (line 2)");
    warned("", "it makes an empty prompt of a chat");
    let rare = "line 2: the filter 'yaml' does not exist here: chats that get there fail";
    warned(&format!("{CHAT}\n{{% if tools %}}{{{{ tools | yaml }}}}{{% endif %}}"), rare);
    folder.write("chat_template.jinja", "{{ messages\n| markdown }}");
    folder.refused(&["DIR/chat_template.jinja: chat template: no chat renders: ", "markdown", "--chat-template FILE"]);
    // Another one can be chosen.
    folder.write("mine.jinja", CHAT);
    let mine = folder.path("mine.jinja");
    let (code, stderr) = folder.build(&["--emit", "checkpoint", "--chat-template", mine.to_str().unwrap()]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    folder.write("mine.jinja", "{{ messages | markdown }}");
    let (code, stderr) = folder.build(&["--emit", "checkpoint", "--chat-template", mine.to_str().unwrap()]);
    assert!(code == Some(1) && stderr.contains("--chat-template DIR/mine.jinja: chat template: no chat"), "{stderr}");
}

#[test]
fn named_templates_are_built_and_used() {
    let folder = Folder::new(&small());
    folder.json("tokenizer.json", tokenizer(9));
    let tools = "{% for tool in tools %}<{{ tool.function.name }}>{% endfor %}{{ messages[0].content }}";
    let ask = [Message { role: "user".to_owned(), content: "ab".to_owned() }];
    let chat = Chat::new(&ask);
    let tool = json!({"type": "function", "function": {"name": "time", "parameters": {"required": ["place"]}}});
    let with_tools = Chat { tools: Some(vec![tool]), ..chat.clone() };
    let both = [
        json!([{"name": "default", "template": CHAT}, {"name": "tool_use", "template": tools}]),
        json!({"default": CHAT, "tool_use": tools}),
    ];
    for templates in both {
        folder.json("tokenizer_config.json", json!({"chat_template": templates}));
        let (engine, stderr) = folder.plan();
        assert!(!stderr.contains("warning"), "{stderr}");
        let template = engine.chat_template().unwrap();
        assert_eq!(template.names(), ["default", "tool_use"]);
        let texts = [&chat, &with_tools].map(|chat| template.render_chat(chat).unwrap());
        assert_eq!(texts, ["ab", "<time>ab"]);
    }
    // Without a default template, chats need tools or the name of a template.
    folder.json("tokenizer_config.json", json!({"chat_template": [{"name": "tool_use", "template": tools}]}));
    let (engine, stderr) = folder.plan();
    assert!(
        stderr.contains("warning: DIR: found the chat templates [\"tool_use\"], and none named default"),
        "{stderr}"
    );
    let template = engine.chat_template().unwrap();
    assert_eq!(template.render_chat(&with_tools).unwrap(), "<time>ab");
    assert!(template.render_chat(&chat).unwrap_err().to_string().contains("no template named \"default\""));
    // The faults of a named template have its file and name.
    let more = folder.path("additional_chat_templates");
    fs::create_dir(&more).unwrap();
    folder.write("additional_chat_templates/rag.jinja", "\n{% if %}");
    folder.refused(&["DIR/additional_chat_templates/rag.jinja: chat template rag: ", "line 2"]);
    folder.write("additional_chat_templates/rag.jinja", "{{ a.b }}");
    folder.write("chat_template.jinja", CHAT);
    let (code, stderr) = folder.check();
    let expected = "jambac: warning: DIR/additional_chat_templates/rag.jinja: chat template rag: no chat renders: 'a' is \
                    undefined (line 1)\n";
    assert_eq!((code, stderr.as_str()), (Some(0), expected));
}

#[test]
fn a_tokenizer_says_what_is_wrong_with_it() {
    let folder = Folder::new(&small());
    let with = |key: &str, step: Value| {
        let mut file = tokenizer(9);
        file[key] = step;
        folder.json("tokenizer.json", file);
    };
    let replace = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(1000)});
    with("normalizer", replace);
    folder.refused(&["DIR/tokenizer.json: normalizer: its steps make up to 1000 bytes of one byte of text"]);
    with("pre_tokenizer", json!({"type": "Words"}));
    folder.refused(&["DIR/tokenizer.json: pre_tokenizer.type: found \"Words\", expected one of BertPreTokenizer"]);
    let split =
        |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    with("pre_tokenizer", json!({"type": "Sequence", "pretokenizers": [split("(a+)+(?!b)")]}));
    let place = "DIR/tokenizer.json: pre_tokenizer.pretokenizers[0].pattern.Regex: found \"(a+)+(?!b)\"";
    folder.refused(&[place, "would not end"]);
    with("extra", json!({}));
    folder.refused(&["DIR/tokenizer.json: JSON error: unknown field `extra`, expected one of `version`"]);
    folder.json("tokenizer.json", tokenizer(9));
    folder.json("tokenizer_config.json", json!({"bos_token": 5}));
    folder.refused(&["DIR/tokenizer_config.json: bos_token: found 5, expected a token, or an object with its content"]);
    // What transformers 4 did by these keys, the post-processor decides now.
    folder.json("tokenizer_config.json", json!({"bos_token": "<s>", "add_bos_token": true, "add_eos_token": false}));
    let (code, stderr) = folder.check();
    let expected = "jambac: warning: DIR/tokenizer_config.json: add_bos_token is true, and by the post-processor of tokenizer.json \
                    prompts do not begin with token 0: the post-processor decides, as in transformers 5\n";
    assert_eq!((code, stderr.as_str()), (Some(0), expected));
    let begin = json!({"SpecialToken": {"id": "<s>", "type_id": 0}});
    with(
        "post_processor",
        json!({"type": "TemplateProcessing", "pair": [],
        "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}}),
    );
    assert_eq!(folder.check(), (Some(0), String::new()));
    folder.json("tokenizer_config.json", json!({"bos_token": "<s>", "add_bos_token": false}));
    let (code, stderr) = folder.check();
    assert!(
        code == Some(0)
            && stderr.contains("add_bos_token is false, and")
            && stderr.contains("prompts begin with token 0")
    );
}

#[test]
fn pointers_and_marks_in_small_files_are_known() {
    let folder = Folder::new(&small());
    folder.json("tokenizer.json", tokenizer(9));
    let config = fs::read_to_string(folder.path("config.json")).unwrap();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n";
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        let before = fs::read(folder.path(name)).ok();
        folder.write(name, pointer);
        folder.refused(&[&format!("DIR/{name}: found a Git LFS pointer"), "git lfs pull"]);
        match before {
            Some(bytes) => fs::write(folder.path(name), bytes).unwrap(),
            None => fs::remove_file(folder.path(name)).unwrap(),
        }
    }
    // A byte order mark is left out, in the plan as well.
    folder.write("config.json", &format!("\u{feff}{config}"));
    folder.write("tokenizer.json", &format!("\u{feff}{}", tokenizer(9)));
    folder.write("tokenizer_config.json", "\u{feff}{\"bos_token\": \"<s>\"}");
    folder.write("generation_config.json", "\u{feff}{\"temperature\": 0.5}");
    let (engine, stderr) = folder.plan();
    assert!(!stderr.contains("warning"), "{stderr}");
    assert_eq!(engine.tokenizer().unwrap().encode("ab").unwrap(), [1, 2]);
    assert_eq!(engine.manifest().generation.temperature, Some(0.5));
    drop(engine);
    let (plan, wide) = (folder.path("x.plan"), folder.path("wide.plan"));
    let mut limits = Command::new(env!("CARGO_BIN_EXE_jambac"));
    let limits = limits.arg("limits").arg(plan).args(["--context", "32", "-o"]).arg(wide).output().unwrap();
    assert!(limits.status.success(), "{}", String::from_utf8_lossy(&limits.stderr));
    let utf16: Vec<u8> = "\u{feff}{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(folder.path("tokenizer_config.json"), utf16).unwrap();
    folder.refused(&["DIR/tokenizer_config.json: found UTF-16, expected UTF-8", "iconv"]);
}

#[test]
fn names_with_control_characters_are_shown_as_escapes() {
    let folder = Folder::new(&small());
    folder.config(json!({"new\u{1b}[31mkey": "\u{1b}]0;title\u{7}"}));
    let (code, stderr) = folder.check();
    assert!(code == Some(1) && stderr.contains("new\\u001b[31mkey") && !stderr.contains('\u{1b}'), "{stderr}");
    let folder = Folder::new(&small());
    folder.json("tokenizer.json", tokenizer(9));
    folder.write("chat_template.jinja", "{{ raise_exception('\u{1b}[2J\u{9b}31m') }}");
    let (code, stderr) = folder.check();
    assert!(
        code == Some(0) && stderr.contains("\\u001b[2J\\u009b31m") && !stderr.contains(['\u{1b}', '\u{9b}']),
        "{stderr}"
    );
    folder.write("model.toml", "[model]\nname = \"a\\u001b[31mb\"\ncheckpoint = \".\"\n");
    let plan = folder.path("named.plan");
    let (code, stderr) = folder.build(&["-o", plan.to_str().unwrap()]);
    assert!(code == Some(0) && !stderr.contains('\u{1b}'), "{stderr}");
    let inspected = Command::new(env!("CARGO_BIN_EXE_jambac")).arg("inspect").arg(&plan).output().unwrap();
    let shown = String::from_utf8(inspected.stdout).unwrap();
    assert!(shown.contains("a\\u001b[31mb") && !shown.contains('\u{1b}'), "{shown}");
}

#[test]
fn a_missing_tokenizer_is_a_warning_with_the_way_to_make_it() {
    let folder = Folder::new(&small());
    folder.write("tokenizer.model", "pieces");
    let (code, stderr) = folder.check();
    let expected = "jambac: warning: DIR: found tokenizer.model and no tokenizer.json: the plan has no tokenizer: it takes and \
                    returns token ids only; to make tokenizer.json, in Python: \
                    transformers.AutoTokenizer.from_pretrained(\"DIR\").save_pretrained(\"DIR\")\n";
    assert_eq!((code, stderr.as_str()), (Some(0), expected));
}

#[test]
fn keys_and_tensors_are_ignored_with_a_note_or_on_request() {
    let folder = Folder::new(&small());
    folder.json("tokenizer.json", tokenizer(9));
    folder
        .config(json!({"hidden_dropout_prob": 0.1, "rope_theta": 10000.0, "type_vocab_size": 16, "is_decoder": true}));
    let (code, stderr) = folder.check();
    let expected = "jambac: note: DIR/config.json: ignored, as Jamba has no use for it: hidden_dropout_prob = 0.1, \
                    rope_theta = 10000.0, type_vocab_size = 16\n";
    assert_eq!((code, stderr.as_str()), (Some(0), expected));
    folder.config(json!({"norm_topk_prob": true}));
    folder.refused(&[
        "DIR/config.json: norm_topk_prob: unknown key",
        "ignore_keys = [\"norm_topk_prob\"]",
        "model.toml",
    ]);
    folder.write("model.toml", "[model]\ncheckpoint = \".\"\nignore_keys = [\"norm_topk_prob\"]\n");
    let (code, stderr) = folder.check();
    assert!(code == Some(0) && stderr.contains("norm_topk_prob = true"), "{stderr}");

    // A tensor that this config does not have: the bias of a convolution.
    folder.config(json!({"mamba_conv_bias": false}));
    folder.refused(&["tensor model.layers.0.mamba.conv1d.bias: found shape [128]", "ignore_tensors = ["]);
    let toml =
        "[model]\ncheckpoint = \".\"\nignore_keys = [\"norm_topk_prob\"]\nignore_tensors = [\"*.conv1d.bias\"]\n";
    folder.write("model.toml", toml);
    let (code, stderr) = folder.check();
    assert!(code == Some(0) && stderr.contains("ignored tensors: model.layers.0.mamba.conv1d.bias"), "{stderr}");
    folder.write("model.toml", &toml.replace("*.conv1d.bias", "*.conv1d.*"));
    folder.refused(&["tensor model.layers.0.mamba.conv1d.weight: found it in ignore_tensors"]);
    folder.write("model.toml", &toml.replace("*.conv1d.bias", "***"));
    folder.refused(&["model.ignore_tensors: found \"***\", expected a glob pattern", "line 4"]);

    // What has no effect is named, and a key that is read stays in the plan's config.json.
    let toml = toml.replace("ignore_keys = [", "ignore_keys = [\"hidden_size\", \"typo\", ");
    folder.write("model.toml", &toml.replace("*.conv1d.bias\"", "*.conv1d.bias\", \"*.rotary\""));
    let (engine, stderr) = folder.plan();
    drop(engine);
    for says in [
        "warning: model.ignore_keys: \"hidden_size\" has no effect on DIR/./config.json: jambac reads this key",
        "warning: model.ignore_keys: \"typo\" has no effect on DIR/./config.json: the file has no such key",
        "warning: model.ignore_tensors: \"*.rotary\" matches no tensor of DIR/./model.safetensors",
    ] {
        assert!(stderr.contains(says), "{stderr}");
    }
    let limits = Command::new(env!("CARGO_BIN_EXE_jambac"))
        .args(["limits", "x.plan", "-c", "32", "-o", "y.plan"])
        .current_dir(folder.0.path())
        .output()
        .unwrap();
    assert!(limits.status.success(), "{}", String::from_utf8_lossy(&limits.stderr));
}

#[test]
fn one_tap_of_convolution_agrees_with_the_interpreter() {
    let folder = Folder::new(&Tiny { d_conv: 1, storage: Storage::All(DType::Bf16), ..small() });
    let (code, stderr) = folder.build(&["--bisect"]);
    assert_eq!(code, Some(0), "{stderr}");
    // A prompt in one step or token by token.
    let (mut engine, _) = folder.plan();
    let tokens = [1, 20, 33, 7, 7, 150];
    let whole = engine.add_sequence().unwrap();
    let expected = engine.prefill(whole, &tokens, None, None).unwrap().rows().flatten().copied().collect::<Vec<f32>>();
    engine.remove_sequence(whole).unwrap();
    let parts = engine.add_sequence().unwrap();
    let found = tokens.map(|token| {
        engine.prefill(parts, &[token], None, None).unwrap().rows().flatten().copied().collect::<Vec<f32>>()
    });
    assert_eq!(found.last(), Some(&expected));
    drop(engine);
    let plan = folder.path("gpu.plan");
    let (code, stderr) = folder.build(&["-o", plan.to_str().unwrap(), "--target", "sm_90a"]);
    assert!(code == Some(0) && Path::new(&plan).is_file(), "{stderr}");
}
