//! The keys of config.json that are not read: those that must hold one value, and those that change nothing.
//! Any other key is refused, because it could change the arithmetic.

use std::path::Path;

use crate::error::{Error, Result};
use crate::json::{Keys, show};

/// A key, the JSON of the accepted values, and the meaning of any other value.
const FIXED: &[(&str, &[&str], &str)] = &[
    ("hidden_act", &["\"silu\"", "\"swish\""], "Jamba's one activation, under both of its names"),
    ("sliding_window", &["null"], "attention sees the whole text"),
    ("rope_theta", &["null"], "Jamba's attention has no positions"),
    ("rope_scaling", &["null"], "Jamba's attention has no positions"),
    ("rope_parameters", &["null"], "Jamba's attention has no positions"),
    ("mamba_inner_layernorms", &["true"], "dt, B and C are always normalised"),
    ("attention_bias", &["false", "null"], "Jamba's attention has no biases"),
    ("mlp_bias", &["false", "null"], "Jamba's feed-forward has no biases"),
    ("is_encoder_decoder", &["false"], "Jamba is a decoder"),
    ("add_cross_attention", &["false"], "Jamba has no cross attention"),
    ("cross_attention_hidden_size", &["null"], "Jamba has no cross attention"),
    ("pruned_heads", &["{}", "null"], "every head is there"),
    ("per_layer_config", &["null", "{}"], "all layers have the same sizes"),
    ("compression_config", &["null"], ELSEWHERE),
    ("quantization", &["null"], ELSEWHERE),
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
    ("every tensor states its own dtype, and we choose how to compute", &["torch_dtype", "dtype", "use_bfloat16"]),
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
        "classification heads, which a causal language model lacks",
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

/// Refuses the first key left in `keys`, the content of `path`, that could change the arithmetic.
pub(crate) fn check_unread(keys: Keys, path: &Path) -> Result<()> {
    for (key, value) in keys.into_unread() {
        if let Some((_, allowed, reason)) = FIXED.iter().find(|(name, ..)| *name == key) {
            if !allowed.contains(&value.to_string().as_str()) {
                let found = show(&value);
                return Err(Error::key(path, &key, found, format!("{} ({reason})", allowed.join(" or "))));
            }
        } else if !CHANGE_NOTHING.iter().any(|(_, names)| names.contains(&key.as_str())) {
            return Err(Error::UnknownKey { path: path.into(), key, found: show(&value) });
        }
    }
    Ok(())
}
