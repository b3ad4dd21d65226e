//! Writes GGUF files as llama.cpp's converter does: its names, its order of dimensions, A in place of A_log.

use std::path::Path;

use half::{bf16, f16};
use jambac_checkpoint::JambaConfig;
use serde_json::Value;

use super::blocks::{Type, encode};

/// A value of the metadata.
#[derive(Clone)]
pub enum Meta {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

/// A tensor to write. The shape is outermost first.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub number: u32,
    pub bytes: Vec<u8>,
}

/// A file to write.
#[derive(Clone)]
pub struct File {
    pub version: u32,
    pub metadata: Vec<(String, Meta)>,
    pub tensors: Vec<Tensor>,
}

impl File {
    /// The key's value, to change.
    pub fn key(&mut self, key: &str) -> &mut Meta {
        &mut self.metadata.iter_mut().find(|(known, _)| known == key).expect("a key").1
    }

    pub fn drop_key(&mut self, key: &str) {
        self.metadata.retain(|(known, _)| known != key);
    }

    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).expect("a tensor")
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            text(&mut out, key);
            meta(&mut out, value);
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            text(&mut out, &tensor.name);
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|&size| out.extend((size as u64).to_le_bytes()));
            out.extend(tensor.number.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset = (offset + tensor.bytes.len() as u64).next_multiple_of(32);
        }
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(&tensor.bytes);
        }
        out
    }

    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).unwrap();
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn meta(out: &mut Vec<u8>, value: &Meta) {
    let mut number = |kind: u32| out.extend(kind.to_le_bytes());
    match value {
        Meta::U32(value) => {
            number(4);
            out.extend(value.to_le_bytes());
        }
        Meta::F32(value) => {
            number(6);
            out.extend(value.to_le_bytes());
        }
        Meta::Bool(value) => {
            number(7);
            out.push(u8::from(*value));
        }
        Meta::Text(value) => {
            number(8);
            text(out, value);
        }
        Meta::Texts(values) => {
            number(9);
            list(out, 8, values.len());
            values.iter().for_each(|value| text(out, value));
        }
        Meta::I32s(values) => {
            number(9);
            list(out, 5, values.len());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
        Meta::F32s(values) => {
            number(9);
            list(out, 6, values.len());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
    }
}

fn list(out: &mut Vec<u8>, kind: u32, length: usize) {
    out.extend(kind.to_le_bytes());
    out.extend((length as u64).to_le_bytes());
}

/// The model's sizes as metadata.
pub fn sizes(config: &JambaConfig) -> Vec<(String, Meta)> {
    let kv_heads = |layer| if config.is_attention(layer) { config.n_kv_heads as i32 } else { 0 };
    let count = |count: usize| Meta::U32(count as u32);
    let mut metadata = vec![
        ("general.architecture", Meta::Text("jamba".into())),
        ("jamba.block_count", count(config.n_layers)),
        ("jamba.context_length", count(config.max_positions)),
        ("jamba.embedding_length", count(config.d_model)),
        ("jamba.feed_forward_length", count(config.d_ff)),
        ("jamba.attention.head_count", count(config.n_heads)),
        ("jamba.attention.head_count_kv", Meta::I32s((0..config.n_layers).map(kv_heads).collect())),
        ("jamba.ssm.conv_kernel", count(config.d_conv)),
        ("jamba.ssm.inner_size", count(config.d_inner)),
        ("jamba.ssm.state_size", count(config.d_state)),
        ("jamba.ssm.time_step_rank", count(config.dt_rank)),
        ("jamba.attention.layer_norm_rms_epsilon", Meta::F32(config.rms_norm_eps as f32)),
        ("jamba.expert_count", count(config.n_experts)),
        ("jamba.expert_used_count", count(config.top_k)),
    ];
    if config.d_head * config.n_heads != config.d_model {
        metadata.push(("jamba.attention.key_length", count(config.d_head)));
    }
    metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The vocabulary of a byte-level tokenizer.json, with its chat template.
pub fn vocabulary(tokenizer: &Value, template: Option<&str>) -> Vec<(String, Meta)> {
    let vocab = tokenizer["model"]["vocab"].as_object().unwrap();
    let mut tokens = vec![String::new(); vocab.len()];
    vocab.iter().for_each(|(token, id)| tokens[id.as_u64().unwrap() as usize] = token.clone());
    let mut types = vec![1; tokens.len()];
    for added in tokenizer["added_tokens"].as_array().unwrap() {
        types[added["id"].as_u64().unwrap() as usize] = if added["special"] == true { 3 } else { 4 };
    }
    let merges = tokenizer["model"]["merges"].as_array().unwrap();
    let merge = |pair: &Value| format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
    let mut metadata = vec![
        ("tokenizer.ggml.model", Meta::Text("gpt2".into())),
        ("tokenizer.ggml.pre", Meta::Text("gpt-2".into())),
        ("tokenizer.ggml.tokens", Meta::Texts(tokens)),
        ("tokenizer.ggml.token_type", Meta::I32s(types)),
        ("tokenizer.ggml.merges", Meta::Texts(merges.iter().map(merge).collect())),
        ("tokenizer.ggml.bos_token_id", Meta::U32(1)),
        ("tokenizer.ggml.eos_token_id", Meta::U32(2)),
        ("tokenizer.ggml.padding_token_id", Meta::U32(0)),
        ("tokenizer.ggml.add_bos_token", Meta::Bool(true)),
    ];
    metadata.extend(template.map(|template| ("tokenizer.chat_template", Meta::Text(template.into()))));
    metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// llama.cpp's name of a parameter with all its experts, by its canonical name.
fn name(canonical: &str) -> String {
    let Some((layer, part)) = canonical.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) else {
        return match canonical {
            "model.embed_tokens.weight" => "token_embd.weight".into(),
            "model.final_layernorm.weight" => "output_norm.weight".into(),
            "lm_head.weight" => "output.weight".into(),
            other => panic!("{other}"),
        };
    };
    let (module, ending) = part.rsplit_once('.').unwrap();
    let found = match module {
        "input_layernorm" => "attn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "mamba.in_proj" => "ssm_in",
        "mamba.conv1d" => "ssm_conv1d",
        "mamba.x_proj" => "ssm_x",
        "mamba.dt_proj" => "ssm_dt",
        "mamba.out_proj" => "ssm_out",
        "mamba.dt_layernorm" => "ssm_dt_norm",
        "mamba.b_layernorm" => "ssm_b_norm",
        "mamba.c_layernorm" => "ssm_c_norm",
        "mamba" => return format!("blk.{layer}.{}", if ending == "D" { "ssm_d" } else { "ssm_a" }),
        "pre_ff_layernorm" => "ffn_norm",
        "feed_forward.router" => "ffn_gate_inp",
        "feed_forward.gate_proj" => "ffn_gate",
        "feed_forward.up_proj" => "ffn_up",
        "feed_forward.down_proj" => "ffn_down",
        "feed_forward.experts.*.gate_proj" => "ffn_gate_exps",
        "feed_forward.experts.*.up_proj" => "ffn_up_exps",
        "feed_forward.experts.*.down_proj" => "ffn_down_exps",
        other => panic!("{other}"),
    };
    format!("blk.{layer}.{found}.{ending}")
}

/// A parameter as a tensor of the file, and the values that the file holds, in f64.
pub fn tensor(canonical: &str, shape: &[usize], values: &[f32], of: Type) -> (Tensor, Vec<f64>) {
    let mut shape = shape.to_vec();
    if canonical.ends_with(".conv1d.weight") {
        shape.retain(|&size| size > 1);
    }
    // The file has −exp of A_log.
    let stored: Vec<f32> = match canonical.ends_with(".A_log") {
        true => values.iter().map(|&value| -value.exp()).collect(),
        false => values.to_vec(),
    };
    let (bytes, held) = match of {
        Type::F32 => (floats(&stored, |value| value.to_le_bytes().to_vec()), widened(&stored, |value| value)),
        Type::F16 => (
            floats(&stored, |value| f16::from_f32(value).to_le_bytes().to_vec()),
            widened(&stored, |value| f16::from_f32(value).to_f32()),
        ),
        Type::Bf16 => (
            floats(&stored, |value| bf16::from_f32(value).to_le_bytes().to_vec()),
            widened(&stored, |value| bf16::from_f32(value).to_f32()),
        ),
        blocks => encode(blocks, &stored),
    };
    let held = if canonical.ends_with(".A_log") { widened(values, |value| value) } else { held };
    (Tensor { name: name(canonical), shape, number: of.number(), bytes }, held)
}

fn floats(values: &[f32], bytes: impl Fn(f32) -> Vec<u8>) -> Vec<u8> {
    values.iter().flat_map(|&value| bytes(value)).collect()
}

fn widened(values: &[f32], value: impl Fn(f32) -> f32) -> Vec<f64> {
    values.iter().map(|&x| f64::from(value(x))).collect()
}
