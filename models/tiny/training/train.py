"""Train the tiny story model on a CPU and write it as a Hugging Face checkpoint.

    pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0 tokenizers==0.23.3       (and gcc)
    python train.py CHECKPOINT OUT --minutes 60

CHECKPOINT gives the tokenizer, the config and, with --resume, the weights to start from. Two workers share the parameters
and update them without waiting for each other, so that a busy machine does not stall them.

What makes a small model learn recall quickly, in the order of how much it did:
- Two auxiliary losses tell it what the answer says only indirectly: the residual stream under the first attention layer
  should say whom the sentence is about, and the attention heads should look at the place that the next token of the answer
  is copied from. Without them a model finds the kind of the fact, not the person, and answers half of the questions.
- At first, stories where many people have facts of one kind, so that only the name tells them apart.
- All facts of a story are asked for, some by their beginning alone; answers weigh 1, everything else `story_weight`.
- Muon for the matrices. The learning rate stays constant and falls linearly to nothing over the last third, where the data
  turns to the evaluation's own language and the auxiliary losses fade.
"""

import argparse
import os
import pathlib
import random
import shutil
import time

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
import torch.multiprocessing as multiprocessing
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn

import stories
from model import D_MODEL, VOCAB, Model, from_checkpoint, initialise, to_checkpoint
from muon import Muon

BOS, EOS = 1, 2
WORKERS = 2
KINDS = ["thing", "place", "food", "animal", "job"]
NAME_INDEX = {name: i for i, name in enumerate(stories.NAMES)}

# Until which fraction of the time: the share of contrast stories and of recaps, numbers of filler sentences to draw from, the
# weight of tokens that are not answers, and the weight of the auxiliary losses.
CURRICULUM = [
    (0.5, dict(contrast=0.6, recap=0.5, fillers=[0, 0, 1, 2, 4], story_weight=0.05, auxiliary=0.3)),
    (0.7, dict(contrast=0.4, recap=0.5, fillers=[0, 1, 2, 4, 8], story_weight=0.05, auxiliary=0.3)),
    (1.0, dict(contrast=0.1, recap=0.2, fillers=[1, 2, 2, 4, 4, 6, 8, 8, 12, 16, 24, 40], story_weight=0.2, auxiliary=0.1)),
]  # fmt: skip
DECAY_FROM = 0.65


