//! Published configs, and every reason to refuse one.

use expect_test::{Expect, expect};
use serde_json::json;

use super::*;

/// Jamba-v0.1's config.json as it is published.
const JAMBA_V0_1: &str = r#"{
    "architectures": ["JambaForCausalLM"], "attention_dropout": 0.0, "attn_layer_offset": 4,
    "attn_layer_period": 8, "auto_map": {"AutoConfig": "configuration_jamba.JambaConfig"}, "bos_token_id": 1,
    "eos_token_id": 2, "expert_layer_offset": 1, "expert_layer_period": 2, "hidden_act": "silu",
    "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336, "mamba_conv_bias": true,
    "mamba_d_conv": 4, "mamba_d_state": 16, "mamba_dt_rank": 256, "mamba_expand": 2, "mamba_proj_bias": false,
    "max_position_embeddings": 262144, "model_type": "jamba", "num_attention_heads": 32, "num_experts": 16,
    "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8, "num_logits_to_keep": 1,
    "output_router_logits": false, "pad_token_id": 0, "rms_norm_eps": 1e-06, "router_aux_loss_coef": 0.001,
    "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
    "transformers_version": "4.40.1", "use_cache": true, "use_mamba_kernels": true, "vocab_size": 65536
}"#;

/// The required keys only.
fn least() -> Value {
    json!({
        "model_type": "jamba", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "vocab_size": 65536,
    })
}

/// `base` with the keys of `changes` set.
fn with(mut base: Value, changes: Value) -> Value {
    let Value::Object(changes) = changes else { panic!("changes are an object") };
    base.as_object_mut().unwrap().extend(changes);
    base
}

fn parse(config: &Value) -> Result<JambaConfig> {
    JambaConfig::parse(&config.to_string(), Path::new("config.json"))
}

/// The least config with `changes`, which must be fine.
fn accepted(changes: Value) -> JambaConfig {
    parse(&with(least(), changes)).unwrap()
}

/// The errors of the least config with each of `changes`, a line each.
fn refused(changes: &[Value], expected: Expect) {
    let errors: String = changes
        .iter()
        .map(|change| format!("{}\n", parse(&with(least(), change.clone())).expect_err(&change.to_string())))
        .collect();
    expected.assert_eq(&errors);
}

#[test]
fn reads_jamba_v0_1() {
    let config = JambaConfig::parse(JAMBA_V0_1, Path::new("config.json")).unwrap();
    let expected = JambaConfig {
        d_model: 4096,
        d_ff: 14336,
        n_layers: 32,
        n_heads: 32,
        n_kv_heads: 8,
        d_head: 128,
        attn_layer_period: 8,
        attn_layer_offset: 4,
        expert_layer_period: 2,
        expert_layer_offset: 1,
        n_experts: 16,
        top_k: 2,
        d_inner: 8192,
        d_state: 16,
        d_conv: 4,
        dt_rank: 256,
        expand: 2,
        vocab: 65536,
        conv_bias: true,
        proj_bias: false,
        tied: false,
        rms_norm_eps: 1e-6,
        max_positions: 262_144,
        bos: Some(1),
        eos: vec![2],
        pad: Some(0),
        quantization: None,
        head: Head::Logits,
    };
    assert_eq!(config, expected);
    let attention: Vec<usize> = (0..32).filter(|layer| config.is_attention(*layer)).collect();
    assert_eq!(attention, [4, 12, 20, 28]);
    assert!((0..32).all(|layer| config.is_moe(layer) == (layer % 2 == 1)));
}

#[test]
fn defaults_are_those_of_jamba_v0_1() {
    assert_eq!(parse(&least()).unwrap(), JambaConfig::parse(JAMBA_V0_1, Path::new("config.json")).unwrap());
}

#[test]
fn reads_the_original_upload() {
    let config = accepted(json!({
        "n_ctx": 1000, "mamba_inner_layernorms": true, "calc_logits_for_entire_prompt": false,
        "transformers_version": "4.40.0.dev0",
    }));
    assert_eq!(config.max_positions, 1000);
}

#[test]
fn one_expert_is_dense_whatever_top_k_says() {
    let config = accepted(json!({"num_experts": 1, "num_experts_per_tok": 2}));
    assert!((0..32).all(|layer| !config.is_moe(layer)));
}

