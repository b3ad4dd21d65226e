"""Drives libjamba by ctypes: drive.py LIBRARY PLAN."""

import ctypes
import json
import sys


class Handle(ctypes.Structure):
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

library, plan = ctypes.CDLL(sys.argv[1]), sys.argv[2]
library.jamba_last_error.restype = ctypes.c_char_p
library.jamba_version.restype = ctypes.c_char_p


def check(status):
    if status != 0:
        raise RuntimeError(f"status {status}: {library.jamba_last_error().decode()}")


engine = Handle()
try:
    check(library.jamba_open(b"absent.plan", None, ctypes.byref(engine)))
    sys.exit("a plan that is absent was opened")
except RuntimeError as error:
    assert "absent.plan: cannot open it" in str(error), error
check(library.jamba_open(plan.encode(), None, ctypes.byref(engine)))

buffer, length = ctypes.create_string_buffer(1 << 16), ctypes.c_size_t()
check(library.jamba_info(engine, buffer, ctypes.c_size_t(len(buffer)), ctypes.byref(length)))
info = json.loads(buffer.value)
assert info["manifest"]["model"]["name"] == "toy", info

text = "Once upon a time".encode()
prompt = (ctypes.c_uint32 * 64)()
check(library.jamba_encode(engine, text, ctypes.c_size_t(len(text)), prompt, ctypes.c_size_t(64), ctypes.byref(length)))
n_prompt = length.value

told, tokens = [], []


@OnToken
def on_token(_, token):
    token = token.contents
    told.append(ctypes.string_at(token.text, token.text_length).decode())  # whole characters, or this fails
    if token.token != 0xFFFFFFFF:
        tokens.append(token.token)
    return len(tokens) >= 20


check(library.jamba_generate(engine, Handle(0), prompt, ctypes.c_size_t(n_prompt), None, on_token, None, None))
assert len(tokens) == 20, tokens
array = (ctypes.c_uint32 * len(tokens))(*tokens)
check(
    library.jamba_decode(
        engine, array, ctypes.c_size_t(len(tokens)), buffer, ctypes.c_size_t(len(buffer)), ctypes.byref(length)
    )
)
assert "".join(told) == buffer.raw[: length.value].decode(), (told, buffer.value)
check(library.jamba_close(engine))
assert library.jamba_close(engine) == 2, "a handle that was closed"
print(library.jamba_version().decode(), json.dumps("".join(told)))
