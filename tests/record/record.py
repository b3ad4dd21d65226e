"""Records the golden fixtures: small random Jamba checkpoints, and what Hugging Face transformers computes with them.

    pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0 tokenizers==0.23.3
    python tests/record/record.py                 every fixture
    python tests/record/record.py tiny odd        some of them

Each fixture is a folder of tests/fixtures: a Hugging Face checkpoint (of `tiny` it is models/tiny, which is not copied) and
golden.safetensors beside it. Arithmetic is f32 over the weights as stored. A prompt goes through the model in one forward
without a cache; transformers 5.23 restarts the Mamba state in a forward of several tokens over a filled cache, so that way is
never taken. Greedy tokens come from single-token steps, and one forward over prompt and continuation has to agree with them.

golden.safetensors, for each prompt length L of PROMPT_LENGTHS:

    p{L}.ids          i64 [L]
    p{L}.rows         i64 [rows]            positions whose logits are kept
    p{L}.logits       f32 [rows, vocab]
    p{L}.logits_std   f32 [1]               of the logits of all positions
    p{L}.greedy64     i64 [64]              greedy continuation, end-of-sequence ignored (L of GREEDY_LENGTHS)
    p{L}.hidden.embed, p{L}.hidden.{layer}, p{L}.final_norm
                      f32 [L, hidden]       the residual stream after the embedding, after each layer, and normed
                                            (L of HIDDEN_LENGTHS)

Its metadata has one entry, `recorded`: JSON with the versions and the SHA-256 of the weights that it belongs to.

Prompts are drawn until no decision is close: the best two logits of every greedy step are at least LOGIT_MARGIN apart, and
the last chosen and the first rejected expert of every token ROUTER_MARGIN. So another order of summation may not change a
token or an expert.
"""

import argparse
import hashlib
import json
import math
import os
import pathlib
import random
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import JambaConfig, JambaForCausalLM

TESTS = pathlib.Path(__file__).resolve().parent.parent
FIXTURES = TESTS / "fixtures"
TINY = TESTS.parent / "models" / "tiny"

PROMPT_LENGTHS = (1, 2, 4, 17, 128, 300)
GREEDY_LENGTHS = (1, 4, 17, 128)
HIDDEN_LENGTHS = (4, 17)
GREEDY_TOKENS = 64
LOGIT_MARGIN = 1e-3
ROUTER_MARGIN = 1e-4

BASE_CONFIG = {
    "architectures": ["JambaForCausalLM"],
    "model_type": "jamba",
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "mamba_d_conv": 4,
    "mamba_d_state": 16,
    "mamba_expand": 2,
    "num_experts_per_tok": 2,
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
    "use_cache": True,
}

# Keys that only the uploads made with the original remote code have; they change no arithmetic.
OLD_CONFIG_KEYS = {
    "auto_map": {
        "AutoConfig": "configuration_jamba.JambaConfig",
        "AutoModelForCausalLM": "modeling_jamba.JambaForCausalLM",
    },
    "calc_logits_for_entire_prompt": False,
    "mamba_inner_layernorms": True,
    "n_ctx": 4096,
    "attention_dropout": 0.0,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
    "sliding_window": None,
    "torch_dtype": "float16",
    "transformers_version": "4.40.0.dev0",
    "use_mamba_kernels": True,
}


def bf16_everywhere(name):
    return torch.bfloat16


def f16_everywhere(name):
    return torch.float16


def mixed_dtypes(name):
    """f16 experts, f32 for what is small and sensitive, bf16 for the rest."""
    if ".experts." in name:
        return torch.float16
    if "layernorm" in name or name.endswith(("A_log", ".D", ".bias", "router.weight")):
        return torch.float32
    return torch.bfloat16


def new_names(name, is_moe):
    return name


def old_names(name, is_moe):
    """The name of a parameter in an upload made with the original remote code."""
    name = name.replace("pre_ff_layernorm", "pre_moe_layernorm")
    return name.replace(".feed_forward.", ".moe." if is_moe else ".moe.experts.0.")