#[test]
fn auto_dt_rank_rounds_up() {
    let changes = json!({"hidden_size": 72, "num_attention_heads": 3, "num_key_value_heads": 1});
    assert_eq!(accepted(with(changes.clone(), json!({"mamba_dt_rank": "auto"}))).dt_rank, 5);
    assert_eq!(accepted(with(changes, json!({"mamba_dt_rank": 7}))).dt_rank, 7);
}

#[test]
fn head_dim_may_be_explicit_where_heads_do_not_divide() {
    let config = accepted(json!({"hidden_size": 100, "num_attention_heads": 24, "head_dim": 16}));
    assert_eq!((config.d_head, config.n_kv_heads), (16, 8));
    assert_eq!(accepted(json!({"head_dim": null, "num_key_value_heads": null})).n_kv_heads, 32);
}

#[test]
fn eos_is_an_integer_a_list_or_null() {
    assert_eq!(accepted(json!({"eos_token_id": 519})).eos, [519]);
    assert_eq!(accepted(json!({"eos_token_id": [2, 518]})).eos, [2, 518]);
    let none = accepted(json!({"eos_token_id": null, "bos_token_id": null, "pad_token_id": null}));
    assert_eq!((none.bos, none.eos, none.pad), (None, vec![], None));
}

#[test]
fn accepts_what_says_again_what_is_known() {
    accepted(json!({"num_experts": 8, "num_local_experts": 8, "hidden_act": "swish", "attention_bias": false}));
    accepted(json!({
        "num_hidden_layers": 3, "attn_layer_period": 2, "attn_layer_offset": 1,
        "layers_block_type": ["mamba", "attention", "mamba"],
    }));
}

