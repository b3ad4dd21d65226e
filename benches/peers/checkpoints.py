"""Jamba checkpoints of random weights for benchmarks, in the Hugging Face layout and in bf16. Needs numpy only.

    mid     318 M parameters   28 layers, attention in 2 of them, dense, tied: the 3B's pattern scaled down
    midmoe  455 M parameters   16 layers, attention in 2 of them, 8 experts in every second layer, top-2

Norms, biases, decay rates, the convolution and the router are drawn so that all of them matter and activations neither vanish
nor explode; the numbers are a function of the model's name alone.

    python checkpoints.py FOLDER mid|midmoe
"""

import json
import math
import pathlib
import sys
import zlib

import numpy as np

from models import MODELS


def parameters(config):
    """Name and shape of every parameter, in the order of the layers."""
    d_model, d_ff, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    d_inner, d_state = config["mamba_expand"] * d_model, config["mamba_d_state"]
    rank, heads, kv_heads = config["mamba_dt_rank"], config["num_attention_heads"], config["num_key_value_heads"]
    d_head = d_model // heads
    yield "model.embed_tokens.weight", (vocab, d_model)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", (d_model,)
        yield f"{at}.pre_ff_layernorm.weight", (d_model,)
        if layer % config["attn_layer_period"] == config["attn_layer_offset"]:
            for name, rows in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
                yield f"{at}.self_attn.{name}_proj.weight", (rows * d_head, d_model)
            yield f"{at}.self_attn.o_proj.weight", (d_model, d_model)
        else:
            mamba = f"{at}.mamba"
            yield f"{mamba}.in_proj.weight", (2 * d_inner, d_model)
            yield f"{mamba}.conv1d.weight", (d_inner, 1, config["mamba_d_conv"])
            yield f"{mamba}.conv1d.bias", (d_inner,)
            yield f"{mamba}.x_proj.weight", (rank + 2 * d_state, d_inner)
            for name, cols in (("dt", rank), ("b", d_state), ("c", d_state)):
                yield f"{mamba}.{name}_layernorm.weight", (cols,)
            yield f"{mamba}.dt_proj.weight", (d_inner, rank)
            yield f"{mamba}.dt_proj.bias", (d_inner,)
            yield f"{mamba}.A_log", (d_inner, d_state)
            yield f"{mamba}.D", (d_inner,)
            yield f"{mamba}.out_proj.weight", (d_model, d_inner)
        n_experts = config["num_experts"]
        routed = n_experts > 1 and layer % config["expert_layer_period"] == config["expert_layer_offset"]
        mlps = [f"{at}.feed_forward"]
        if routed:
            yield f"{at}.feed_forward.router.weight", (n_experts, d_model)
            mlps = [f"{at}.feed_forward.experts.{expert}" for expert in range(n_experts)]
        for mlp in mlps:
            yield f"{mlp}.gate_proj.weight", (d_ff, d_model)
            yield f"{mlp}.up_proj.weight", (d_ff, d_model)
            yield f"{mlp}.down_proj.weight", (d_model, d_ff)
    yield "model.final_layernorm.weight", (d_model,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (vocab, d_model)


def draw(rng, name, shape):
    """The values of one parameter, f32."""
    uniform = lambda low, high: rng.uniform(low, high, shape).astype(np.float32)
    normal = lambda std, mean=0.0: rng.standard_normal(shape, dtype=np.float32) * np.float32(std) + np.float32(mean)
    if name.endswith("layernorm.weight"):
        return uniform(0.5, 1.5)
    if name.endswith("A_log"):
        return np.log(uniform(0.5, 16.0))
    if name.endswith("mamba.D"):
        return normal(0.3, 1.0)
    if "conv1d" in name:
        return uniform(-0.5, 0.5)
    if name.endswith("dt_proj.bias"):
        step = np.exp(uniform(math.log(1e-3), math.log(0.1)))
        return step + np.log(-np.expm1(-step))  # softplus gives the step back
    if name.endswith("router.weight"):
        return normal(2.0 / math.sqrt(shape[-1]))
    if name.endswith("embed_tokens.weight"):
        return normal(1.0)
    return normal(1.0 / math.sqrt(shape[-1]))


def to_bf16(values):
    """f32 to the bits of bf16, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write(folder, name):
    """Writes a checkpoint unless it is there; returns the number of parameters."""
    folder = pathlib.Path(folder)
    config = MODELS[name]
    shapes = list(parameters(config))
    total = sum(math.prod(shape) for _, shape in shapes)
    if (folder / "model.safetensors").exists():
        return total
    folder.mkdir(parents=True, exist_ok=True)
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for tensor, shape in shapes:
        end = offset + 2 * math.prod(shape)
        header[tensor] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    partial = folder / "model.safetensors.part"
    with open(partial, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for tensor, shape in shapes:
            out.write(to_bf16(draw(rng, tensor, shape)).tobytes())
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    partial.rename(folder / "model.safetensors")
    return total


if __name__ == "__main__":
    print(write(*sys.argv[1:]), "parameters")
