"""Runs Jamba models that `jambac build` has compiled into a plan.

    from jambac_runtime import Model

    with Model("jamba.plan") as model:
        print(model.generate("Once upon a time", max_tokens=40).text)

`Model` has the whole runtime: text, chats with tools, sessions that can be saved and forked, logits. `LLM` and
`SamplingParams` have vLLM's names, and `AsyncEngine` serves many requests of an event loop.

**A plan is a program**: open only plans whose origin you trust, or name the digest that it must have
(`require_digest`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._native import EngineError
from .answers import CallOfTool, ChatAnswer, ChatPart, Completion, Token, TokenLogprob, Usage
from .model import Model, Session, Snapshot, write_texts

if TYPE_CHECKING:
    from .aio import AsyncEngine
    from .llm import LLM, CompletionOutput, RequestOutput, SamplingParams

__all__ = [
    "LLM",
    "AsyncEngine",
    "CallOfTool",
    "ChatAnswer",
    "ChatPart",
    "Completion",
    "CompletionOutput",
    "EngineError",
    "Model",
    "RequestOutput",
    "SamplingParams",
    "Session",
    "Snapshot",
    "Token",
    "TokenLogprob",
    "Usage",
    "write_texts",
]

# Modules that take long to import, by the names that need them.
_LATER = {
    "AsyncEngine": "aio",
    "LLM": "llm",
    "SamplingParams": "llm",
    "RequestOutput": "llm",
    "CompletionOutput": "llm",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_LATER[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
