"""OpenAI's Python client against `jamba serve`: openai_python.py http://HOST:PORT. The first failure ends it."""

import json
import sys
import threading
from typing import Literal

import openai
from pydantic import BaseModel

BASE = sys.argv[1]
client = openai.OpenAI(base_url=f"{BASE}/v1", api_key="none", max_retries=0, timeout=120)
MODEL = client.models.list().data[0].id
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"The {name} of a place.",
            "parameters": {
                "type": "object",
                "properties": {"place": {"type": "string", "maxLength": 12}, "days": {"type": "integer"}},
                "required": ["place"],
                "additionalProperties": False,
            },
        },
    }
    for name in ("weather", "history")
]
ASK = [{"role": "user", "content": "Anna has a red kite. What does Anna have?"}]


def models():
    assert client.models.retrieve(MODEL).id == MODEL
    try:
        client.models.retrieve("no-such-model")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found", error.code
    else:
        raise AssertionError("an unknown model was found")


def chat():
    """A stream has the text and the usage of the whole answer, and one id."""
    options = {"model": MODEL, "messages": ASK, "seed": 7, "max_completion_tokens": 24, "n": 2}
    whole = client.chat.completions.create(**options, logprobs=True, top_logprobs=3)
    assert [choice.index for choice in whole.choices] == [0, 1]
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert all(len(token.top_logprobs) == 3 for token in whole.choices[0].logprobs.content)
    texts, ids, roles, usage = ["", ""], set(), [], None
    stream = client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True})
    for chunk in stream:
        ids.add(chunk.id)
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            roles += [choice.delta.role] if choice.delta.role else []
    assert texts == [choice.message.content for choice in whole.choices], (texts, whole)
    assert len(ids) == 1 and roles == ["assistant"] * 2, (ids, roles)
    assert usage.completion_tokens == whole.usage.completion_tokens


def parts():
    """Content as parts and a null content are chats like any other."""
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"place\": \"Rome\"}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "It rains."},
    ]
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS, max_tokens=4)
    assert answer.usage.completion_tokens <= 4


def calls():
    """A required call: arguments are a JSON text, parts merge by their index, and the stream equals the whole."""
    options = {"model": MODEL, "messages": ASK, "tools": TOOLS, "seed": 3, "max_tokens": 300}
    named = {"type": "function", "function": {"name": "history"}}
    for choice in ("required", named):
        whole = client.chat.completions.create(**options, tool_choice=choice, parallel_tool_calls=False)
        found = whole.choices[0].message
        assert whole.choices[0].finish_reason == "tool_calls" and found.content is None, whole
        assert isinstance(json.loads(found.tool_calls[0].function.arguments)["place"], str)
        assert len(found.tool_calls) == 1 and (choice == "required" or found.tool_calls[0].function.name == "history")
        with client.chat.completions.stream(**options, tool_choice=choice, parallel_tool_calls=False) as stream:
            for _ in stream:
                pass
            streamed = stream.get_final_completion().choices[0]
        assert streamed.finish_reason == "tool_calls"
        assert [call.function.arguments for call in streamed.message.tool_calls] == [
            call.function.arguments for call in found.tool_calls]
        assert all(call.id and call.type == "function" for call in streamed.message.tool_calls)


