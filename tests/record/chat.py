"""Records what Hugging Face transformers makes of chats: runtime/tests/chat/parity.json.

    pip install transformers==5.23.0 jinja2==3.1.6
    python tests/record/chat.py

The template is runtime/tests/chat/jamba.jinja, written for this in the manner of the released Jamba models' templates: roles
between marks, tools as JSON schemas, documents, calls of tools. The last chats go through small templates of their own,
each for something that templates in the field do.
"""

import json
import logging
import pathlib
import sys

import transformers
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

FOLDER = pathlib.Path(__file__).resolve().parent.parent.parent / "runtime" / "tests" / "chat"

WEATHER = {
    "type": "function",
    "function": {
        "name": "Get Weather",
        "description": "The weather of a city. Says <none> where it's unknown & never guesses.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Name: “Zürich”, 東京"},
                "days": {"type": "integer", "minimum": 1, "maximum": 14},
                "precise": {"default": None, "enum": [True, False, None]},
            },
            "required": ["city"],
        },
    },
}
ADD = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2}}}
DOCUMENTS = [
    {"title": "Harbour rules", "text": "  Boats keep right.\n\nNo wake.  ", "source": "port", "year": 1987},
    {"text": "A second one, without a title.", "score": 0.5, "final": True, "tags": ["a", 'b"c'], "more": {"k": None}},
]


def say(role, content, **more):
    return {"role": role, "content": content, **more}


HELLO = [say("user", "Hello, who are you?")]
TALK = [
    say("system", "  Answer in one sentence.  "),
    say("user", "Why is the sky blue?"),
    say("assistant", "Because of scattering.  \n"),
    say("user", "/skip this"),
    say("user", "Und warum ist sie abends rot? 🌅\n\tIndented."),
]
TOOLS = [
    say("user", "What is the weather in Zürich?"),
    say("assistant", None, tool_calls=[CALL, {"name": "add", "arguments": {"a": 1, "b": 2.5}}]),
    say("tool", '{"temperature": 21.5, "sky": "clear"}', tool_call_id="c1"),
    say("assistant", "It is 21.5 °C.", thinking="The tool said so."),
    say("user", "Thanks!"),
]
PARTS = [say("user", [{"type": "text", "text": "First."}, {"type": "image"}, {"type": "text", "text": "Second."}])]
KNOBS = {"temperature": 0.7, "on": True, "nothing": None, "names": ["b", "ä", "<a>"], "deep": {"z": [], "a": {}}, "small": 1.5e-7}

CASES = [
    ("one message", dict(messages=HELLO, add_generation_prompt=True)),
    ("without a prompt for the answer", dict(messages=HELLO)),
    ("system, several turns, one left out", dict(messages=TALK, add_generation_prompt=True)),
    ("ends with an answer", dict(messages=TALK[:3], add_generation_prompt=True)),
    ("two tools", dict(messages=HELLO, tools=[WEATHER, ADD], add_generation_prompt=True)),
    ("calls of tools, their results, reasoning", dict(messages=TOOLS, tools=[WEATHER], add_generation_prompt=True)),
    ("documents", dict(messages=TALK, documents=DOCUMENTS, add_generation_prompt=True)),
    ("tools and documents", dict(messages=TOOLS, tools=[ADD], documents=DOCUMENTS)),
    ("no tools and no documents", dict(messages=HELLO, tools=[], documents=[], add_generation_prompt=True)),
    ("content in parts", dict(messages=PARTS, add_generation_prompt=True)),
    ("variables, and Python's spelling", dict(messages=HELLO, knobs=KNOBS, add_generation_prompt=True)),
    ("an unknown role", dict(messages=[say("robot", "Hi")])),
]

NAMED = {
    "default": "D {{ messages[-1].content }}",
    "tool_use": "T {{ tools | length }} {% for t in tools %}{{ t.function.name }}{% endfor %}",
    "rag": "{%- for d in documents %}\n  {{ loop.index }}: {{ d.text }}\n{%- endfor %}\n",
}
NAMED_CASES = [
    ("named: the default", dict(messages=HELLO)),
    ("named: with tools", dict(messages=HELLO, tools=[WEATHER])),
    ("named: asked for", dict(messages=HELLO, documents=DOCUMENTS, template="rag")),
]

# pad_token is a record, as older configurations have it.
CONFIG = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}


def recorded(tokenizer, chat):
    arguments = dict(chat)
    arguments["chat_template"] = arguments.pop("template", None)
    try:
        return {"text": tokenizer.apply_chat_template(arguments.pop("messages"), tokenize=False, **arguments)}
    except Exception as error:
        return {"refused": str(error)}


def main():
    logging.disable(logging.WARNING)
    template = (FOLDER / "jamba.jinja").read_text()
    suites = []
    for templates, cases in ((template, CASES), (NAMED, NAMED_CASES)):
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **CONFIG)
        tokenizer.chat_template = templates
        records = [{"name": name, "chat": chat, **recorded(tokenizer, chat)} for name, chat in cases]
        named = [{"name": name, "template": text} for name, text in NAMED.items()] if templates is NAMED else None
        suites.append({"config": {**CONFIG, **({"chat_template": named} if named else {})}, "cases": records})
    document = {"recorded": f"transformers {transformers.__version__}", "suites": suites}
    path = FOLDER / "parity.json"
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n")
    print(f"{path.name}: {sum(len(suite['cases']) for suite in suites)} chats", file=sys.stderr)


if __name__ == "__main__":
    main()
