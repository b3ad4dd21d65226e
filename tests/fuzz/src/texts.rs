//! Texts that the runtime evaluates: templates, tokenizers, constraints; and what reads the model's answers: streams, samplers.

use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use jamba_runtime::{
    Chat, ChatTemplate, Constraint, GenerateOptions, Message, Sampler, SamplerOptions, SpecialTokens, Tokenizer,
};
use serde_json::json;

use crate::file;
use crate::plans::engine;

/// A byte-level tokenizer with a special token, a normalizer and a post-processor.
const SMALL: &str = r#"{"version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Replace", "pattern": {"String": "x"}, "content": "ab"}]},
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
    "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
        "vocab": {"<s>": 0, "a": 1, "b": 2, "Ġ": 3, "Ġa": 4, "Ã": 5, "¼": 6}, "merges": [["Ġ", "a"]]}}"#;

pub fn ptx(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data) {
        let _ = ptxsim::Module::parse(text).map(|module| module.entries().count());
    }
}

pub fn ptx_texts() -> Vec<Vec<u8>> {
    let kernel = ".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 a, .param .u32 n)\n.maxntid 128, 1, 1\n{\n\
        .reg .pred %p<4>;\n.reg .b32 %r<9>;\n.reg .f32 %f<9>;\n.reg .b64 %rd<9>;\n.shared .align 16 .b8 pool[1024];\n\
        ld.param.u64 %rd1, [a];\nld.param.u32 %r2, [n];\nmov.u32 %r1, %tid.x;\nsetp.ge.s32 %p1, %r1, %r2;\n@%p1 bra $L1;\n\
        mul.wide.u32 %rd2, %r1, 4;\nadd.s64 %rd3, %rd1, %rd2;\nld.global.f32 %f1, [%rd3];\nfma.rn.f32 %f2, %f1, 0f3F800000, %f1;\n\
        bar.sync 0;\nst.global.f32 [%rd3], %f2;\n$L1:\nret;\n}\n";
    vec![kernel.as_bytes().to_vec()]
}