# What one random checkpoint is like: its config (on top of BASE_CONFIG), how it is stored, and the seed of its weights.
CHECKPOINTS = {
    "dense_tied": dict(
        config=dict(
            hidden_size=48, intermediate_size=96, num_hidden_layers=4, vocab_size=256, num_attention_heads=4,
            num_key_value_heads=1, attn_layer_period=3, attn_layer_offset=2, expert_layer_period=2,
            expert_layer_offset=1, num_experts=1, num_experts_per_tok=1, mamba_dt_rank=5, tie_word_embeddings=True,
            dtype="bfloat16",
        ),
        dtype=bf16_everywhere, rename=new_names, shards=1, seed=101,
    ),
    "sharded_moe": dict(
        config=dict(
            hidden_size=48, intermediate_size=40, num_hidden_layers=4, vocab_size=200, num_attention_heads=6,
            num_key_value_heads=3, head_dim=10, attn_layer_period=4, attn_layer_offset=1, expert_layer_period=2,
            expert_layer_offset=1, num_experts=4, mamba_dt_rank="auto", mamba_proj_bias=True, eos_token_id=[2, 7],
        ),
        dtype=mixed_dtypes, rename=new_names, shards=3, seed=202,
    ),
    "odd": dict(
        config=dict(
            hidden_size=72, intermediate_size=100, num_hidden_layers=4, vocab_size=173, num_attention_heads=6,
            num_key_value_heads=2, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=4,
            expert_layer_offset=0, num_experts=3, mamba_d_state=5, mamba_d_conv=3, mamba_expand=3, mamba_dt_rank=7,
            mamba_conv_bias=False, rms_norm_eps=1e-5, dtype="bfloat16",
        ),
        dtype=bf16_everywhere, rename=new_names, shards=1, seed=303,
    ),
    "old_names": dict(
        config=dict(
            hidden_size=32, intermediate_size=64, num_hidden_layers=4, vocab_size=160, num_attention_heads=2,
            num_key_value_heads=2, attn_layer_period=4, attn_layer_offset=2, expert_layer_period=2,
            expert_layer_offset=1, num_experts=4, mamba_dt_rank=2,
        ),
        dtype=f16_everywhere, rename=old_names, shards=1, seed=404,
    ),
}  # fmt: skip


def random_parameter(name, shape, generator):
    """Values that make every part of the arithmetic matter: norms off one, biases off zero, a router that decides."""

    def uniform(low, high):
        return low + (high - low) * torch.rand(shape, generator=generator)

    if name.endswith("A_log"):
        return uniform(0.5, 16.0).log()
    if name.endswith("mamba.D") or "layernorm" in name:
        return uniform(0.5, 1.5)
    if name.endswith("dt_proj.bias"):
        step = uniform(math.log(1e-3), math.log(0.2)).exp()
        return step.expm1().log()  # softplus of it is the step
    if "conv1d" in name or name.endswith("bias"):
        return uniform(-0.5, 0.5)
    if "embed_tokens" in name:  # small enough that a tied model does not just repeat its last token
        return 0.2 * torch.randn(shape, generator=generator)
    gain = 2.0 if "router" in name else 1.0
    return torch.randn(shape, generator=generator) * (gain / math.sqrt(shape[-1]))


def write_checkpoint(folder, spec):
    """Writes config.json and the safetensors files; returns the config."""
    config = BASE_CONFIG | spec["config"]
    with tempfile.TemporaryDirectory() as unfused:  # save_pretrained splits the experts that the model holds fused
        JambaForCausalLM(JambaConfig(**config)).save_pretrained(unfused)
        shapes = {name: tensor.shape for name, tensor in load_file(f"{unfused}/model.safetensors").items()}
    generator = torch.Generator().manual_seed(spec["seed"])
    tensors = {}
    for name in sorted(shapes):
        moe_prefix = name.split("feed_forward.")[0] + "feed_forward.router.weight"
        stored_name = spec["rename"](name, moe_prefix in shapes)
        tensors[stored_name] = random_parameter(name, shapes[name], generator).to(spec["dtype"](name))

    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("model*.safetensors*"):
        stale.unlink()
    if spec["rename"] is old_names:
        config = {k: v for k, v in config.items() if k != "max_position_embeddings"} | OLD_CONFIG_KEYS
    write_json(folder / "config.json", config)
    if spec["shards"] == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names, weight_map = sorted(tensors), {}
    for shard in range(spec["shards"]):
        file = f"model-{shard + 1:05}-of-{spec['shards']:05}.safetensors"
        part = {name: tensors[name] for name in names[shard :: spec["shards"]]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= {name: file for name in part}
    total_size = sum(t.numel() * t.element_size() for t in tensors.values())
    write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))},
    )


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def load_model(folder, spec):
    """The checkpoint in f32, as transformers reads it (old names put back, which transformers no longer knows)."""
    options = dict(dtype=torch.float32, attn_implementation="eager")
    if spec is None or spec["rename"] is not old_names:
        model, info = JambaForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    else:
        stored = load_file(folder / "model.safetensors")
        renamed = {}
        for name, tensor in stored.items():
            layer = name.split(".moe.")[0]
            is_moe = f"{layer}.moe.router.weight" in stored
            name = name.replace("pre_moe_layernorm", "pre_ff_layernorm")
            renamed[name.replace(".moe." if is_moe else ".moe.experts.0.", ".feed_forward.")] = tensor
        with tempfile.TemporaryDirectory() as new:
            save_file(renamed, f"{new}/model.safetensors", metadata={"format": "pt"})
            write_json(pathlib.Path(new, "config.json"), BASE_CONFIG | spec["config"])
            model, info = JambaForCausalLM.from_pretrained(new, output_loading_info=True, **options)
    problems = {kind: names for kind, names in info.items() if names}
    assert not problems, f"{folder}: transformers did not load every parameter: {problems}"
    assert all(p.dtype == torch.float32 for p in model.parameters())
    return model.eval()


