"""Events of the cache as routers know them."""

import threading

from jambac_runtime import Model
from jambac_runtime.kv_events import Block, Cleared, Follower, Removed, Stored, block_hash, events_of


def test_blocks_are_chains() -> None:
    tokens = list(range(100, 112))
    changes = [(True, tokens[:4]), (True, tokens[:8]), (True, tokens[:10]), (False, tokens[:4]), None, (True, [])]
    assert events_of(changes, 4) == [
        Stored(Block(block_hash(tokens[:4]), None, tokens[:4])),
        Stored(Block(block_hash(tokens[:8]), block_hash(tokens[:4]), tokens[4:8])),
        Removed(block_hash(tokens[:4])),
        Cleared(),
    ]


def test_names_are_the_same_everywhere() -> None:
    assert block_hash([1, 2, 3]) == -7044357283931317034
    assert -(2**63) <= block_hash([1, 2, 3]) < 2**63
    assert block_hash([1, 2]) != block_hash([2, 1])


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
