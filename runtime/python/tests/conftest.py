"""The plan that `tests/run` builds of models/tiny, with a chat template that knows calls and reasoning."""

import os
import signal
from collections.abc import Iterator

import pytest

from jambac_runtime import Model

# A shell that runs the tests in the background ignores Ctrl-C, and so would every Python that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

PROMPT = "Once upon a time."


@pytest.fixture(scope="session")
def plan() -> str:
    return os.environ["PLAN"]


@pytest.fixture(scope="session")
def shared(plan: str) -> Iterator[Model]:
    with Model(plan) as model:
        yield model


@pytest.fixture
def model(shared: Model) -> Iterator[Model]:
    """A model that holds nothing before and after the test."""
    yield shared
    until_idle(shared)


def until_idle(model: Model) -> None:
    """Returns once no request runs. Fails if sequences are left."""
    while (stats := model.stats())["running"] or stats["waiting"]:
        pass
    assert stats["free_sequences"] == model.info["max_sequences"]
