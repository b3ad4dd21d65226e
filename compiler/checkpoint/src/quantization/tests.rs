//! Accepted and refused values of `quantization_config`, with the messages.

use expect_test::{Expect, expect};
use serde_json::json;

use super::*;

fn read(config: Value) -> Result<Quantization> {
    Quantization::read(config, Path::new("config.json"))
}

fn schemes(config: Value) -> Vec<(DType, Scales)> {
    read(config).unwrap().schemes.iter().map(|scheme| (scheme.dtype, scheme.scales)).collect()
}

/// A config of compressed-tensors as llm-compressor writes it, with changes to its one group's weights.
fn compressed(changes: Value) -> Value {
    let mut weights = json!({
        "num_bits": 8, "type": "int", "strategy": "channel", "symmetric": true, "dynamic": false, "group_size": null,
        "block_structure": null, "actorder": null, "observer": "minmax", "observer_kwargs": {},
    });
    for (key, value) in changes.as_object().unwrap() {
        weights[key] = value.clone();
    }
    json!({
        "quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
        "global_compression_ratio": 1.5, "kv_cache_scheme": null, "sparsity_config": {}, "version": "0.9.0",
        "ignore": ["lm_head", "re:.*mamba.*"],
        "config_groups": {"group_0": {
            "targets": ["Linear"], "weights": weights, "output_activations": null,
            "input_activations": {"num_bits": 8, "type": "int", "strategy": "token", "symmetric": true, "dynamic": true},
        }},
    })
}

#[test]
fn reads_what_llm_compressor_writes() {
    assert_eq!(schemes(compressed(json!({}))), [(DType::I8, Scales::Row)]);
    assert!(!read(compressed(json!({}))).unwrap().records_inputs);
    assert_eq!(schemes(compressed(json!({"strategy": "tensor"}))), [(DType::I8, Scales::Tensor)]);
    let float = compressed(json!({"type": "float", "strategy": "block", "block_structure": [128, 64]}));
    assert_eq!(schemes(float), [(DType::F8E4M3, Scales::Block(128, 64))]);
    let older = compressed(json!({"type": "float", "strategy": "block", "block_structure": "128x64"}));
    assert_eq!(schemes(older), [(DType::F8E4M3, Scales::Block(128, 64))]);
    let mut cached = compressed(json!({}));
    assert!(!read(cached.clone()).unwrap().records_cache);
    cached["kv_cache_scheme"] = json!({"num_bits": 8, "type": "float", "strategy": "tensor"});
    assert!(read(cached).unwrap().records_cache);
    let grouped = compressed(json!({"strategy": "group", "group_size": 32}));
    assert_eq!(schemes(grouped), [(DType::I8, Scales::Block(1, 32))]);
    let mut fixed = compressed(json!({}));
    fixed["config_groups"]["group_0"]["input_activations"]["dynamic"] = json!(false);
    assert!(read(fixed).unwrap().records_inputs);
}

#[test]
fn reads_fp8_and_experts_int8() {
    let blocks = json!({"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
        "modules_to_not_convert": ["lm_head"], "fmt": "e4m3", "scale_fmt": "ue8m0"});
    assert_eq!(schemes(blocks), [(DType::F8E4M3, Scales::Block(128, 128))]);
    let whole = json!({"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": []});
    assert!(read(whole.clone()).unwrap().records_inputs);
    assert_eq!(
        schemes(whole),
        [
            (DType::F8E4M3, Scales::Tensor),
            (DType::F8E4M3, Scales::Row),
            (DType::F8E5M2, Scales::Tensor),
            (DType::F8E5M2, Scales::Row),
        ]
    );
    let experts = read(json!({"quant_method": "experts_int8"})).unwrap();
    assert_eq!((experts.method, experts.schemes), (Method::ExpertsInt8, Vec::new()));
}

fn refused(configs: &[Value], expected: Expect) {
    let errors: String =
        configs.iter().map(|config| format!("{}\n", read(config.clone()).expect_err(&config.to_string()))).collect();
    expected.assert_eq(&errors);
}