#[test]
fn refuses_a_missing_size() {
    let config = with(json!({"model_type": "jamba", "hidden_size": 64}), json!({"num_hidden_layers": 2}));
    let error = format!("{}\n", parse(&config).unwrap_err());
    expect![[r#"
        config.json: intermediate_size: found nothing, expected an integer from 1 to 2147483647
    "#]]
    .assert_eq(&error);
}

#[test]
fn refuses_another_model() {
    refused(
        &[
            json!({"model_type": "mamba2"}),
            json!({"model_type": null}),
            json!({"architectures": ["JambaForTokenClassification"]}),
        ],
        expect![[r#"
            config.json: model_type: found "mamba2", expected "jamba"
            config.json: model_type: found null, expected "jamba"
            config.json: architectures: found ["JambaForTokenClassification"], expected ["JambaForCausalLM"], ["JambaForSequenceClassification"] or ["JambaModel"]
        "#]],
    );
}

#[test]
fn reads_the_labels_of_a_classification() {
    let head =
        |changes: Value| accepted(with(json!({"architectures": ["JambaForSequenceClassification"]}), changes)).head;
    let scores = |labels: &[&str], activation| {
        let labels = labels.iter().map(|&label| label.to_owned()).collect();
        Head::Scores { labels, activation, bias: false }
    };
    assert_eq!(head(json!({})), scores(&["LABEL_0", "LABEL_1"], Activation::Softmax), "transformers' two by default");
    assert_eq!(head(json!({"num_labels": 1})), scores(&["LABEL_0"], Activation::Sigmoid));
    let named = json!({"id2label": {"1": "yes", "0": "no", "2": "both"}, "label2id": {}});
    assert_eq!(head(named), scores(&["no", "yes", "both"], Activation::Softmax));
    let regression = json!({"num_labels": 1, "problem_type": "regression"});
    assert_eq!(head(regression), scores(&["LABEL_0"], Activation::Identity));
    let several = json!({"problem_type": "multi_label_classification"});
    assert_eq!(head(several), scores(&["LABEL_0", "LABEL_1"], Activation::Sigmoid));
    assert_eq!(accepted(json!({"architectures": ["JambaModel"]})).head, Head::Hidden);
    // A causal language model has labels too, which mean nothing.
    assert_eq!(accepted(json!({"num_labels": 7, "id2label": {}})).head, Head::Logits);
    let classification = |changes: Value| with(json!({"architectures": ["JambaForSequenceClassification"]}), changes);
    refused(
        &[
            classification(json!({"num_labels": 3, "id2label": {"0": "no", "1": "yes"}})),
            classification(json!({"id2label": {"0": "no", "2": "yes"}})),
            classification(json!({"id2label": ["no", "yes"]})),
            classification(json!({"num_labels": 0})),
            classification(json!({"num_labels": 1_000_000})),
            classification(json!({"problem_type": "ranking"})),
        ],
        expect![[r#"
            config.json: num_labels, id2label: found 3 and 2 names, expected a name for each label
            config.json: id2label: found {"0":"no","2":"yes"}, expected the name of each id from "0" on, at most 65536
            config.json: id2label: found ["no","yes"], expected the name of each id from "0" on, at most 65536
            config.json: num_labels: found 0, expected an integer from 1 to 2147483647
            config.json: num_labels: found 1000000, expected at most 65536
            config.json: problem_type: found "ranking", expected "regression", "single_label_classification" or "multi_label_classification"
        "#]],
    );
}

#[test]
fn refuses_values_out_of_range() {
    refused(
        &[
            json!({"hidden_size": 0}),
            json!({"num_hidden_layers": -1}),
            json!({"vocab_size": 65536.5}),
            json!({"intermediate_size": 3_000_000_000_u64}),
            json!({"num_attention_heads": null}),
            json!({"num_experts": 0}),
            json!({"num_experts_per_tok": 0}),
            json!({"attn_layer_period": 0}),
            json!({"mamba_d_conv": 0}),
            json!({"mamba_d_state": "16"}),
            json!({"mamba_dt_rank": 0}),
            json!({"mamba_dt_rank": "full"}),
            json!({"mamba_conv_bias": "true"}),
            json!({"rms_norm_eps": 0.0}),
            json!({"rms_norm_eps": "1e-6"}),
            json!({"eos_token_id": [2, "</s>"]}),
            json!({"pad_token_id": 0.5}),
            json!({"bos_token_id": [1, 2]}),
        ],
        expect![[r#"
            config.json: hidden_size: found 0, expected an integer from 1 to 2147483647
            config.json: num_hidden_layers: found -1, expected an integer from 1 to 2147483647
            config.json: vocab_size: found 65536.5, expected an integer from 1 to 2147483647
            config.json: intermediate_size: found 3000000000, expected an integer from 1 to 2147483647
            config.json: num_attention_heads: found null, expected an integer from 1 to 2147483647
            config.json: num_experts: found 0, expected an integer from 1 to 2147483647
            config.json: num_experts_per_tok: found 0, expected an integer from 1 to 2147483647
            config.json: attn_layer_period: found 0, expected an integer from 1 to 2147483647
            config.json: mamba_d_conv: found 0, expected an integer from 1 to 2147483647
            config.json: mamba_d_state: found "16", expected an integer from 1 to 2147483647
            config.json: mamba_dt_rank: found 0, expected an integer from 1 to 2147483647
            config.json: mamba_dt_rank: found "full", expected an integer or "auto"
            config.json: mamba_conv_bias: found "true", expected true or false
            config.json: rms_norm_eps: found 0.0, expected a number greater than 0
            config.json: rms_norm_eps: found "1e-6", expected a number greater than 0
            config.json: eos_token_id: found [2,"</s>"], expected token ids: an integer, a list of integers or null
            config.json: pad_token_id: found 0.5, expected token ids: an integer, a list of integers or null
            config.json: bos_token_id: found [1, 2], expected one token id or null
        "#]],
    );
}

#[test]
fn refuses_values_at_odds_with_each_other() {
    refused(
        &[
            json!({"num_attention_heads": 24}),
            json!({"num_key_value_heads": 5}),
            json!({"attn_layer_offset": 8}),
            json!({"expert_layer_period": 1}),
            json!({"num_experts": 4, "num_experts_per_tok": 5}),
            json!({"num_experts": 4, "num_local_experts": 5}),
            json!({"layers_block_type": ["mamba"]}),
            json!({"num_hidden_layers": 1, "attn_layer_offset": 0, "layer_types": ["mamba"]}),
        ],
        expect![[r#"
            config.json: hidden_size, num_attention_heads: found 4096 and 24, and no head_dim, expected num_attention_heads to divide hidden_size, or an explicit head_dim
            config.json: num_attention_heads, num_key_value_heads: found 32 and 5, expected num_key_value_heads to divide num_attention_heads
            config.json: attn_layer_offset, attn_layer_period: found 8 and 8, expected the offset to be less than the period
            config.json: expert_layer_offset, expert_layer_period: found 1 and 1, expected the offset to be less than the period
            config.json: num_experts_per_tok, num_experts: found 5 and 4, expected at most as many experts for a token as there are experts
            config.json: num_experts, num_local_experts: found 4 and 5, expected the same number: they are two names of one thing
            config.json: layers_block_type: found ["mamba"], expected 32 names, "attention" where layer % 8 == 4 and "mamba" elsewhere
            config.json: layer_types: found ["mamba"], expected 1 names, "attention" where layer % 8 == 0 and "mamba" elsewhere
        "#]],
    );
}

#[test]
fn refuses_arithmetic_that_is_not_jambas() {
    refused(
        &[
            json!({"hidden_act": "gelu"}),
            json!({"sliding_window": 4096}),
            json!({"mamba_inner_layernorms": false}),
            json!({"quantization_config": {"quant_method": "quark", "bits": 4}}),
            json!({"quantization": {"group_size": 64, "bits": 3}}),
            json!({"attention_bias": true}),
        ],
        expect![[r#"
            config.json: hidden_act: found "gelu", expected "silu" or "swish" (Jamba's one activation, under both of its names)
            config.json: sliding_window: found 4096, expected null (attention sees the whole text)
            config.json: mamba_inner_layernorms: found false, expected true (dt, B and C are always normalised)
            config.json: quantization_config.quant_method: found "quark", expected "compressed-tensors", "fp8", "experts_int8", "gptq", "awq" or "bitsandbytes"
            config.json: quantization.bits: found 3, expected 2, 4 or 8: other numbers cross words
            config.json: attention_bias: found true, expected false or null (Jamba's attention has no biases)
        "#]],
    );
}

#[test]
fn refuses_unknown_keys() {
    let long: Vec<usize> = (0..100).collect();
    refused(
        &[json!({"norm_topk_prob": true}), json!({"layer_scales": long})],
        expect![[r#"
        config.json: norm_topk_prob: unknown key that could change the arithmetic: found true, expected no such key; to build without it: ignore_keys = ["norm_topk_prob"] under [model] in a model.toml
        config.json: layer_scales: unknown key that could change the arithmetic: found [0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29…, expected no such key; to build without it: ignore_keys = ["layer_scales"] under [model] in a model.toml
    "#]],
    );
}

/// The remarks on the least config with `changes`.
fn remarks(changes: Value, ignore: &Ignore) -> Vec<String> {
    let text = with(least(), changes).to_string();
    let file = ConfigFile::parse(text.as_bytes(), Path::new("config.json"), ignore).unwrap();
    file.remarks.iter().map(ToString::to_string).collect()
}

#[test]
fn keys_without_effect_are_ignored_with_a_note() {
    let none = Ignore::default();
    for key in [
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "dropout",
        "mamba_dropout",
        "rope_theta",
        "partial_rotary_factor",
        "d_model",
        "type_vocab_size",
        "position_embedding_type",
        "n_positions",
        "max_seq_len",
        "router_jitter_noise",
        "pretraining_tp",
    ] {
        let expected = format!("note: config.json: ignored, as Jamba has no use for it: {key} = 7");
        assert_eq!(remarks(json!({key: 7}), &none), [expected]);
        assert_eq!(remarks(json!({key: null}), &none), [""; 0], "{key}");
    }
    let changes =
        json!({"rope_scaling": {"type": "linear", "factor": 2.0}, "is_decoder": true, "attention_dropout": 0.1});
    let expected =
        r#"note: config.json: ignored, as Jamba has no use for it: rope_scaling = {"type":"linear","factor":2.0}"#;
    assert_eq!(remarks(changes, &none), [expected]);
}

#[test]
fn the_user_may_ignore_any_key_that_is_not_read() {
    let ignore = Ignore { keys: vec!["norm_topk_prob".into(), "hidden_act".into()], ..Ignore::default() };
    let changes = json!({"norm_topk_prob": true, "hidden_act": "gelu"});
    let expected =
        r#"note: config.json: ignored, as Jamba has no use for it: hidden_act = "gelu", norm_topk_prob = true"#;
    assert_eq!(remarks(changes, &ignore), [expected]);
}

#[test]
fn keys_to_ignore_without_effect_are_named() {
    let keys = ["norm_topk_prob", "hidden_size", "use_cache", "rope_theta", "sliding_window", "typo"];
    let ignore = Ignore { keys: keys.map(str::to_owned).to_vec(), ..Ignore::default() };
    let text =
        with(least(), json!({"norm_topk_prob": true, "use_cache": true, "rope_theta": null, "sliding_window": null}));
    let file = ConfigFile::parse(text.to_string().as_bytes(), Path::new("config.json"), &ignore).unwrap();
    assert_eq!(file.dropped_keys, ["norm_topk_prob"], "the others stay in the plan's config.json");
    let warnings: Vec<String> =
        file.remarks.iter().map(ToString::to_string).filter(|text| text.starts_with("warning")).collect();
    let expected = [
        ("hidden_size", "jambac reads this key, and does not ignore it"),
        ("use_cache", "jambac accepts this key without it"),
        ("rope_theta", "jambac accepts this key without it"),
        ("sliding_window", "jambac accepts this key without it"),
        ("typo", "the file has no such key"),
    ]
    .map(|(key, why)| format!("warning: model.ignore_keys: {key:?} has no effect on config.json: {why}"));
    assert_eq!(warnings, expected);
}

#[test]
fn tokens_outside_the_vocabulary_are_ignored_with_a_warning() {
    let changes = json!({"eos_token_id": [2, 65536], "pad_token_id": -1, "bos_token_id": 70000});
    let expected = ["bos_token_id: found 70000", "eos_token_id: found 65536", "pad_token_id: found -1"]
        .map(|found| format!("warning: config.json: {found}, outside the vocabulary of 65536: ignored"));
    assert_eq!(remarks(changes.clone(), &Ignore::default()), expected);
    let config = accepted(changes);
    assert_eq!((config.bos, config.eos, config.pad), (None, vec![2], None));
    let tiny = accepted(json!({"vocab_size": 1}));
    assert_eq!((tiny.bos, tiny.eos, tiny.pad), (None, vec![], Some(0)));
}

#[test]
fn transformers_5_names_the_types_of_layers_otherwise() {
    accepted(json!({
        "num_hidden_layers": 3, "attn_layer_period": 2, "attn_layer_offset": 1,
        "layer_types": ["mamba", "full_attention", "mamba"],
    }));
}

/// Configs of uploads on the Hugging Face hub, as changes to Jamba-v0.1's: all open.
#[test]
fn opens_published_variants() {
    let published = || serde_json::from_str::<Value>(JAMBA_V0_1).unwrap();
    for (upload, changes) in [
        (
            "Jamba-v0.1, remote code",
            json!({"n_ctx": 262144, "mamba_inner_layernorms": true, "calc_logits_for_entire_prompt": false}),
        ),
        (
            "Jamba-tiny-random",
            json!({
                "hidden_size": 128, "attn_layer_period": 4, "attn_layer_offset": 2, "num_attention_heads": 2,
                "num_key_value_heads": 1, "num_experts": 4, "mamba_dt_rank": 8,
            }),
        ),
        (
            "Jamba-tiny-dev",
            json!({"hidden_size": 512, "num_hidden_layers": 16, "num_attention_heads": 8, "num_key_value_heads": 2}),
        ),
        ("AI21-Jamba-1.5-Mini", json!({"eos_token_id": [2, 518], "transformers_version": "4.40.2"})),
        (
            "AI21-Jamba-Large-1.5",
            json!({
                "hidden_size": 8192, "num_hidden_layers": 72, "num_attention_heads": 64, "intermediate_size": 24576,
                "mamba_dt_rank": 512, "eos_token_id": [2, 518],
            }),
        ),
        (
            "AI21-Jamba-Reasoning-3B",
            json!({
                "hidden_size": 2560, "num_hidden_layers": 28, "attn_layer_period": 14, "attn_layer_offset": 7,
                "num_attention_heads": 20, "num_key_value_heads": 1, "num_experts": 1, "num_experts_per_tok": 1,
                "tie_word_embeddings": true, "mamba_dt_rank": 160, "eos_token_id": [2, 519],
            }),
        ),
        ("AI21-Jamba2-Mini", json!({"eos_token_id": 519, "dtype": "bfloat16", "transformers_version": "4.56.1"})),
        (
            "jamba-900M",
            json!({
                "hidden_size": 1024, "num_attention_heads": 32, "vocab_size": 65024, "bos_token_id": 0, "eos_token_id": 0,
            }),
        ),
        (
            "Mini-Jamba-v2",
            json!({
                "hidden_size": 256, "num_hidden_layers": 16, "attn_layer_period": 3, "attn_layer_offset": 1,
                "num_attention_heads": 8,
            }),
        ),
        ("jamba-1.9b", json!({"d_model": 1024, "vocab_size": 128256, "num_attention_heads": 16})),
        ("float16", json!({"torch_dtype": "float16", "num_hidden_layers": 8, "num_experts": 8})),
        (
            "FP8 with a scheme of the cache",
            json!({"quantization_config": {
                "quant_method": "compressed-tensors", "format": "float-quantized", "kv_cache_scheme": {"num_bits": 8},
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": true}}},
            }}),
        ),
        (
            "tiny random of transformers 5",
            json!({
                "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "type_vocab_size": 16, "is_decoder": false,
                "initializer_range": 0.02, "pad_token_id": 98, "scope": null, "num_labels": 3, "use_mamba_kernels": false,
                "layer_types": (0..32).map(|layer| if layer % 8 == 4 { "attention" } else { "mamba" }).collect::<Vec<_>>(),
            }),
        ),
    ] {
        let opened = parse(&with(published(), changes));
        assert!(opened.is_ok(), "{upload}: {}", opened.unwrap_err());
    }
}

#[test]
fn refuses_text_that_is_no_object() {
    let error = |text: &str| format!("{}\n", JambaConfig::parse(text, Path::new("config.json")).unwrap_err());
    expect![[r#"
        config.json: JSON error: invalid type: sequence, expected a JSON object at line 1 column 0
    "#]]
    .assert_eq(&error("[1]"));
    expect![[r#"
        config.json: JSON error: key "hidden_size" is there twice at line 1 column 39
    "#]]
    .assert_eq(&error("{\"hidden_size\": 64, \"hidden_size\": 128}"));
    expect![[r#"
        config.json: JSON error: EOF while parsing a value at line 1 column 16
    "#]]
    .assert_eq(&error("{\"hidden_size\": "));
}

#[test]
fn sizes_beyond_any_model_are_refused_by_key() {
    let with = |changes: &[(&str, u64)]| {
        let mut config = serde_json::json!({
            "model_type": "jamba", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 8, "vocab_size": 128,
        });
        for (key, value) in changes {
            config[*key] = (*value).into();
        }
        JambaConfig::parse(&config.to_string(), Path::new("config.json")).map_err(|error| error.to_string())
    };
    assert!(with(&[("num_hidden_layers", 4096), ("num_experts", 16)]).is_ok());
    for (changes, says) in [
        (&[("num_hidden_layers", 2_147_483_647)][..], "num_hidden_layers: found 2147483647, expected at most 4096"),
        (&[("mamba_d_state", 4096)], "mamba_d_state: found 4096, expected at most 1024"),
        (&[("mamba_d_conv", 65)], "mamba_d_conv: found 65, expected at most 64"),
        (&[("num_experts", 2_147_483_647)], "num_experts: found 2147483647, expected at most 1024"),
        (&[("num_hidden_layers", 4096), ("num_experts", 17)], "num_hidden_layers · num_experts: found 69632"),
        (&[("hidden_size", 1 << 30), ("intermediate_size", 1 << 30)], "parameters, expected at most 281474976710656"),
        (&[("vocab_size", 2_147_483_647), ("hidden_size", 1 << 20)], "parameters, expected at most"),
    ] {
        let error = with(changes).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}
