"""What is cached, as routers know it: chains of blocks of tokens.

A block is as long as the interval between the states of a prompt (`cache_interval`). The state behind the n-th block of a prompt
is told as that block, whose parent is the block before it. States at other places, such as the end of a prompt, are not told:
a router underestimates what is cached and never overestimates it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from . import _native
from .model import Model

__all__ = ["Block", "Cleared", "Follower", "Removed", "Stored", "events_of"]

#: Seconds between two looks at the cache.
INTERVAL = 0.05


class Block(NamedTuple):
    """A block."""

    #: Names the prompt up to the end of the block: a signed number of 64 bits, the same on every machine.
    hash: int
    #: The block before it; None for the first of a prompt.
    parent: int | None
    tokens: list[int]


class Stored(NamedTuple):
    """A block is cached from now on."""

    block: Block


class Removed(NamedTuple):
    """A block is cached no more."""

    hash: int


class Cleared(NamedTuple):
    """Nothing is cached, as far as anybody knows."""


def events_of(changes: list[tuple[bool, list[int]] | None], block_size: int) -> list[Stored | Removed | Cleared]:
    """The events of what `Model.take_cache_events` tells."""
    events: list[Stored | Removed | Cleared] = []
    for change in changes:
        if change is None:
            events.append(Cleared())
            continue
        is_stored, tokens = change
        block = _native.last_block(tokens, block_size)
        if block is not None:
            events.append(Stored(Block(*block)) if is_stored else Removed(block[0]))
    return events


class Follower:
    """Tells events of a model's cache on a thread of its own until it is closed.

    The model is opened with `cache_events=True`.
    """

    def __init__(
        self,
        model: Model,
        block_size: int,
        tell: Callable[[list[Stored | Removed | Cleared]], None],
    ) -> None:
        """tell is called with the events since the last call, every few milliseconds, also if there are none."""
        self._model = model
        self._block_size = block_size
        self._tell = tell
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="jamba-kv-events", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ends.wait(INTERVAL):
            self._tell(events_of(self._model.take_cache_events(), self._block_size))

    def close(self) -> None:
        """Ends the thread."""
        self._ends.set()
        self._thread.join()
