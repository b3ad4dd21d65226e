"""A program of a user, for the type checker alone."""

from __future__ import annotations

from collections.abc import AsyncIterator

from typing_extensions import assert_type

from jambac_runtime import AsyncEngine, ChatAnswer, Completion, LLM, Model, RequestOutput, SamplingParams, Session, Token


def use(model: Model, session: Session) -> None:
    assert_type(model.generate("a"), Completion)
    assert_type(model.generate(["a", "b"], temperature=0, stop=["."]), list[Completion])
    assert_type(model.chat([{"role": "user", "content": "a"}]), ChatAnswer)
    assert_type([token.text for token in model.stream([1, 2])], list[str])
    assert_type(session.fork().generate().tokens, list[int])
    assert_type(LLM("x").generate("a", SamplingParams(max_tokens=1)), list[RequestOutput])
    model.generate("a", temprature=0)  # type: ignore[call-overload]


async def serve(engine: AsyncEngine) -> AsyncIterator[Token | Completion]:
    async for output in engine.generate("a"):
        assert_type(output, RequestOutput)
    async for item in engine.stream("a", max_tokens=3):
        yield item