def contrast_story(r, filler):
    """Many people with facts of one or two kinds; only the name tells the answers apart."""
    kinds = r.sample(KINDS, r.randint(1, 2))
    facts = [stories.fact(r, name, kind) for name in r.sample(stories.NAMES, r.randint(3, 7)) for kind in kinds]
    sentences = [sentence for sentence, _ in facts]
    for _ in range(filler // 2):
        n, m = r.sample(stories.NAMES, 2)
        sentences.append(r.choice(stories.WEATHER) if r.random() < 0.3 else r.choice(stories.EVENTS).format(n=n, m=m))
    r.shuffle(sentences)
    text = r.choice(stories.OPENINGS) + " ".join(sentences)
    return text, [(question, sentence[:-1]) for sentence, question in facts]


class Example:
    """Tokens with, for each, its weight in the loss, where the next token is copied from, and whom its sentence is about."""

    NOTHING = -1

    def __init__(self):
        self.ids, self.weights, self.sources, self.subjects = [], [], [], []

    def append(self, ids, weight):
        self.ids += ids
        self.weights += [weight] * len(ids)
        self.sources += [self.NOTHING] * len(ids)
        self.subjects += [self.NOTHING] * len(ids)

    def append_answer(self, encode, answer, prefix_weight):
        """An answer, whose first two words (name and verb) weigh `prefix_weight`, linked to its sentence in the story."""
        ids, words, start = encode(f" {answer}."), answer.split(), len(self.ids)
        prefix, subject = len(encode(" " + " ".join(words[:2]))), NAME_INDEX[words[0]]
        begin, end = self.find(ids, encode(f"{answer}."))
        self.append(ids, 1.0)
        self.weights[start : start + prefix] = [prefix_weight] * prefix
        self.subjects[start:] = [subject] * len(ids)
        if end is not None:
            self.subjects[begin:end] = [subject] * (end - begin)
            for i in range(prefix, len(ids)):  # the position before token i predicts it
                self.sources[start + i - 1] = end - len(ids) + i

    def find(self, ids, ids_at_start):
        """Where the sentence stands: [begin, end); at the start of a text its first word is tokenized without a space."""
        if self.ids[1 : 1 + len(ids_at_start)] == ids_at_start:
            return 1, 1 + len(ids_at_start)
        for begin in range(len(self.ids) - len(ids) + 1):
            if self.ids[begin : begin + len(ids)] == ids:
                return begin, begin + len(ids)
        return None, None


def example(r, encode, mix):
    filler = r.choice(mix["fillers"])
    if r.random() < mix["contrast"]:
        text, questions = contrast_story(r, filler)
    elif r.random() < 0.5:
        text, questions = stories.full_story(r, filler, people=(2, 6), facts=(1, 4))
    else:
        text, questions = stories.full_story(r, filler)
    r.shuffle(questions)
    recap = r.random() < mix["recap"]  # facts by their beginning alone, which has to be given: it cannot be guessed
    out = Example()
    out.append([BOS, *encode(text)], mix["story_weight"])
    for question, answer in questions:
        out.append(encode("\nAnswer:" if recap else stories.ask(question)), mix["story_weight"])
        out.append_answer(encode, answer, 0.0 if recap else 1.0)
    out.append([*encode("\n"), EOS], mix["story_weight"])
    return out


def batches(r, encode, current_mix, token_budget):
    """Padded batches of examples of similar length, at most `token_budget` tokens each (or one example)."""
    while True:
        mix = current_mix()
        pool = sorted((example(r, encode, mix) for _ in range(100)), key=lambda e: len(e.ids))
        groups = [[]]
        for e in pool:
            if groups[-1] and len(e.ids) * (len(groups[-1]) + 1) > token_budget:
                groups.append([])
            groups[-1].append(e)
        r.shuffle(groups)
        for group in groups:
            yield (
                padded([e.ids for e in group], 0),
                padded([e.weights for e in group], 0.0),
                padded([e.sources for e in group], Example.NOTHING),
                padded([e.subjects for e in group], Example.NOTHING),
            )


def padded(rows, fill):
    length = max(len(row) for row in rows)
    return torch.tensor([row + [fill] * (length - len(row)) for row in rows])


def loss_of(model, probe, batch, auxiliary):
    """The loss to follow, and the mean cross entropy of answer tokens alone."""
    ids, weights, sources, subjects = batch
    weights, sources, subjects = weights[:, 1:].reshape(-1), sources[:, :-1], subjects[:, :-1]
    sequence, position = (sources >= 0).nonzero(as_tuple=True)
    logits, under_attention = model(ids[:, :-1], (sequence, position, sources[sequence, position]))
    each = F.cross_entropy(logits.reshape(-1, VOCAB), ids[:, 1:].reshape(-1), reduction="none")
    subject = F.cross_entropy(
        F.linear(under_attention.reshape(-1, D_MODEL), probe), subjects.reshape(-1), ignore_index=Example.NOTHING
    )
    hints = auxiliary * (model.attend_loss() + subject)
    return (each * weights).sum() / weights.sum() + 0.01 * model.balance_loss() + hints, each[
        weights == 1
    ].mean().item()


def worker(rank, shared, average, options):
    torch.set_num_threads(1)
    model = Model()
    for parameter, tensor in zip(model.parameters(), shared):
        parameter.data = tensor
    probe = nn.Parameter(torch.randn(len(stories.NAMES), D_MODEL) * 0.02)
    muon = Muon(model)
    others = [p for name, p in model.named_parameters() if name not in muon.parameters]
    adam = torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    probe_adam = torch.optim.Adam([probe], lr=5e-3)
    encode = Tokenizer.from_file(f"{options.checkpoint}/tokenizer.json")
    start, step, smooth = time.time(), 0, None

    def fraction():
        return (time.time() - start) / (60 * options.minutes)

    def current_mix():
        return next((mix for until, mix in CURRICULUM if fraction() < until), CURRICULUM[-1][1])

    data = batches(
        random.Random(options.seed + rank), lambda text: encode.encode(text).ids, current_mix, options.token_budget
    )
    while fraction() < 1:
        remaining = min(1.0, (1 - fraction()) / (1 - DECAY_FROM))
        rate = options.rate * min(1.0, (step + 1) / 40) * max(0.02, remaining)
        loss, answers = loss_of(model, probe, next(data), current_mix()["auxiliary"])
        adam.zero_grad(), probe_adam.zero_grad(), model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in adam.param_groups:
            group["lr"] = rate
        adam.step(), probe_adam.step(), muon.step(rate)
        step += 1
        smooth = answers if smooth is None else 0.95 * smooth + 0.05 * answers
        if rank == 0:
            for mean, now in zip(average, shared):
                mean.lerp_(now, 0.02)
        if step % 20 == 0:
            print(
                f"worker {rank} step {step} answers {smooth:.4f} rate {rate:.1e} {time.time() - start:.0f} s",
                flush=True,
            )


def train(options):
    model = Model()
    initialise(model, options.seed)
    if options.resume:
        stored = load_file(f"{options.checkpoint}/model.safetensors")
        from_checkpoint(model, {name: tensor.float() for name, tensor in stored.items()})
    shared = [p.detach().clone().share_memory_() for p in model.parameters()]
    average = [p.clone().share_memory_() for p in shared]
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=worker, args=(i, shared, average, options)) for i in range(WORKERS)]
    for process in workers:
        process.start()
    for process in workers:
        process.join()
    for parameter, tensor in zip(model.parameters(), average):
        parameter.data = tensor
    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in to_checkpoint(model).items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(pathlib.Path(options.checkpoint, name), out / name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("out")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--resume", action="store_true", help="start from the checkpoint's weights")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--token-budget", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())