class Probe:
    """Watches one forward: the residual stream after each layer, and how close the router's decisions were."""

    def __init__(self, model):
        self.hidden, self.router_margin = {}, math.inf
        model.model.embed_tokens.register_forward_hook(self._keep("hidden.embed"))
        model.model.final_layernorm.register_forward_hook(self._keep("final_norm"))
        for i, layer in enumerate(model.model.layers):
            layer.register_forward_hook(self._keep(f"hidden.{i}"))
            router = getattr(layer.feed_forward, "router", None)
            if router is not None:
                router.register_forward_pre_hook(self._measure)
        self.top_k = model.config.num_experts_per_tok

    def _keep(self, name):
        def hook(module, arguments, output):
            self.hidden[name] = output[0].clone()

        return hook

    def _measure(self, router, arguments):
        rows = arguments[0].reshape(-1, arguments[0].shape[-1])
        ordered = (rows @ router.weight.T).sort(descending=True).values
        gap = (ordered[:, self.top_k - 1] - ordered[:, self.top_k]).min().item()
        self.router_margin = min(self.router_margin, gap)


def greedy(model, ids):
    """GREEDY_TOKENS tokens after `ids`: the prompt in one forward, then one token a step."""
    out = model(torch.tensor([ids]), use_cache=True)
    tokens = []
    while True:
        tokens.append(out.logits[0, -1].argmax().item())
        if len(tokens) == GREEDY_TOKENS:
            return tokens
        out = model(torch.tensor([tokens[-1:]]), past_key_values=out.past_key_values, use_cache=True)


def kept_rows(length):
    if length <= 17:
        return list(range(length))
    return sorted({round(i * (length - 1) / 11) for i in range(12)})


def record_prompt(model, probe, ids):
    """The golden tensors of one prompt, or None if a decision was too close."""
    length, probe.router_margin, golden = len(ids), math.inf, {}
    logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    rows = torch.tensor(kept_rows(length))
    golden["ids"], golden["rows"], golden["logits"] = torch.tensor(ids), rows, logits[rows].clone()
    golden["logits_std"] = logits.std().reshape(1)
    if length in HIDDEN_LENGTHS:
        golden |= {name: value.clone() for name, value in probe.hidden.items()}
    if length in GREEDY_LENGTHS:
        tokens = greedy(model, ids)
        whole = model(torch.tensor([ids + tokens[:-1]]), use_cache=False).logits[0, length - 1 :]
        assert whole.argmax(-1).tolist() == tokens, "single-token steps and one forward disagree"
        best = whole.topk(2).values
        if (best[:, 0] - best[:, 1]).min().item() < LOGIT_MARGIN:
            return None
        golden["greedy64"] = torch.tensor(tokens)
    if probe.router_margin < ROUTER_MARGIN:
        return None
    return golden


def random_prompt(vocab, length, rng):
    return [rng.randrange(3, vocab) for _ in range(length)]


def story_prompt(length, rng, attempt):
    """The first tokens of generated stories; the first attempt starts with the begin-of-sequence token."""
    sys.path.insert(0, str(TINY / "training"))
    import stories
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    ids = [1] if attempt == 0 else []
    while len(ids) < length:
        ids += tokenizer.encode(stories.document(rng), add_special_tokens=False).ids
    return ids[:length]


@torch.no_grad()
def record(name):
    spec, folder = CHECKPOINTS.get(name), FIXTURES / name
    if spec is not None:
        write_checkpoint(folder, spec)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = TINY if spec is None else folder
    model = load_model(checkpoint, spec)
    probe, golden = Probe(model), {}
    for length in PROMPT_LENGTHS:
        for attempt in range(200):
            rng = random.Random(f"{name} {length} {attempt}")
            if spec is None:
                ids = story_prompt(length, rng, attempt)
            else:
                ids = random_prompt(model.config.vocab_size, length, rng)
            found = record_prompt(model, probe, ids)
            if found is not None:
                break
        assert found is not None, f"{name}: no prompt of {length} tokens without a close decision"
        golden |= {f"p{length}.{key}": value.contiguous() for key, value in found.items()}
        print(f"{name}: {length} tokens, attempt {attempt}, standard deviation {found['logits_std'].item():.3f}")
    origin = {
        "checkpoint_sha256": digest(checkpoint),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    # one metadata entry, because safetensors writes several in an order that changes from run to run
    save_file(golden, folder / "golden.safetensors", metadata={"recorded": json.dumps(origin)})


def digest(checkpoint):
    """One SHA-256 over the checkpoint's safetensors files in order of name: tells which weights a golden belongs to."""
    sha = hashlib.sha256()
    for file in sorted(checkpoint.glob("model*.safetensors")):
        sha.update(file.read_bytes())
    return sha.hexdigest()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fixtures", nargs="*", default=["tiny", *CHECKPOINTS], help="tiny, " + ", ".join(CHECKPOINTS))
    torch.set_num_threads(1)
    for fixture in parser.parse_args().fixtures:
        record(fixture)
