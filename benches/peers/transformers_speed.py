"""Tokens per second of Hugging Face transformers in f32: prefill of 512 tokens, then decode of 16.

    python transformers_speed.py CHECKPOINT THREADS
"""

import json
import sys
import time

import torch
from transformers import JambaForCausalLM


@torch.no_grad()
def main(checkpoint, threads):
    torch.set_num_threads(int(threads))
    model = JambaForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    model.eval()
    ids = torch.randint(0, model.config.vocab_size, (1, 512), generator=torch.Generator().manual_seed(1))
    model(ids[:, :16], use_cache=True, logits_to_keep=1)
    began = time.perf_counter()
    out = model(ids, use_cache=True, logits_to_keep=1)
    prefill = 512 / (time.perf_counter() - began)
    steps = 16
    began = time.perf_counter()
    for _ in range(steps):
        token = out.logits[:, -1:].argmax(-1)
        out = model(token, use_cache=True, past_key_values=out.past_key_values)
    print(json.dumps({"prefill": prefill, "decode": steps / (time.perf_counter() - began)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
