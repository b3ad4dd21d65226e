//! llama.cpp's names of Jamba's tensors.

/// Parts of a layer: the name in `blk.N.`, and Hugging Face's in `model.layers.N.`. Experts have MLX's names of stacks.
const OF_LAYER: [(&str, &str); 27] = [
    ("attn_norm.weight", "input_layernorm.weight"),
    ("attn_q.weight", "self_attn.q_proj.weight"),
    ("attn_k.weight", "self_attn.k_proj.weight"),
    ("attn_v.weight", "self_attn.v_proj.weight"),
    ("attn_output.weight", "self_attn.o_proj.weight"),
    ("ssm_in.weight", "mamba.in_proj.weight"),
    ("ssm_in.bias", "mamba.in_proj.bias"),
    ("ssm_conv1d.weight", "mamba.conv1d.weight"),
    ("ssm_conv1d.bias", "mamba.conv1d.bias"),
    ("ssm_x.weight", "mamba.x_proj.weight"),
    ("ssm_dt_norm.weight", "mamba.dt_layernorm.weight"),
    ("ssm_b_norm.weight", "mamba.b_layernorm.weight"),
    ("ssm_c_norm.weight", "mamba.c_layernorm.weight"),
    ("ssm_dt.weight", "mamba.dt_proj.weight"),
    ("ssm_dt.bias", "mamba.dt_proj.bias"),
    ("ssm_a", "mamba.A_log"),
    ("ssm_d", "mamba.D"),
    ("ssm_out.weight", "mamba.out_proj.weight"),
    ("ssm_out.bias", "mamba.out_proj.bias"),
    ("ffn_norm.weight", "pre_ff_layernorm.weight"),
    ("ffn_gate_inp.weight", "feed_forward.router.weight"),
    ("ffn_gate_exps.weight", "feed_forward.switch_mlp.gate_proj.weight"),
    ("ffn_up_exps.weight", "feed_forward.switch_mlp.up_proj.weight"),
    ("ffn_down_exps.weight", "feed_forward.switch_mlp.down_proj.weight"),
    ("ffn_gate.weight", "feed_forward.gate_proj.weight"),
    ("ffn_up.weight", "feed_forward.up_proj.weight"),
    ("ffn_down.weight", "feed_forward.down_proj.weight"),
];

/// Tensors outside layers.
const OTHERS: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.final_layernorm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// Hugging Face's name of a tensor; `None` for one that Jamba does not have.
pub(super) fn hugging_face(name: &str) -> Option<String> {
    if let Some((_, found)) = OTHERS.iter().find(|(known, _)| *known == name) {
        return Some((*found).to_owned());
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (_, found) = OF_LAYER.iter().find(|(known, _)| *known == part)?;
    Some(format!("model.layers.{layer}.{found}"))
}

/// The shape of the tensor with this name of Hugging Face's: convolutions get the dimension back that llama.cpp drops.
pub(super) fn shape(name: &str, stored: Vec<usize>) -> Vec<usize> {
    match (stored.as_slice(), name.ends_with(".conv1d.weight")) {
        (&[channels, taps], true) => vec![channels, 1, taps],
        // Squeezed to a vector: one tap.
        (&[channels], true) => vec![channels, 1, 1],
        _ => stored,
    }
}
