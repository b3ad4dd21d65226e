"""Chats: tools, formats, streams."""

import json

import pytest
from conftest import until_idle

from jambac_runtime import Model

USER = [{"role": "user", "content": "How warm is it in Rome?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def test_a_chat_is_an_answer_to_its_template(model: Model) -> None:
    text, tokens = model.render_chat(USER)
    assert "How warm is it in Rome?" in text
    answer = model.chat(USER, temperature=0, max_tokens=20)
    assert answer.completion.tokens == model.generate(tokens, temperature=0, max_tokens=20).tokens
    assert answer.content == answer.completion.text.rstrip() or answer.content is not None
    assert answer.to_message()["role"] == "assistant"


def test_a_required_call(model: Model) -> None:
    answer = model.chat(USER, tools=[WEATHER], tool_choice="required", max_tokens=100, parallel_tool_calls=False, seed=1)
    (call,) = answer.tool_calls
    assert call.name == "weather" and call.id.startswith("call_")
    assert json.loads(call.arguments)["city"] in ("Rome", "Oslo")
    assert answer.finish_reason == "tool_calls"
    # The call and its result go into the next request.
    messages = [*USER, answer.to_message(), {"role": "tool", "tool_call_id": call.id, "content": "21"}]
    text, _ = model.render_chat(messages, tools=[WEATHER])
    assert "weather" in text and "21" in text


def test_parts_of_a_stream_are_the_answer(model: Model) -> None:
    parts = list(model.stream_chat(USER, tools=[WEATHER], tool_choice="required", max_tokens=100, parallel_tool_calls=False))
    whole = parts[-1].answer
    assert whole is not None and [part.kind for part in parts].count("call") == 1
    assert "".join(part.text for part in parts if part.kind == "arguments") == whole.tool_calls[0].arguments
    parts = list(model.stream_chat(USER, temperature=0, max_tokens=20))
    assert "".join(part.text for part in parts if part.kind == "content") == parts[-1].answer.content


def test_a_closed_stream_of_a_chat_is_cancelled(model: Model) -> None:
    stream = model.stream_chat(USER, max_tokens=3000, ignore_eos=True, temperature=0)
    next(stream)
    stream.close()
    until_idle(model)


def test_a_schema(model: Model) -> None:
    schema = {"type": "object", "properties": {"warm": {"type": "boolean"}}, "required": ["warm"], "additionalProperties": False}
    answer = model.chat(USER, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    assert isinstance(json.loads(answer.content or "")["warm"], bool)


def test_wrong_chats_are_named(model: Model) -> None:
    with pytest.raises(ValueError, match=r"^messages\[0\].role: "):
        model.chat([{"role": "cook", "content": "x"}])
    with pytest.raises(ValueError, match="tool_choice"):
        model.chat(USER, tool_choice="required")
    with pytest.raises(TypeError, match="'tool'"):
        model.chat(USER, tool=[])
