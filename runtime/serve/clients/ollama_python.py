"""Ollama's Python client against `jamba serve`: ollama_python.py http://HOST:PORT. The first failure ends it."""

import importlib.metadata
import json
import sys

import ollama

client = ollama.Client(host=sys.argv[1], timeout=120)
ASK = [{"role": "user", "content": "Anna has a red kite. What does Anna have?"}]
GREEDY = {"temperature": 0, "num_predict": 24}


def weather(place: str) -> str:
    """The weather of a place.

    Args:
        place: The name of the place.
    """
    return f"It rains in {place}."


def model():
    found = client.list().models[0]
    assert found.model == "tiny" and found.size > 0 and found.details.family == "jamba", found
    shown = client.show("tiny:latest")
    assert shown.modelinfo["jamba.context_length"] == 4096 and "completion" in shown.capabilities, shown
    assert client.ps().models[0].model == "tiny"


def chat():
    whole = client.chat("tiny", ASK, options=GREEDY)
    parts = list(client.chat("tiny", ASK, options=GREEDY, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert parts[-1].done and parts[-1].eval_count == whole.eval_count <= 24 and whole.total_duration > 0
    assert client.chat("tiny", [*ASK, whole.message, {"role": "user", "content": "And Ben?"}], options=GREEDY).done
    assert client.chat("tiny", ASK, tools=[weather], options=GREEDY).done
    call = {"function": {"name": "weather", "arguments": {"place": "Rome"}}}
    result = {"role": "tool", "tool_name": "weather", "content": weather("Rome")}
    messages = [*ASK, {"role": "assistant", "tool_calls": [call]}, result]
    assert client.chat("tiny", messages, tools=[weather], options=GREEDY).done


def generate():
    whole = client.generate("tiny", "Once upon a time", raw=True, options=GREEDY)
    parts = list(client.generate("tiny", "Once upon a time", raw=True, options=GREEDY, stream=True))
    assert "".join(part.response for part in parts) == whole.response
    assert client.generate("tiny", "Hi", system="Answer.", options=GREEDY).done
    assert client.generate("tiny").done_reason == "load"


def structured():
    schema = {
        "type": "object", "properties": {"n": {"enum": [1, 2, 3]}}, "required": ["n"], "additionalProperties": False}
    answer = client.chat("tiny", ASK, format=schema, options={"num_predict": 60})
    assert json.loads(answer.message.content)["n"] in (1, 2, 3)


def errors():
    for body in ({"model": "nobody", "messages": ASK}, {"model": "tiny", "messages": ASK, "format": {"type": 5}}):
        try:
            client.chat(**body)
        except ollama.ResponseError as error:
            assert error.status_code in (400, 404) and error.error, error
        else:
            raise AssertionError(f"{body} was answered")


for check in (model, chat, generate, structured, errors):
    check()
    print(f"ollama {importlib.metadata.version('ollama')}, Python: {check.__name__}: yes", flush=True)