def structured():
    """`parse` sends a strict schema with titles and definitions, and reads the answer with it."""

    class Thing(BaseModel):
        colour: Literal["red", "blue"]
        count: Literal[1, 2]

    class Answer(BaseModel):
        owner: Literal["Anna", "Ben"]
        thing: Thing

    parsed = client.chat.completions.parse(
        model=MODEL, messages=ASK, response_format=Answer, max_tokens=600, seed=1, temperature=0)
    assert isinstance(parsed.choices[0].message.parsed, Answer)
    bounded = {
        "type": "object", "properties": {"n": {"enum": [1, 2, 3]}}, "required": ["n"], "additionalProperties": False}
    answer = client.chat.completions.create(
        model=MODEL, messages=ASK, max_tokens=60,
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": bounded, "strict": True}})
    assert json.loads(answer.choices[0].message.content)["n"] in (1, 2, 3)


def responses():
    """The Responses API: the stream has typed events and the whole answer; calls and their results; a chain of responses."""
    options = {"model": MODEL, "input": ASK, "max_output_tokens": 24, "temperature": 0, "instructions": "Answer."}
    whole = client.responses.create(**options, metadata={"a": "b"})
    assert whole.output_text and whole.metadata == {"a": "b"} and whole.usage.output_tokens <= 24, whole
    with client.responses.stream(**options) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text == whole.output_text and final.status == whole.status, final
    chat = client.chat.completions.create(
        model=MODEL, messages=[{"role": "system", "content": "Answer."}, *ASK], max_tokens=24, temperature=0)
    assert chat.choices[0].message.content == whole.output_text
    assert client.responses.retrieve(whole.id).output_text == whole.output_text
    items = [*ASK, *whole.output, {"role": "user", "content": "And then?"}]
    longer = client.responses.create(**{**options, "input": items})
    again = client.responses.create(**{**options, "input": "And then?"}, previous_response_id=whole.id)
    assert again.output_text == longer.output_text and again.usage.input_tokens == longer.usage.input_tokens
    client.responses.delete(whole.id)
    tools = [{"type": "function", "strict": True, **tool["function"]} for tool in TOOLS]
    options = {"model": MODEL, "input": ASK, "tools": tools, "max_output_tokens": 300, "parallel_tool_calls": False}
    options["tool_choice"] = {"type": "function", "name": "history"}
    options["extra_body"] = {"seed": 3}
    called = client.responses.create(**options)
    with client.responses.stream(**options) as stream:
        arguments = "".join(e.delta for e in stream if e.type == "response.function_call_arguments.delta")
        streamed = stream.get_final_response()
    call = called.output[-1]
    assert call.type == "function_call" and call.name == "history" and isinstance(json.loads(call.arguments), dict)
    assert streamed.output[-1].arguments == arguments == call.arguments
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "It was hot."}
    client.responses.create(model=MODEL, input=[*ASK, *called.output, result], tools=tools, max_output_tokens=16)

    class Answer(BaseModel):
        owner: Literal["Anna", "Ben"]

    parsed = client.responses.parse(model=MODEL, input=ASK, text_format=Answer, max_output_tokens=200, temperature=0)
    assert isinstance(parsed.output_parsed, Answer)
    try:
        client.responses.create(model=MODEL, input="Hi", tools=[{"type": "web_search"}])
    except openai.BadRequestError as error:
        assert error.param == "tools[0].type", error
    else:
        raise AssertionError("a tool that the server does not have was taken")


def completions():
    """Prompts of all kinds; echo gives the log probabilities of the prompt."""
    text = "Once upon a time"
    tokens = client.post("/../tokenize", cast_to=object, body={"content": text})["tokens"]
    one = client.completions.create(model=MODEL, prompt=text, max_tokens=6, temperature=0)
    same = client.completions.create(model=MODEL, prompt=tokens, max_tokens=6, temperature=0)
    assert same.choices[0].text == one.choices[0].text
    both = client.completions.create(model=MODEL, prompt=[text, "The end"], max_tokens=2, echo=True)
    assert both.choices[0].text.startswith(text) and both.choices[1].text.startswith("The end")
    read = client.completions.create(model=MODEL, prompt=[tokens], max_tokens=0, echo=True, logprobs=1)
    found = read.choices[0].logprobs
    assert found.token_logprobs[0] is None and all(p <= 0 for p in found.token_logprobs[1:])
    assert len(found.token_logprobs) == len(tokens)
    stop = one.choices[0].text[1:3]
    stopped = client.completions.create(model=MODEL, prompt=text, max_tokens=30, temperature=0, stop=stop)
    assert one.choices[0].text.startswith(stopped.choices[0].text) and stopped.choices[0].finish_reason == "stop"


def errors():
    """Errors are typed, with text codes."""
    for kind, status, body in [
        (openai.NotFoundError, 404, {"model": "nobody", "messages": ASK}),
        (openai.BadRequestError, 400, {"model": MODEL, "messages": ASK, "temperature": -1}),
        (openai.BadRequestError, 400, {"model": MODEL, "messages": ASK, "n": 1000}),
        (openai.BadRequestError, 400, {"model": MODEL, "messages": [{"role": "user", "content": "word " * 9000}]}),
    ]:
        try:
            client.chat.completions.create(**body)
        except kind as error:
            assert error.status_code == status and isinstance(error.body["message"], str), error
            assert error.code is None or isinstance(error.code, str)
        else:
            raise AssertionError(f"{body} was answered")


def many():
    """Clients at once get what each gets alone; those that close their stream disturb nobody."""
    def ask(seed, **options):
        return client.completions.create(
            model=MODEL, prompt="Ben", seed=seed, max_tokens=32, extra_body={"ignore_eos": True}, **options)

    alone = [ask(seed).choices[0].text for seed in range(12)]
    found = [None] * 12

    def run(seed):
        if seed % 3 == 0:
            stream = ask(1000 + seed, stream=True)
            next(iter(stream))
            stream.close()
        found[seed] = ask(seed).choices[0].text

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(12)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert found == alone


for check in (models, chat, parts, calls, structured, responses, completions, errors, many):
    check()
    print(f"openai {openai.__version__}, Python: {check.__name__}: yes", flush=True)
