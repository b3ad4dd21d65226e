"""Measures `AsyncEngine` with clients that read every token against the same requests without Python.

    python runtime/python/tests/throughput.py PLAN [--clients 8] [--tokens 200] [--rounds 7]

Without Python: the requests are submitted, and nobody reads their tokens before the end, so that the step thread runs the
runtime's `Batch` alone. Both take turns on one open model. Times are from the first submission to the last token. The event loop's own
processor time for a token tells how far it is from holding the engine up.
"""

import argparse
import asyncio
import statistics
import time

from jambac_runtime import AsyncEngine, Completion, Model, _native
from jambac_runtime.sampling import FIELDS, fields


def alone(model: Model, prompts: list[list[int]], sampling: dict) -> float:
    """Tokens per second of the batch."""
    mailbox, text = _native.Mailbox(False), fields(sampling, FIELDS, "throughput")
    began = time.perf_counter()
    for key, prompt in enumerate(prompts):
        model._core.submit(mailbox, key, prompt, text)
    while True:
        time.sleep(0.001)
        stats = model.stats() if time.perf_counter() - began > alone.least else None
        if stats is not None and not stats["running"] and not stats["waiting"]:
            break
    letters = mailbox.take()
    times = [letter[4] for letter in letters if letter[4] and "finish" in letter[4]]
    assert len(times) == len(prompts)
    took = max(more["queue_seconds"] + more["prefill_seconds"] + more["decode_seconds"] for more in times)
    alone.least = 0.9 * took
    return sum(letter[2] is not None for letter in letters) / took


alone.least = 0.0


async def together(engine: AsyncEngine, prompts: list[list[int]], sampling: dict) -> tuple[float, float]:
    """Tokens per second of clients in an event loop, and the loop's processor time for a token in seconds."""

    async def client(prompt: list[int]) -> int:
        n = 0
        async for item in engine.stream(prompt, **sampling):
            n += not isinstance(item, Completion)
        return n

    began, used = time.perf_counter(), time.thread_time()
    counts = await asyncio.gather(*map(client, prompts))
    took, used = time.perf_counter() - began, time.thread_time() - used
    return sum(counts) / took, used / sum(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    engine = AsyncEngine(args.plan, max_sequences=args.clients, threads=args.threads, cache_mib=0)
    prompts = [[(7 * n + 11 * i) % 500 + 5 for i in range(32)] for n in range(args.clients)]
    sampling = {"max_tokens": args.tokens, "temperature": 0, "ignore_eos": True}
    rates: list[tuple[float, float, float]] = []
    for _ in range(args.rounds + 1):
        rates.append((alone(engine.model, prompts, sampling), *asyncio.run(together(engine, prompts, sampling))))
    batch, clients, used = (statistics.median(side) for side in zip(*rates[1:]))
    print(f"Batch: {batch:.0f} tokens/s, AsyncEngine with {args.clients} clients: {clients:.0f} tokens/s", end="")
    print(f" ({clients / batch:.3f}; rounds {', '.join(f'{b / a:.3f}' for a, b, _ in rates[1:])})")
    print(f"The event loop takes {used * 1e6:.1f} microseconds of processor time for a token")
    engine.close()


if __name__ == "__main__":
    main()
