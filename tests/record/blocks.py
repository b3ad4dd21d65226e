"""Records what ggml's Python package widens blocks to, for tests/gguf.rs.

    python3 -m venv venv && venv/bin/pip install gguf safetensors
    venv/bin/python tests/record/blocks.py tests/fixtures/gguf/blocks.safetensors

For each type: the bytes of eight blocks, drawn at random but for their scales, which are small finite numbers, and their values.
"""

import sys

import numpy
from gguf import GGMLQuantizationType as Type, quants
from gguf.constants import GGML_QUANT_SIZES
from safetensors.numpy import save_file

# Where the half-precision scales of a block lie.
SCALES = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
}
BLOCKS = 8


def main(to):
    random = numpy.random.default_rng(1)
    tensors = {}
    for name, scales in SCALES.items():
        kind = Type[name]
        size = GGML_QUANT_SIZES[kind][1]
        blocks = random.integers(0, 256, (BLOCKS, size), dtype=numpy.uint8)
        for at in scales:
            drawn = random.uniform(-0.01, 0.01, BLOCKS).astype(numpy.float16)
            blocks[:, at : at + 2] = drawn.view(numpy.uint8).reshape(BLOCKS, 2)
        tensors[f"{name}.bytes"] = blocks
        tensors[f"{name}.values"] = quants.dequantize(blocks, kind).astype(numpy.float32)
    save_file(tensors, to)


if __name__ == "__main__":
    main(*sys.argv[1:])
