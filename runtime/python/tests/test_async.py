"""`AsyncEngine`: requests of an event loop."""

import asyncio
from collections.abc import Iterator

import pytest
from conftest import PROMPT, until_idle

from jambac_runtime import AsyncEngine, Completion, Model, SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=24)
LONG = SamplingParams(temperature=0, max_tokens=3500, ignore_eos=True)


@pytest.fixture(scope="module")
def shared_engine(plan: str) -> Iterator[AsyncEngine]:
    engine = AsyncEngine(plan)
    yield engine
    engine.close()


@pytest.fixture
def engine(shared_engine: AsyncEngine) -> Iterator[AsyncEngine]:
    yield shared_engine
    assert shared_engine.n_open == 0
    until_idle(shared_engine.model)


async def last(engine: AsyncEngine, prompt: object, params: SamplingParams = GREEDY):
    output = None
    async for output in engine.generate(prompt, params):
        pass
    return output


def test_clients_get_what_they_get_alone(engine: AsyncEngine) -> None:
    prompts = [f"Anna has {n} kites." for n in range(12)]

    async def main() -> list[str]:
        outputs = await asyncio.gather(*(last(engine, prompt) for prompt in prompts))
        assert all(output.finished for output in outputs)
        return [output.outputs[0].text for output in outputs]

    assert asyncio.run(main()) == [engine.model.generate(prompt, temperature=0, max_tokens=24).text for prompt in prompts]


def test_texts_grow(engine: AsyncEngine) -> None:
    async def main() -> None:
        texts = [output.outputs[0].text async for output in engine.generate(PROMPT, GREEDY)]
        assert all(after.startswith(before) for before, after in zip(texts, texts[1:]))
        items = [item async for item in engine.stream(PROMPT, temperature=0, max_tokens=24)]
        assert isinstance(items[-1], Completion)
        assert "".join(item.text for item in items[:-1]) == items[-1].text == texts[-1]

    asyncio.run(main())


def test_closing_a_generator_cancels(engine: AsyncEngine) -> None:
    async def main() -> None:
        generator = engine.generate(PROMPT, LONG)
        await anext(generator)
        assert engine.n_open == 1
        await generator.aclose()
        assert engine.n_open == 0

    asyncio.run(main())


def test_cancelling_a_task_cancels(engine: AsyncEngine) -> None:
    async def main() -> None:
        task = asyncio.create_task(last(engine, PROMPT, LONG))
        while not engine.n_open:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_abort(engine: AsyncEngine) -> None:
    async def main() -> None:
        outputs = []
        async for output in engine.generate(PROMPT, LONG, "mine"):
            outputs.append(output)
            if len(outputs) == 3:
                assert engine.abort("mine")
                with pytest.raises(ValueError, match="request_id: found 'mine'"):
                    await anext(engine.generate(PROMPT, LONG, "mine"))
        assert outputs[-1].outputs[0].finish_reason == "abort"
        assert not engine.abort("mine")

    asyncio.run(main())


def test_errors_come_to_their_request(engine: AsyncEngine) -> None:
    async def main() -> None:
        other = asyncio.create_task(last(engine, PROMPT))
        with pytest.raises(ValueError, match="context is 4096"):
            await last(engine, [5] * 5000)
        with pytest.raises(ValueError, match="^temperature: "):
            await last(engine, PROMPT, SamplingParams(temperature=-1))
        assert (await other).finished

    asyncio.run(main())


def test_chats(engine: AsyncEngine) -> None:
    messages = [{"role": "user", "content": "How warm is it?"}]

    async def main() -> str | None:
        parts = [part async for part in engine.chat(messages, temperature=0, max_tokens=20)]
        return parts[-1].answer.content

    assert asyncio.run(main()) == engine.model.chat(messages, temperature=0, max_tokens=20).content


def test_another_loop_may_follow_but_not_join(engine: AsyncEngine) -> None:
    assert asyncio.run(last(engine, PROMPT)).finished
    assert asyncio.run(last(engine, PROMPT)).finished

    async def outer() -> None:
        generator = engine.generate(PROMPT, LONG)
        await anext(generator)
        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, last(engine, PROMPT))
        await generator.aclose()

    asyncio.run(outer())


def test_options_and_long_texts(engine: AsyncEngine, model: Model) -> None:
    with pytest.raises(TypeError, match="threads"):
        AsyncEngine(model, threads=1)
    text = "Anna has a kite. " * 1000
    with pytest.raises(ValueError, match="context"):
        asyncio.run(last(engine, text))
