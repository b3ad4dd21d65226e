"""langchain-openai against `jamba serve`: langchain_check.py http://HOST:PORT. The first failure ends it."""

import sys
from importlib.metadata import version
from typing import Literal

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

model = ChatOpenAI(
    base_url=f"{sys.argv[1]}/v1", api_key="none", model="tiny", seed=7, temperature=0, max_tokens=300, max_retries=0,
    stream_usage=True)
ASK = [SystemMessage("You answer questions."), HumanMessage("Anna has a red kite. What does Anna have?")]


@tool
def weather(place: Literal["Rome", "Oslo"]) -> str:
    """The weather of a place."""
    return "It rains."


class Colour(BaseModel):
    """A colour."""

    name: Literal["red", "blue"]


def text():
    short = model.bind(max_tokens=16)
    whole, parts = short.invoke(ASK), None
    for chunk in short.stream(ASK):
        parts = chunk if parts is None else parts + chunk
    assert parts.content == whole.content, (parts, whole)
    assert parts.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"]


def calls():
    bound = model.bind_tools([weather], tool_choice="required", parallel_tool_calls=False, strict=True)
    whole, parts = bound.invoke(ASK), None
    for chunk in bound.stream(ASK):
        parts = chunk if parts is None else parts + chunk
    for answer in (whole, parts):
        assert [call["name"] for call in answer.tool_calls] == ["weather"], answer
        assert answer.tool_calls[0]["args"]["place"] in ("Rome", "Oslo")
    call = whole.tool_calls[0]
    result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
    assert isinstance(model.bind(max_tokens=8).invoke([*ASK, whole, result]), AIMessage)


def structured():
    assert model.with_structured_output(Colour, method="json_schema").invoke(ASK).name in ("red", "blue")
    assert model.with_structured_output(Colour, method="function_calling", strict=True).invoke(ASK).name in ("red", "blue")


def batches():
    short = model.bind(max_tokens=8)
    assert [one.content for one in short.batch([ASK] * 6)] == [short.invoke(ASK).content] * 6


for check in (text, calls, structured, batches):
    check()
    print(f"langchain-openai {version('langchain-openai')}: {check.__name__}: yes", flush=True)
