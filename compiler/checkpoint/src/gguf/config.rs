//! config.json of a GGUF file's metadata.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Keys;
use crate::error::{Error, Result};
use crate::ignore::Ignore;
use crate::index::TensorInfo;

/// Prefix of the keys of the model's sizes.
const PREFIX: &str = "jamba.";

/// Keys that are read, without the prefix.
const READ: [&str; 14] = [
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "vocab_size",
    "expert_count",
    "expert_used_count",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.layer_norm_rms_epsilon",
    "ssm.conv_kernel",
    "ssm.inner_size",
    "ssm.state_size",
    "ssm.time_step_rank",
];
/// Keys that may state the width of a head.
const HEAD_WIDTHS: [&str; 2] = ["attention.key_length", "attention.value_length"];

/// The text of config.json. Which layers are attention or have experts follows from the tensors.
pub(super) fn read(keys: &Keys, tensors: &[TensorInfo], ignore: &Ignore) -> Result<Vec<u8>> {
    let count = |key: &str| keys.count(&format!("{PREFIX}{key}"));
    let n_layers = count("block_count")?;
    let (d_model, d_inner) = (count("embedding_length")?, count("ssm.inner_size")?);
    let heads = count("attention.head_count")?;
    if d_model == 0 || !d_inner.is_multiple_of(d_model) {
        return Err(keys.refuse(&format!("{PREFIX}ssm.inner_size"), &format!("a multiple of the width, {d_model}")));
    }
    let eps = format!("{PREFIX}attention.layer_norm_rms_epsilon");
    let Some(eps) = keys.get(&eps).filter(|value| value.is_number()) else {
        return Err(keys.refuse(&eps, "a number"));
    };
    let known = |key: &str| READ.contains(&key) || HEAD_WIDTHS.contains(&key);
    for key in keys.metadata.keys() {
        if key.strip_prefix(PREFIX).is_some_and(|rest| !known(rest)) && !ignore.has_key(key) {
            let found = keys.get(key).map_or_else(String::new, crate::json::show);
            return Err(Error::UnknownKey { path: keys.path.into(), key: key.clone(), found });
        }
    }

    let has = |name: String| tensors.iter().any(|tensor| tensor.name == name);
    let layers_with = |part: &str| -> BTreeSet<u64> {
        (0..n_layers).filter(|layer| has(format!("model.layers.{layer}.{part}.weight"))).collect()
    };
    let (attention, mixtures) = (layers_with("self_attn.q_proj"), layers_with("feed_forward.router"));
    let every = |layers: &BTreeSet<u64>, kind: &str, tensor: &str| {
        period(layers, n_layers).ok_or_else(|| {
            let expected = "layers at equal distances, the first no later than the distance";
            Error::file(keys.path, format!("{kind} ({tensor}) in layers {layers:?}"), expected)
        })
    };
    let (attention_period, attention_offset) = every(&attention, "attention", "attn_q")?;
    let (expert_period, expert_offset) = every(&mixtures, "experts", "ffn_gate_inp")?;
    let n_experts = keys.optional(&format!("{PREFIX}expert_count"))?.filter(|_| !mixtures.is_empty()).unwrap_or(1);
    let head_width = keys.optional(&format!("{PREFIX}{}", HEAD_WIDTHS[0]))?;
    let embedding = tensors.iter().find(|tensor| tensor.name == "model.embed_tokens.weight");
    let Some(&vocab) = embedding.and_then(|tensor| tensor.shape.first()) else {
        return Err(Error::tensor(keys.path, "token_embd.weight", "no such tensor", "the embedding"));
    };

    let mut config = json!({
        "architectures": ["JambaForCausalLM"],
        "model_type": "jamba",
        "hidden_act": "silu",
        "hidden_size": d_model,
        "intermediate_size": count("feed_forward_length")?,
        "num_hidden_layers": n_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads(keys, heads)?,
        "attn_layer_period": attention_period,
        "attn_layer_offset": attention_offset,
        "expert_layer_period": expert_period,
        "expert_layer_offset": expert_offset,
        "num_experts": n_experts,
        "num_experts_per_tok": keys.optional(&format!("{PREFIX}expert_used_count"))?.unwrap_or(1).max(1),
        "mamba_d_conv": count("ssm.conv_kernel")?,
        "mamba_d_state": count("ssm.state_size")?,
        "mamba_dt_rank": count("ssm.time_step_rank")?,
        "mamba_expand": d_inner / d_model,
        "mamba_conv_bias": tensors.iter().any(|tensor| tensor.name.ends_with(".conv1d.bias")),
        "mamba_proj_bias": tensors.iter().any(|tensor| tensor.name.ends_with(".in_proj.bias")),
        "max_position_embeddings": count("context_length")?,
        "rms_norm_eps": eps,
        "tie_word_embeddings": !has("lm_head.weight".to_owned()),
        "vocab_size": vocab,
        "bos_token_id": super::tokenizer::bos(keys)?,
        "eos_token_id": super::tokenizer::ends(keys)?,
        "pad_token_id": keys.optional("tokenizer.ggml.padding_token_id")?,
    });
    if let Some(width) = head_width {
        config["head_dim"] = json!(width);
    }
    Ok(format!("{config:#}\n").into_bytes())
}

/// Heads of keys and values: one number, or one for each layer, 0 for layers without attention.
fn kv_heads(keys: &Keys, heads: u64) -> Result<u64> {
    let key = format!("{PREFIX}attention.head_count_kv");
    match keys.get(&key) {
        Some(Value::Array(of_layers)) => {
            let counts: Option<BTreeSet<u64>> = of_layers.iter().map(Value::as_u64).collect();
            let counts: Vec<u64> = counts.into_iter().flatten().filter(|count| *count > 0).collect();
            match counts[..] {
                [] => Ok(heads),
                [one] => Ok(one),
                _ => Err(keys.refuse(&key, "one number for all layers with attention, and 0 for the others")),
            }
        }
        _ => keys.count(&key),
    }
}

/// The period and the offset that give these layers of `n_layers`, if any do.
fn period(layers: &BTreeSet<u64>, n_layers: u64) -> Option<(u64, u64)> {
    let mut places = layers.iter().copied();
    let (period, offset) = match (places.next(), places.next()) {
        (None, _) => (n_layers + 1, n_layers),
        (Some(only), None) => (n_layers, only),
        (Some(first), Some(second)) => (second - first, first),
    };
    let fits = (0..n_layers).all(|layer| layers.contains(&layer) == (layer % period == offset));
    fits.then_some((period, offset))
}