pub fn template(data: &[u8]) {
    let Ok(template) = ChatTemplate::new(Some(data), Some(br#"{"bos_token": "<s>", "eos_token": "</s>"}"#)) else {
        return;
    };
    let message = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
    let chat = Chat {
        tools: Some(vec![
            json!({ "type": "function", "function": { "name": "f", "parameters": { "type": "object" } } }),
        ]),
        ..Chat::new(&[
            message("system", "Be <s>."),
            message("user", "Grüße\n"),
            message("assistant", "<think>x</think>y"),
        ])
    };
    if let Ok(rendered) = template.render_parts(&chat) {
        for part in rendered.content() {
            assert!(rendered.text().get(part.clone()).is_some(), "{part:?} of {:?}", rendered.text());
        }
    }
}

pub fn templates() -> Vec<Vec<u8>> {
    let own = ["models/tiny/chat_template.jinja", "runtime/tests/chat/jamba.jinja", "runtime/tests/chat/chatml.jinja"];
    let more = [
        "{% set ns = namespace(x='a') %}{% for i in range(5) %}{% set ns.x = ns.x ~ i %}{% endfor %}{{ ns.x | upper }}",
        "{%- macro m(a, b=1) -%}{{ a }}{{ '%5d' % b }}{%- endmacro -%}{{ m(messages[0].content) }}{{ messages | tojson(indent=2) }}",
        "{{ messages | map(attribute='role') | join(', ') }}{{ messages[::-1] | length }}{{ 'a' * 9 }}{{ [1, 2][-1] / 3 }}",
        "{% for m in messages if m.role is string %}{{ loop.index }}{{ m.content.split('e') }}{{ '{:>9}'.format(m.role) }}{% endfor %}",
        "{% call(x) f() %}{{ x }}{% endcall %}{% filter trim %} a {% endfilter %}{{ raise_exception('no') }}",
    ];
    own.iter().map(|path| file(path)).chain(more.map(|text| text.as_bytes().to_vec())).collect()
}

pub fn tokenizer(data: &[u8]) {
    let Ok(tokenizer) = Tokenizer::new(data, None, None) else { return };
    for text in ["", "ab xx Grüße <s> 12345 \u{1F600}", "   \n\t", &"a b".repeat(200)] {
        let _ = tokenizer.encode(text);
        if let Ok(tokens) = tokenizer.encode_plain(text) {
            let _ = tokenizer.decode_with(&tokens, SpecialTokens::All);
        }
    }
    let _ = tokenizer.decode(&[0, 1, 2, 5, 6, 100, u32::MAX]);
    (0..8).for_each(|token| drop(tokenizer.token_bytes(token)));
}

pub fn tokenizers() -> Vec<Vec<u8>> {
    let fallback = SMALL
        .replace("\"byte_fallback\": false", "\"byte_fallback\": true")
        .replace("\"¼\": 6", "\"<0x41>\": 6, \"▁\": 7")
        .replace(
            "{\"type\": \"ByteLevel\", \"add_prefix_space\": true",
            "{\"type\": \"Metaspace\", \"replacement\": \"▁\"",
        );
    let word = json!({ "model": { "type": "WordPiece", "unk_token": "?", "continuing_subword_prefix": "##", "max_input_chars_per_word": 9,
        "vocab": { "?": 0, "a": 1, "##b": 2 } }, "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true } });
    let unigram = json!({ "model": { "type": "Unigram", "unk_id": 0, "vocab": [["?", 0.0], ["a", -1.0], ["b", -2.0]] },
        "normalizer": { "type": "NFKC" }, "pre_tokenizer": { "type": "Split", "pattern": { "Regex": "[a-z]+" },
        "behavior": "Isolated", "invert": false } });
    [SMALL.to_owned(), fallback, word.to_string(), unigram.to_string()].map(String::into_bytes).to_vec()
}

/// Longest constraint in bytes.
const MOST_CONSTRAINT: usize = 1024;

pub fn constraint(data: &[u8]) {
    let Some((kind, text)) = data.split_first() else { return };
    let Ok(text) = str::from_utf8(text) else { return };
    let constraint = match kind % 3 {
        0 => match serde_json::from_str(text) {
            Ok(schema) => Constraint::JsonSchema(schema),
            Err(_) => return,
        },
        1 => Constraint::Regex(text.to_owned()),
        _ => Constraint::Lark(text.to_owned()),
    };
    // Longer ones take their time to be compiled, and show nothing else.
    if text.len() > MOST_CONSTRAINT {
        return;
    }
    let mut engine = engine().lock().expect("no other target panicked");
    let options = GenerateOptions { max_new: 6, constraint: Some(constraint), ..GenerateOptions::default() };
    let _ = engine.generate(&[1, 20, 30], &options, |_| ControlFlow::Continue(()));
}

pub fn constraints() -> Vec<Vec<u8>> {
    let schema = json!({
        "type": "object", "required": ["a"], "additionalProperties": false,
        "properties": { "a": { "type": "integer", "minimum": 0, "maximum": 130, "multipleOf": 5 }, "b": { "enum": ["x", null, 1.5] },
            "c": { "type": "array", "items": { "$ref": "#/$defs/d" }, "maxItems": 3 } },
        "$defs": { "d": { "anyOf": [{ "type": "string", "pattern": "^[a-z]{1,5}$" }, { "type": "string", "format": "date" }] } },
    });
    [
        (0, schema.to_string()),
        (1, "(a|b)*c{2,5}[^x-z]".into()),
        (2, "start: A B?\nA: /[a-z]+/\nB: \" \" A & /.{3}/\n".into()),
    ]
    .map(|(kind, text): (u8, String)| [&[kind], text.as_bytes()].concat())
    .to_vec()
}

/// Most tokens of a stream: longer ones show nothing else.
const MOST_TOKENS: usize = 64;

/// The pieces of a stream are the text of the whole.
pub fn stream(data: &[u8]) {
    static TINY: OnceLock<Arc<Tokenizer>> = OnceLock::new();
    let read = || Tokenizer::new(&file("models/tiny/tokenizer.json"), None, None).expect("the tiny model's tokenizer");
    let tokenizer = TINY.get_or_init(|| Arc::new(read()));
    let tokens: Vec<u32> = data
        .chunks_exact(2)
        .take(MOST_TOKENS)
        .map(|two| u32::from(u16::from_le_bytes([two[0], two[1]])) % 520)
        .collect();
    let mut stream = tokenizer.stream();
    let mut text = String::new();
    for token in &tokens {
        match stream.push(*token) {
            Ok(piece) => text += &piece,
            Err(_) => return,
        }
    }
    text += &stream.finish().unwrap_or_default();
    if let Ok(whole) = tokenizer.decode(&tokens) {
        assert_eq!(text, whole, "{tokens:?}");
    }
}

pub fn token_lists() -> Vec<Vec<u8>> {
    vec![(0..200).collect(), vec![7; 64], (0..=255).rev().collect()]
}

/// A pick is a token of the vocabulary, whatever the logits and the options are.
pub fn sampler(data: &[u8]) {
    let Some((head, logits)) = data.split_first_chunk::<32>() else { return };
    let float = |at: usize| f32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let options = SamplerOptions {
        temperature: float(0),
        top_k: usize::from(head[4]),
        top_p: float(8),
        min_p: float(12),
        repetition_penalty: float(16),
        presence_penalty: float(20),
        frequency_penalty: float(24),
        logit_bias: vec![(u32::from(head[5]), float(28))],
        seed: Some(u64::from(head[6])),
    };
    let logits: Vec<f32> = logits.chunks_exact(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect();
    let Ok(mut sampler) = Sampler::new(options, logits.len()) else { return };
    let prompt: Vec<u32> =
        head.iter().map(|&token| u32::from(token)).filter(|&token| (token as usize) < logits.len()).collect();
    sampler.observe(&prompt);
    if let Ok(token) = sampler.pick(&logits) {
        assert!((token as usize) < logits.len(), "{token}");
    }
}
