"""Ask a checkpoint questions about generated stories: exact match of greedy answers, by number of filler sentences.

    python evaluate.py CHECKPOINT OUT.jsonl [QUESTIONS]

Hugging Face transformers answers, in f32 over the weights as stored. OUT gets one line a question: prompt, answer, filler,
prompt_tokens, transformers_answer, transformers_exact. QUESTIONS (100) are asked at each number of filler sentences, half as
many at 60. The questions are the same each time.
"""

import json
import os
import random
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from tokenizers import Tokenizer
from transformers import JambaForCausalLM

import stories

FILLERS = (2, 8, 24, 60)
BOS = 1
MAX_ANSWER_TOKENS = 16  # the longest answer has 14


def questions(r, filler, count):
    for _ in range(count):
        asked = []
        while not asked:
            text, asked = stories.story(r, filler)
        question, answer = r.choice(asked)
        yield text + stories.ask(question), f"{answer}."


@torch.no_grad()
def evaluate(checkpoint, out, count):
    model = JambaForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = Tokenizer.from_file(f"{checkpoint}/tokenizer.json")
    r, lines = random.Random(31337), []
    for filler in FILLERS:
        rows = []
        for prompt, answer in questions(r, filler, count if filler < 60 else count // 2):
            ids = torch.tensor([[BOS, *tokenizer.encode(prompt).ids]])
            tokens = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=MAX_ANSWER_TOKENS, do_sample=False
            )
            said = tokenizer.decode(tokens[0, ids.shape[1] :].tolist()).split("\n")[0].strip()
            rows.append({
                "prompt": prompt, "answer": answer, "filler": filler, "prompt_tokens": ids.shape[1],
                "transformers_answer": said, "transformers_exact": said == answer,
            })  # fmt: skip
        exact, tokens = sum(row["transformers_exact"] for row in rows), sum(row["prompt_tokens"] for row in rows)
        print(f"filler {filler}: {exact} of {len(rows)} exact, {tokens / len(rows):.0f} tokens on average", flush=True)
        lines += [json.dumps(row) for row in rows]
    with open(out, "w") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    evaluate(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 100)