#[test]
fn refuses_what_it_cannot_honour() {
    let with = |key: &str, value: Value| {
        let mut config = compressed(json!({}));
        config[key] = value;
        config
    };
    refused(
        &[
            json!("int8"),
            json!({"bits": 8}),
            json!({"quant_method": "quark", "load_in_8bit": true}),
            json!({"quant_method": "experts_int8", "bits": 8}),
            json!({"quant_method": "fp8", "weight_block_size": [128]}),
            json!({"quant_method": "fp8", "weight_block_size": [128, 0]}),
            json!({"quant_method": "fp8", "fmt": "e3m4"}),
            json!({"quant_method": "fp8", "activation_scheme": "sometimes"}),
            with("format", json!("marlin-24")),
            with("transform_config", json!({"config_groups": 1})),
            with("config_groups", json!({})),
            with("config_groups", json!({"group_0": {"targets": ["Linear"]}})),
            with("rotated", json!(true)),
            compressed(json!({"num_bits": 4})),
            compressed(json!({"type": "complex"})),
            compressed(json!({"symmetric": false})),
            compressed(json!({"dynamic": true})),
            compressed(json!({"actorder": "static"})),
            compressed(json!({"strategy": "group"})),
            compressed(json!({"strategy": "token"})),
            compressed(json!({"zero_point": 3})),
        ],
        expect![[r#"
            config.json: quantization_config: found "int8", expected a JSON object
            config.json: quantization_config.quant_method: found null, expected "compressed-tensors", "fp8", "experts_int8", "gptq", "awq" or "bitsandbytes"
            config.json: quantization_config.quant_method: found "quark", expected "compressed-tensors", "fp8", "experts_int8", "gptq", "awq" or "bitsandbytes"
            config.json: quantization_config.bits: unknown key that could change the arithmetic: found 8, expected no such key
            config.json: quantization_config.weight_block_size: found [128], expected rows and columns of a block: [128, 128]
            config.json: quantization_config.weight_block_size: found 0, expected an integer from 1 to 2147483647
            config.json: quantization_config.fmt: found "e3m4", expected "e4m3" or "e5m2"
            config.json: quantization_config.activation_scheme: found "sometimes", expected "dynamic" or "static"
            config.json: quantization_config.format: found "marlin-24", expected "int-quantized" or "float-quantized" or "naive-quantized" or "pack-quantized"
            config.json: quantization_config.transform_config: found {"config_groups":1}, expected null: neither gaps nor rotations of weights are read
            config.json: quantization_config.config_groups: found {}, expected a group at least
            config.json: quantization_config.config_groups.group_0.weights: found nothing, expected how weights are stored
            config.json: quantization_config.rotated: unknown key that could change the arithmetic: found true, expected no such key
            config.json: quantization_config.config_groups.group_0.weights.num_bits: found 4, expected 8
            config.json: quantization_config.config_groups.group_0.weights.type: found "complex", expected "int" or "float"
            config.json: quantization_config.config_groups.group_0.weights.symmetric: found false, expected true: zero points are not read
            config.json: quantization_config.config_groups.group_0.weights.dynamic: found true, expected false: weights have their scales in the checkpoint
            config.json: quantization_config.config_groups.group_0.weights.actorder: found "static", expected null: columns are stored in their order
            config.json: quantization_config.config_groups.group_0.weights.group_size: found null, expected an integer from 1 to 2147483647
            config.json: quantization_config.config_groups.group_0.weights.strategy: found "token", expected "tensor" or "channel" or "group" or "block"
            config.json: quantization_config.config_groups.group_0.weights.zero_point: unknown key that could change the arithmetic: found 3, expected no such key
        "#]],
    );
}

#[test]
fn packed_weights_are_announced_by_their_methods() {
    let packing = |config: Value| read(config).unwrap().packing;
    let mut packed = compressed(
        json!({"num_bits": 4, "symmetric": false, "strategy": "group", "group_size": 64, "actorder": "group"}),
    );
    packed["format"] = json!("pack-quantized");
    assert_eq!(packing(packed), Some(Packing::Compressed { bits: 4 }));
    let gptq = json!({"quant_method": "gptq", "bits": 8, "group_size": -1, "desc_act": true, "damp_percent": 0.1});
    assert_eq!(packing(gptq), Some(Packing::Gptq { bits: 8, offset: 1 }));
    let second = json!({"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2", "dynamic": {}});
    assert_eq!(packing(second), Some(Packing::Gptq { bits: 4, offset: 0 }));
    let awq = json!({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": true, "version": "gemm"});
    assert_eq!(packing(awq), Some(Packing::Awq { bits: 4 }));
    let nf4 = json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"});
    assert_eq!(packing(nf4), Some(Packing::BitsAndBytes));
    let mlx = |value: Value| Quantization::read_mlx(value, Path::new("config.json"));
    let router = json!({"group_size": 64, "bits": 4, "mode": "affine", "model.x.router": {"bits": 8, "group_size": 64}, "y": false});
    assert_eq!(mlx(router).unwrap().packing, Some(Packing::Mlx));
    assert_eq!(
        mlx(json!({"bits": 4, "model.x": {"mode": "mxfp4"}})).unwrap_err().to_string(),
        "config.json: quantization.model.x.mode: found \"mxfp4\", expected \"affine\""
    );
}

#[test]
fn refuses_packed_weights_in_other_orders() {
    refused(
        &[
            json!({"quant_method": "gptq", "bits": 3}),
            json!({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}),
            json!({"quant_method": "gptq", "bits": 4, "is_marlin_format": true}),
            json!({"quant_method": "gptq", "bits": 4, "dynamic": {"lm_head": {"bits": 8}}}),
            json!({"quant_method": "gptq", "bits": 4, "rotation": "hadamard"}),
            json!({"quant_method": "awq", "bits": 8}),
            json!({"quant_method": "awq", "bits": 4, "version": "gemv"}),
            json!({"quant_method": "awq", "bits": 4, "zero_point": false}),
            json!({"quant_method": "bitsandbytes", "bnb_4bit_quant_storage": "bfloat16"}),
        ],
        expect![[r#"
            config.json: quantization_config.bits: found 3, expected 4 or 8
            config.json: quantization_config.checkpoint_format: found "marlin", expected "gptq" or "gptq_v2"
            config.json: quantization_config.is_marlin_format: found true, expected false: words in Marlin's order are not read
            config.json: quantization_config.dynamic: found {"lm_head":{"bits":8}}, expected null: all modules have the same bits
            config.json: quantization_config.rotation: unknown key that could change the arithmetic: found "hadamard", expected no such key
            config.json: quantization_config.bits: found 8, expected 4
            config.json: quantization_config.version: found "gemv", expected "gemm" or "GEMM"
            config.json: quantization_config.zero_point: found false, expected true: words without zero points are not read
            config.json: quantization_config.bnb_4bit_quant_storage: found "bfloat16", expected "uint8"
        "#]],
    );
}
