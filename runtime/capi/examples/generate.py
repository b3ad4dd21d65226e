"""Streams text from a prompt, with Python's own ctypes.

    runtime/capi/install ~/.local
    LD_LIBRARY_PATH=~/.local/lib python3 generate.py jamba.plan "Once upon a time."

LIBJAMBA names the library if the linker does not find it.
"""

import ctypes
import os
import sys


class Engine(ctypes.Structure):
    _fields_ = [("id", ctypes.c_uint64)]


class Sequence(ctypes.Structure):
    _fields_ = [("id", ctypes.c_uint64)]


class Token(ctypes.Structure):
    _fields_ = [
        ("token", ctypes.c_uint32),
        ("logprob", ctypes.c_float),
        ("text", ctypes.POINTER(ctypes.c_char)),
        ("text_length", ctypes.c_size_t),
        ("top", ctypes.c_void_p),
        ("n_top", ctypes.c_size_t),
    ]


OnToken = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(Token))
Tokens = ctypes.POINTER(ctypes.c_uint32)
Length = ctypes.POINTER(ctypes.c_size_t)

library = ctypes.CDLL(os.environ.get("LIBJAMBA", "libjamba.so.1"))
library.jamba_last_error.restype = ctypes.c_char_p
library.jamba_open.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.POINTER(Engine)]
library.jamba_encode.argtypes = [Engine, ctypes.c_char_p, ctypes.c_size_t, Tokens, ctypes.c_size_t, Length]
library.jamba_generate.argtypes = [
    Engine,
    Sequence,
    Tokens,
    ctypes.c_size_t,
    ctypes.c_void_p,  # options
    OnToken,
    ctypes.c_void_p,  # first argument of the callback
    ctypes.c_void_p,  # result
]
library.jamba_close.argtypes = [Engine]


def check(status):
    if status != 0:
        sys.exit(f"generate.py: {library.jamba_last_error().decode()}")


@OnToken
def print_token(_, token):
    text = ctypes.string_at(token.contents.text, token.contents.text_length)  # whole characters
    print(text.decode(), end="", flush=True)
    return 0  # continue


def encode(engine, text):
    """The tokens of a text. The first call says how many they are."""
    bytes_, length = text.encode(), ctypes.c_size_t()
    library.jamba_encode(engine, bytes_, len(bytes_), (ctypes.c_uint32 * 1)(), 1, ctypes.byref(length))
    tokens = (ctypes.c_uint32 * max(length.value, 1))()
    check(library.jamba_encode(engine, bytes_, len(bytes_), tokens, len(tokens), ctypes.byref(length)))
    return tokens, length.value


if len(sys.argv) != 3:
    sys.exit("usage: generate.py PLAN PROMPT")
engine = Engine()
check(library.jamba_open(os.fsencode(sys.argv[1]), None, ctypes.byref(engine)))
prompt, n_prompt = encode(engine, sys.argv[2])
# No sequence: a temporary one. No options: up to 256 tokens.
check(library.jamba_generate(engine, Sequence(0), prompt, n_prompt, None, print_token, None, None))
print()
check(library.jamba_close(engine))
