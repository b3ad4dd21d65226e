//! The keys of config.json that are not read: those that must hold one value, those that change nothing, and those of other models
//! that transformers' Jamba does not read either. Any other key is refused, because it could change the arithmetic.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::ignore::Ignore;
use crate::json::{Keys, show};
use crate::remark::Remark;

/// A key, the JSON of the accepted values, and the meaning of any other value.
const FIXED: &[(&str, &[&str], &str)] = &[
    ("hidden_act", &["\"silu\"", "\"swish\""], "Jamba's one activation, under both of its names"),
    ("sliding_window", &["null"], "attention sees the whole text"),
    ("mamba_inner_layernorms", &["true"], "dt, B and C are always normalised"),
    ("attention_bias", &["false", "null"], "Jamba's attention has no biases"),
    ("mlp_bias", &["false", "null"], "Jamba's feed-forward has no biases"),
    ("is_encoder_decoder", &["false"], "Jamba is a decoder"),
    ("add_cross_attention", &["false"], "Jamba has no cross attention"),
    ("cross_attention_hidden_size", &["null"], "Jamba has no cross attention"),
    ("pruned_heads", &["{}", "null"], "every head is there"),
    ("per_layer_config", &["null", "{}"], "all layers have the same sizes"),
    ("compression_config", &["null"], ELSEWHERE),
];

const ELSEWHERE: &str = "how tensors are stored is read from quantization_config";

/// Keys whose value has no effect, with the reason.
const CHANGE_NOTHING: &[(&str, &[&str])] = &[
    (
        "where the file comes from and what wrote it",
        &[
            "_name_or_path",
            "name_or_path",
            "_commit_hash",
            "auto_map",
            "transformers_version",
            "unsloth_version",
            "unsloth_fixed",
            "tokenizer_class",
        ],
    ),
    ("every tensor states its own dtype, and we choose how to compute", &["use_bfloat16"]),
    (
        "which of several equal implementations transformers picks",
        &[
            "use_mamba_kernels",
            "use_mambapy",
            "use_associative_scan",
            "_attn_implementation",
            "_attn_implementation_autoset",
            "_attn_implementation_internal",
            "attn_implementation",
            "_experts_implementation",
            "_experts_implementation_internal",
            "experts_implementation",
            "chunk_size_feed_forward",
            "torchscript",
            "tf_legacy_loss",
        ],
    ),
    (
        "what transformers returns beside the logits, and how many of them",
        &[
            "use_cache",
            "num_logits_to_keep",
            "calc_logits_for_entire_prompt",
            "return_dict",
            "output_attentions",
            "output_hidden_states",
            "output_router_logits",
        ],
    ),
    ("training alone", &["initializer_range", "attention_dropout", "router_aux_loss_coef", "gradient_checkpointing"]),
    (
        "classification heads, where the architecture has none",
        &["id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params"],
    ),
    (
        "an encoder beside the decoder, which Jamba lacks",
        &["is_decoder", "tie_encoder_decoder", "decoder_start_token_id", "prefix", "sep_token_id"],
    ),
    (
        "sampling, which the user asks for at run time",
        &[
            "bad_words_ids",
            "begin_suppress_tokens",
            "diversity_penalty",
            "do_sample",
            "early_stopping",
            "encoder_no_repeat_ngram_size",
            "exponential_decay_length_penalty",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "length_penalty",
            "max_length",
            "max_new_tokens",
            "min_length",
            "no_repeat_ngram_size",
            "num_beam_groups",
            "num_beams",
            "num_return_sequences",
            "output_scores",
            "remove_invalid_values",
            "repetition_penalty",
            "return_dict_in_generate",
            "suppress_tokens",
            "temperature",
            "top_k",
            "top_p",
            "typical_p",
        ],
    ),
];

