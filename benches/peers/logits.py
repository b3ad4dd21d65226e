"""Logits of GGUF files: jambac's plan of a file against llama.cpp on the same file, and both against the f32 file.

    python logits.py LLAMA_CPP CHECKPOINT TOKENS... --formats f32,q8_0,q4_0

LLAMA_CPP is a source tree of llama.cpp with build/bin (llama-quantize, libllama.so), and llama-cpp-python's module must be importable
(LLAMA_CPP_LIB_PATH names the libraries). The checkpoint is converted by convert.py, with llama.cpp's own converter, and quantized by its own tool.
`jambac` is found on PATH, libjamba.so through LIBJAMBA. TOKENS is a file with one document of token ids, separated by commas, a line.

Prints, for each format: KL(f32 ‖ llama.cpp) and KL(f32 ‖ jambac) in nats, f32 by llama.cpp; KL(llama.cpp ‖ jambac); the largest
difference of a logit, of logits less their mean; and the share of places where both have the same likeliest token.
"""

import argparse
import ctypes
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np


class Engine(ctypes.Structure):
    _fields_ = [("id", ctypes.c_uint64)]


class Sequence(ctypes.Structure):
    _fields_ = [("id", ctypes.c_uint64)]


class Logits(ctypes.Structure):
    _fields_ = [
        ("rows", ctypes.POINTER(ctypes.POINTER(ctypes.c_float))),
        ("n_rows", ctypes.c_size_t),
        ("vocab", ctypes.c_size_t),
    ]


class Ours:
    """Logits of a plan, one token at a time."""

    def __init__(self, plan):
        self.lib = ctypes.CDLL(os.environ.get("LIBJAMBA", "libjamba.so.1"))
        self.lib.jamba_last_error.restype = ctypes.c_char_p
        self.lib.jamba_open.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.POINTER(Engine)]
        self.lib.jamba_sequence_add.argtypes = [Engine, ctypes.POINTER(Sequence)]
        self.lib.jamba_sequence_remove.argtypes = [Engine, Sequence]
        tokens = ctypes.POINTER(ctypes.c_uint32)
        self.lib.jamba_prefill.argtypes = [Engine, Sequence, tokens, ctypes.c_size_t, ctypes.POINTER(Logits)]
        self.lib.jamba_close.argtypes = [Engine]
        self.engine = Engine()
        self.check(self.lib.jamba_open(str(plan).encode(), None, self.engine))

    def check(self, status):
        if status != 0:
            sys.exit(f"logits.py: {self.lib.jamba_last_error().decode()}")

    def logits(self, tokens):
        sequence, rows = Sequence(), []
        self.check(self.lib.jamba_sequence_add(self.engine, sequence))
        for token in tokens:
            found = Logits()
            self.check(self.lib.jamba_prefill(self.engine, sequence, (ctypes.c_uint32 * 1)(token), 1, found))
            rows.append(np.ctypeslib.as_array(found.rows[0], (found.vocab,)).copy())
        self.check(self.lib.jamba_sequence_remove(self.engine, sequence))
        return np.array(rows)

    def close(self):
        self.check(self.lib.jamba_close(self.engine))


def theirs(gguf, documents):
    import llama_cpp

    model = llama_cpp.Llama(str(gguf), n_ctx=1024, n_batch=512, n_threads=1, logits_all=True, verbose=False)
    rows = []
    for tokens in documents:
        model.reset()
        model.eval(tokens)
        rows.append(np.array(model.scores[: len(tokens)], dtype=np.float32))
    return np.concatenate(rows)


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"logits.py: {command[0]}: {done.stderr or done.stdout}")


def log_softmax(logits):
    x = logits.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def kl(p, q):
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("llama_cpp", type=pathlib.Path)
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("tokens", type=pathlib.Path)
    parser.add_argument("--formats", default="f32,f16,bf16,q8_0,q6_k,q5_k_m,q4_k_m,q4_0")
    parser.add_argument("--source", type=pathlib.Path, help="the folder of convert_hf_to_gguf.py, if it is another")
    args = parser.parse_args()
    documents = [[int(token) for token in line.split(",")] for line in args.tokens.read_text().split()]
    quantize = args.llama_cpp / "build/bin/llama-quantize"
    reference = None
    print("| file | KL(f32 ‖ llama.cpp) | KL(f32 ‖ jambac) | KL(llama.cpp ‖ jambac) | largest Δ logit | same likeliest |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        base = folder / "f32.gguf"
        convert = pathlib.Path(__file__).with_name("convert.py")
        run(sys.executable, convert, args.source or args.llama_cpp, args.checkpoint, base, "f32")
        for fmt in args.formats.split(","):
            gguf = folder / f"{fmt}.gguf"
            if fmt != "f32":
                run(quantize, base, gguf, fmt.upper())
            plan = folder / f"{fmt}.plan"
            limits = ["--max-context", "1024", "--max-sequences", "1"]
            run("jambac", "build", gguf, "-o", plan, "--target", "native", "--calibrate", "none", *limits)
            llama = theirs(gguf, documents)
            engine = Ours(plan)
            ours = np.concatenate([engine.logits(tokens) for tokens in documents])
            engine.close()
            centred = [x - x.mean(axis=1, keepdims=True) for x in (llama, ours)]
            largest = float(np.abs(centred[0] - centred[1]).max())
            same = float((llama.argmax(axis=1) == ours.argmax(axis=1)).mean())
            p, q = log_softmax(llama), log_softmax(ours)
            reference = p if reference is None else reference
            print(f"| {fmt} | {kl(reference, p):.1e} | {kl(reference, q):.1e} | {kl(p, q):.1e} | {largest:.2e} | {100 * same:.2f} % |", flush=True)
    print(f"{len(documents)} documents, {sum(map(len, documents))} tokens")


if __name__ == "__main__":
    main()
