"""lm-eval against `jamba serve`: its log-likelihoods are those of `jamba logits`.

    lm_eval_check.py http://HOST:PORT JAMBA PLAN CHECKPOINT
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import lm_eval
import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

address, jamba, plan, checkpoint = sys.argv[1:]
questions = [json.loads(line) for line in open(pathlib.Path(checkpoint) / "questions.jsonl")][:24]
model = LocalCompletionsAPI(
    model="tiny", base_url=f"{address}/v1/completions", tokenizer=checkpoint, tokenizer_backend="huggingface",
    num_concurrent=4, max_length=2048)
pairs = [(q["prompt"], f" {text}") for q in questions for text in (q["answer"], "Nobody knows.")]
requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
found = model.loglikelihood(requests, disable_tqdm=True)


def logits(tokens):
    """The rows of `jamba logits`, f32 [tokens, vocabulary]."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "rows.safetensors"
        ids = ",".join(map(str, tokens))
        subprocess.run([jamba, "logits", plan, "--tokens", ids, "-o", path], check=True, capture_output=True)
        data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])["logits"]
    begin, end = header["data_offsets"]
    return np.frombuffer(data[8 + size + begin:8 + size + end], np.float32).reshape(header["shape"]).astype(np.float64)


worst, n_greedy = 0.0, 0
for (context, continuation), (likelihood, is_greedy) in zip(pairs, found):
    head, tail = model._encode_pair(context, continuation)
    rows = logits(head + tail)[len(head) - 1:-1]
    top = rows.max(axis=1, keepdims=True)
    logs = rows - top - np.log(np.exp(rows - top).sum(axis=1, keepdims=True))
    expected = sum(logs[i, token] for i, token in enumerate(tail))
    worst = max(worst, abs(expected - likelihood))
    greedy = all(int(row.argmax()) == token for row, token in zip(rows, tail))
    assert greedy == is_greedy, (continuation, greedy, is_greedy)
    n_greedy += greedy
assert worst < 1e-4, worst
print(f"lm-eval {lm_eval.__version__}: {len(pairs)} log-likelihoods are those of jamba logits, "
      f"largest difference {worst:.1e}; {n_greedy} greedy: yes")
