//! Parsers of checkpoints: config.json, headers of safetensors and GGUF, the index of shards, and the small files of tokenizers.

use std::path::Path;

use jambac_checkpoint::{JambaConfig, parsers};
use serde_json::json;

use crate::file;

const PATH: &str = "input";

pub fn config(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(config) = JambaConfig::parse(text, Path::new(PATH)) {
        assert!(config.n_layers * config.n_experts <= 1 << 16 && config.d_state <= 1024, "{config:?}");
    }
}

pub fn configs() -> Vec<Vec<u8>> {
    let models = ["tiny", "jamba-3b", "jamba-mini", "jamba-large"].map(|model| format!("models/{model}/config.json"));
    let quantized = json!({
        "model_type": "jamba", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 8,
        "vocab_size": 128, "eos_token_id": [2, 5], "quantization_config": { "quant_method": "gptq", "bits": 4, "group_size": 128,
        "desc_act": false, "sym": true },
    });
    models.iter().map(|path| file(path)).chain([quantized.to_string().into_bytes()]).collect()
}

pub fn safetensors(data: &[u8]) {
    if let Ok(tensors) = parsers::safetensors(data, Path::new(PATH)) {
        let inside = tensors.iter().all(|tensor| data.get(tensor.byte_range.clone()).is_some());
        assert!(inside, "{tensors:?} of {} bytes", data.len());
    }
}

pub fn safetensors_files() -> Vec<Vec<u8>> {
    let file = |header: serde_json::Value, data: usize| {
        let header = header.to_string();
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![1; data]].concat()
    };
    vec![
        file(json!({ "a": { "dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24] } }), 24),
        file(
            json!({
                "__metadata__": { "format": "pt" },
                "a": { "dtype": "BF16", "shape": [4], "data_offsets": [0, 8] },
                "b": { "dtype": "F8_E4M3", "shape": [2, 2], "data_offsets": [8, 12] },
                "c": { "dtype": "I64", "shape": [], "data_offsets": [12, 20] },
            }),
            20,
        ),
        file(json!({}), 0),
    ]
}

pub fn index(data: &[u8]) {
    for shard in parsers::index(data, Path::new(PATH)).into_iter().flatten() {
        let mut parts = Path::new(&shard).components();
        let is_name = matches!((parts.next(), parts.next()), (Some(std::path::Component::Normal(_)), None));
        assert!(is_name && !shard.contains(['/', '\\']), "{shard:?} leads out of the folder");
    }
}

pub fn indexes() -> Vec<Vec<u8>> {
    [
        json!({ "metadata": { "total_size": 16 }, "weight_map": { "a": "model-00001-of-00002.safetensors", "b": "x" } }),
        json!({ "weight_map": { "model.layers.0.mamba.in_proj.weight": "../x.safetensors" } }),
    ]
    .map(|index| index.to_string().into_bytes())
    .to_vec()
}

pub fn small_texts(data: &[u8]) {
    let Some((kind, text)) = data.split_first() else { return };
    let _ = parsers::small_text(*kind, text, Path::new(PATH));
}

pub fn some_small_texts() -> Vec<Vec<u8>> {
    [
        (0, r#"{"eos_token_id": [2, 5], "temperature": 0.6, "top_k": 40, "top_p": 0.9, "do_sample": true}"#),
        (1, r#"{"chat_template": [{"name": "default", "template": "{{ x }}"}], "bos_token": "<s>"}"#),
        (1, r#"{"chat_template": {"default": "d", "rag": "r"}}"#),
        (2, "version https://git-lfs.github.com/spec/v1"),
    ]
    .map(|(kind, text)| [&[kind], text.as_bytes()].concat())
    .to_vec()
}

pub fn gguf(data: &[u8]) {
    if let Ok(ranges) = parsers::gguf(data, Path::new(PATH)) {
        let inside = ranges.iter().all(|range| data.get(range.clone()).is_some());
        assert!(inside, "{ranges:?} of {} bytes", data.len());
    }
}

pub fn gguf_files() -> Vec<Vec<u8>> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let key = |name: &str, kind: u32, value: &[u8]| [&text(name)[..], &kind.to_le_bytes(), value].concat();
    let tensor = |name: &str, sizes: &[u64], kind: u32, offset: u64| {
        let sizes_bytes: Vec<u8> = sizes.iter().flat_map(|size| size.to_le_bytes()).collect();
        let n = (sizes.len() as u32).to_le_bytes();
        [&text(name)[..], &n, &sizes_bytes, &kind.to_le_bytes(), &offset.to_le_bytes()].concat()
    };
    let list = [&8_u32.to_le_bytes()[..], &2_u64.to_le_bytes(), &text("a"), &text("▁b")].concat();
    let head = [
        b"GGUF".to_vec(),
        3_u32.to_le_bytes().to_vec(),
        2_u64.to_le_bytes().to_vec(),
        4_u64.to_le_bytes().to_vec(),
        key("general.architecture", 8, &text("jamba")),
        key("jamba.block_count", 4, &2_u32.to_le_bytes()),
        key("jamba.attention.layer_norm_rms_epsilon", 6, &1e-6_f32.to_le_bytes()),
        key("tokenizer.ggml.tokens", 9, &list),
        tensor("token_embd.weight", &[32, 2], 8, 0),
        tensor("output_norm.weight", &[4], 0, 96),
    ]
    .concat();
    let mut whole = head;
    whole.resize(whole.len().next_multiple_of(32) + 96 + 16, 0);
    vec![whole]
}