/// Keys of other models, which transformers' Jamba does not read, with the reason. They are ignored with a note.
const OTHER_MODELS: &[(&str, &[&str])] = &[
    (
        "Jamba's attention has no positions",
        &[
            "rope_theta",
            "rope_scaling",
            "rope_parameters",
            "rope_type",
            "rope_interleaved",
            "rope_local_base_freq",
            "partial_rotary_factor",
            "rotary_dim",
            "rotary_pct",
            "rotary_emb_base",
            "original_max_position_embeddings",
            "position_embedding_type",
            "n_positions",
            "type_vocab_size",
        ],
    ),
    (
        "other names of sizes that Jamba's own keys give",
        &["d_model", "d_ff", "dim", "n_embd", "n_inner", "n_head", "n_heads", "n_layer", "n_layers", "num_layers"],
    ),
    (
        "limits on the length of texts",
        &[
            "model_max_length",
            "max_seq_len",
            "max_seq_length",
            "max_sequence_length",
            "seq_len",
            "seq_length",
            "seqlen",
        ],
    ),
    (
        "training and initialisation",
        &[
            "embd_pdrop",
            "attn_pdrop",
            "resid_pdrop",
            "initializer_factor",
            "init_std",
            "label_smoothing",
            "layerdrop",
            "pretraining_tp",
            "rescale_prenorm_residual",
            "router_bias_update_rate",
            "router_jitter_noise",
            "router_z_loss_coef",
            "z_loss_coef",
            "time_step_min",
            "time_step_max",
            "time_step_floor",
            "time_step_init_scheme",
            "time_step_scale",
            "use_gradient_checkpointing",
        ],
    ),
    (
        "implementations and precision of intermediate values",
        &[
            "_flash_attn_2_enabled",
            "attn_impl",
            "cache_implementation",
            "fused_add_norm",
            "residual_in_fp32",
            "use_flash_attention",
            "use_flash_attention_2",
            "use_flash_attn",
            "use_fused_kernels",
        ],
    ),
    (
        "special tokens, which the tokenizer names",
        &[
            "bos_token",
            "eos_token",
            "pad_token",
            "unk_token",
            "cls_token_id",
            "mask_token_id",
            "unk_token_id",
            "additional_special_tokens",
        ],
    ),
    (
        "windows of models that have sliding_window",
        &["max_window_layers", "use_sliding_window", "sliding_window_pattern"],
    ),
    (
        "descriptions",
        &[
            "base_model",
            "scope",
            "datasets",
            "language",
            "license",
            "model_name",
            "model_size",
            "pipeline_tag",
            "tags",
            "trust_remote_code",
            "version",
        ],
    ),
];

fn is_dropout(key: &str) -> bool {
    key == "dropout" || key.starts_with("dropout_") || key.ends_with("_dropout") || key.ends_with("_dropout_prob")
}

fn is_of_other_models(key: &str) -> bool {
    OTHER_MODELS.iter().any(|(_, names)| names.contains(&key)) || is_dropout(key)
}

/// Warns of keys to ignore that config.json, whose keys are `all`, does not have, or that are read or accepted anyway.
fn check_ignore(all: &BTreeSet<String>, unread: &BTreeMap<String, Value>, path: &Path, ignore: &Ignore) -> Vec<Remark> {
    let reason = |key: &String| match unread.get(key) {
        None if all.contains(key) => Some("jambac reads this key, and does not ignore it"),
        None => Some("the file has no such key"),
        Some(value) if is_accepted(key, value) => Some("jambac accepts this key without it"),
        Some(_) => None,
    };
    let warning = |key: &String| {
        let reason = reason(key)?;
        Some(Remark::Warning(format!("model.ignore_keys: {key:?} has no effect on {}: {reason}", path.display())))
    };
    ignore.keys.iter().filter_map(warning).collect()
}

/// True for a key that is not refused.
fn is_accepted(key: &str, value: &Value) -> bool {
    let fixed = FIXED.iter().find(|(name, ..)| *name == key);
    fixed.is_some_and(|(_, allowed, _)| allowed.contains(&value.to_string().as_str()))
        || CHANGE_NOTHING.iter().any(|(_, names)| names.contains(&key))
        || is_of_other_models(key)
}

/// Refuses the first key left in `keys`, the content of `path`, that could change the arithmetic and is not in `ignore`. `all` are the
/// file's keys. Returns the remarks of reading the file, with one on the ignored keys, and the keys that only `ignore` allows.
pub(crate) fn check_unread(
    keys: Keys,
    all: &BTreeSet<String>,
    path: &Path,
    ignore: &Ignore,
) -> Result<(Vec<Remark>, Vec<String>)> {
    let (unread, mut remarks) = keys.into_unread();
    remarks.extend(check_ignore(all, &unread, path, ignore));
    let (mut ignored, mut dropped) = (Vec::new(), Vec::new());
    for (key, value) in unread {
        if ignore.has_key(&key) && !is_accepted(&key, &value) {
            ignored.push(format!("{key} = {}", show(&value)));
            dropped.push(key);
        } else if let Some((_, allowed, reason)) = FIXED.iter().find(|(name, ..)| *name == key) {
            if !allowed.contains(&value.to_string().as_str()) {
                let found = show(&value);
                return Err(Error::key(path, &key, found, format!("{} ({reason})", allowed.join(" or "))));
            }
        } else if CHANGE_NOTHING.iter().any(|(_, names)| names.contains(&key.as_str())) {
            continue;
        } else if is_of_other_models(&key) {
            if !value.is_null() {
                ignored.push(format!("{key} = {}", show(&value)));
            }
        } else {
            return Err(Error::UnknownKey { path: path.into(), key, found: show(&value) });
        }
    }
    if !ignored.is_empty() {
        remarks.push(Remark::Note(format!(
            "{}: ignored, as Jamba has no use for it: {}",
            path.display(),
            ignored.join(", ")
        )));
    }
    Ok((remarks, dropped))
}
