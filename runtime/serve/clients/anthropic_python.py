"""Anthropic's Python client against `jamba serve`: anthropic_python.py http://HOST:PORT. The first failure ends it."""

import sys

import anthropic

client = anthropic.Anthropic(base_url=sys.argv[1], api_key="none", max_retries=0, timeout=120)
ASK = {"model": "tiny", "messages": [{"role": "user", "content": "Anna has a red kite. What does Anna have?"}]}
WEATHER = {
    "name": "weather",
    "description": "The weather of a place.",
    "input_schema": {
        "type": "object", "properties": {"place": {"enum": ["Rome", "Oslo"]}}, "required": ["place"],
        "additionalProperties": False,
    },
}


def text():
    whole = client.messages.create(**ASK, max_tokens=16, system="Answer.", extra_body={"temperature": 0})
    with client.messages.stream(**ASK, max_tokens=16, system="Answer.", extra_body={"temperature": 0}) as stream:
        parts = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert parts == whole.content[0].text == final.content[0].text
    assert final.usage.output_tokens == whole.usage.output_tokens and final.stop_reason == whole.stop_reason
    assert client.messages.count_tokens(**ASK).input_tokens > 8


def calls():
    options = {**ASK, "max_tokens": 200, "tools": [WEATHER], "extra_body": {"temperature": 0}}
    options["tool_choice"] = {"type": "any", "disable_parallel_tool_use": True}
    whole = client.messages.create(**options)
    with client.messages.stream(**options) as stream:
        streamed = stream.get_final_message()
    for answer in (whole, streamed):
        call = answer.content[-1]
        assert answer.stop_reason == "tool_use" and call.type == "tool_use", answer
        assert call.name == "weather" and call.input["place"] in ("Rome", "Oslo")
    call = whole.content[-1]
    messages = [
        *ASK["messages"], {"role": "assistant", "content": [call.model_dump()]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "It rains."}]}]
    client.messages.create(model="tiny", messages=messages, max_tokens=4, tools=[WEATHER])


def errors():
    try:
        client.messages.create(**{**ASK, "model": "nobody"}, max_tokens=4)
    except anthropic.NotFoundError as error:
        assert error.body["error"]["type"] == "not_found_error"
    else:
        raise AssertionError("an unknown model answered")


for check in (text, calls, errors):
    check()
    print(f"anthropic {anthropic.__version__}, Python: {check.__name__}: yes", flush=True)
