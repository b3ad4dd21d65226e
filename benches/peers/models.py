"""config.json of the checkpoints that benchmarks are made on: see checkpoints.py."""

SHARED = {
    "architectures": ["JambaForCausalLM"], "model_type": "jamba", "hidden_act": "silu", "torch_dtype": "bfloat16",
    "hidden_size": 768, "vocab_size": 65536, "num_attention_heads": 6, "max_position_embeddings": 262144,
    "rms_norm_eps": 1e-6, "use_cache": True, "num_logits_to_keep": 1, "sliding_window": None,
    "mamba_d_conv": 4, "mamba_d_state": 16, "mamba_dt_rank": 64, "mamba_expand": 2, "mamba_conv_bias": True,
    "mamba_proj_bias": False, "use_mamba_kernels": False, "expert_layer_period": 2, "expert_layer_offset": 1,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}
MODELS = {
    "mid": SHARED | {
        "num_hidden_layers": 28, "intermediate_size": 2560, "num_key_value_heads": 1, "attn_layer_period": 14,
        "attn_layer_offset": 7, "num_experts": 1, "num_experts_per_tok": 1, "tie_word_embeddings": True,
    },
    "midmoe": SHARED | {
        "num_hidden_layers": 16, "intermediate_size": 1792, "num_key_value_heads": 2, "attn_layer_period": 8,
        "attn_layer_offset": 4, "num_experts": 8, "num_experts_per_tok": 2, "tie_word_embeddings": False,
    },
}
