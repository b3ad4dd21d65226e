"""Events of the cache as routers know them."""

import threading

from jambac_runtime import Model
from jambac_runtime.kv_events import Block, Cleared, Follower, Removed, Stored, events_of


def test_blocks_are_chains() -> None:
    tokens = list(range(100, 112))
    changes = [(True, tokens[:4]), (True, tokens[:8]), (True, tokens[:10]), (False, tokens[:4]), None, (True, [])]
    first, second, removed, cleared = events_of(changes, 4)
    assert isinstance(first, Stored) and first.block.parent is None and first.block.tokens == tokens[:4]
    assert isinstance(second, Stored) and second.block == Block(second.block.hash, first.block.hash, tokens[4:8])
    assert (removed, cleared) == (Removed(first.block.hash), Cleared())
    assert -(2**63) <= first.block.hash < 2**63


def test_a_follower_tells_what_a_model_caches(plan: str) -> None:
    told, came = [], threading.Event()

    def tell(events: list) -> None:
        told.extend(events)
        if len(told) >= 3:
            came.set()

    with Model(plan, cache_interval=32, cache_events=True) as model:
        follower = Follower(model, 32, tell)
        prompt = [token % 300 + 5 for token in range(100)]
        model.generate(prompt, max_tokens=1)
        assert came.wait(60)
        follower.close()
    assert [event.block.tokens for event in told] == [prompt[:32], prompt[32:64], prompt[64:96]]
    assert [event.block.parent for event in told] == [None, told[0].block.hash, told[1].block.hash]
