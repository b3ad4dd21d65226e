"""Makes a tokenizer of the kind that all official Jamba models have, and records what transformers makes of it.

    pip install transformers==5.24.0 tokenizers==0.23.3 jinja2==3.1.6
    python tests/record/sentencepiece.py

Into runtime/tests/chat: sentencepiece/tokenizer.json, a SentencePiece BPE with byte fallback and a start token from its
post-processor, trained on the sentences below; and sentencepiece.json, with tokens and texts, and 13 chats for each of two
templates: jamba1.jinja and chatml.jinja.
"""

import json
import logging
import pathlib
import sys
import tempfile

import tokenizers
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

FOLDER = pathlib.Path(__file__).resolve().parent.parent.parent / "runtime" / "tests" / "chat"

CORPUS = """
The harbour lies in the north of the town, and every morning the boats go out to sea before the sun is up.
Anna has a red kite and a blue boat. Who has the kite? Anna has the kite. What does Tom have? Tom has a green ball.
You can use the following tools and documents to answer the question. Answer in one sentence, and say where it was found.
The weather in Rome is warm and sunny today, but in Oslo it is cold and it will rain in the evening and in the night.
{"name": "get_weather", "arguments": {"city": "Rome", "days": 2}} {"type": "object", "properties": {"city": "string"}}
Why is the sky blue? Because the air scatters blue light more than red light. In the evening the light takes a longer way.
"""

SPECIAL = ["<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|unk|>"]
MARKS = [
    "<|bom|>", "<|eom|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<documents>", "</documents>",
    "<tool_definitions>", "</tool_definitions>", "<tool_calls>", "</tool_calls>", "<|im_start|>", "<|im_end|>",
    "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>",
]
CONFIG = {
    "tokenizer_class": "LlamaTokenizer", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|unk|>",
    "pad_token": "<|pad|>", "add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False,
    "model_max_length": 262144,
}

TEXTS = [
    "", " ", "Anna has a red kite.", " Anna has a red kite.", "  two  spaces ", "The sky\n\tis blue\r\n\n", "Zürich ist schön",
    "日本語のテキスト", "🌅🌅 e\u0301", "a\u0000b\u200bc", "<|bom|><|user|> Hi<|eom|>", "Hi<think>so</think> there", "<0x41> ▁ x▁y",
    "x" * 300, "<tool_calls>[{\"name\": \"f\"}]</tool_calls>", "<|startoftext|>Anna", "naïve café — “quoted”…", "1234567890 3.14",
]

# A prompt, and an answer that goes on.
ANSWERS = [
    ("Anna has", " a red kite."), ("", "Anna has"), ("<|im_start|>assistant\n", "The sky"), ("<|bom|><|assistant|>", " The sky"),
    ("The sky is", " 日本 blue 🌅"), ("日", "本語"), ("In the evening", "\n\nThe light"), ("<|bom|><|assistant|> ", "Anna"),
]

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather", "description": "The weather of a city; don't guess.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "items": {"type": "array", "items": {"type": "integer"}}, "days": {"type": "integer", "default": None}},
            "required": ["city"],
        },
        "strict": True,
    },
}
TIME = {"type": "function", "function": {"name": "time", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2, "exact": True, "x": None}}}
TEXT_CALL = {"id": "c2", "type": "function", "function": {"name": "time", "arguments": "{\"zone\": \"UTC\"}"}}
DOCUMENTS = [
    {"title": "Harbour rules", "text": "Boats keep right.\n\n", "source_url": "https://port.example/rules", "year": 1987},
    {"text": "No title here.", "score": 0.5, "tags": ["a", "b"], "final": True, "next": None},
]


def say(role, content, **more):
    return {"role": role, "content": content, **more}


USER = [say("user", "Hello, who are you?")]
SYSTEM = [say("system", "  Be brief. "), *USER]
TURNS = [
    *SYSTEM, say("assistant", "<think>\nA greeting.\n</think>\n\nI am a model."), say("user", "And the sky?"),
    say("assistant", "Blue."), say("user", "Why? 日本 🌅"),
]
CALLS = [say("user", "Weather in Zürich?"), say("assistant", "Let me see.", tool_calls=[CALL, TEXT_CALL])]
RESULTS = [*CALLS, say("tool", '{"sky": "clear"}', tool_call_id="c1"), say("tool", "12:00", tool_call_id="c2")]

CHATS = [
    ("user", dict(messages=USER, add_generation_prompt=True)),
    ("system", dict(messages=SYSTEM, add_generation_prompt=True)),
    ("turns with thinking", dict(messages=TURNS, add_generation_prompt=True)),
    ("tools", dict(messages=SYSTEM, tools=[WEATHER, TIME], add_generation_prompt=True)),
    ("calls with arguments as an object and as text", dict(messages=CALLS, tools=[WEATHER, TIME])),
    ("two results of tools", dict(messages=RESULTS, tools=[WEATHER, TIME], add_generation_prompt=True)),
    ("documents", dict(messages=SYSTEM, documents=DOCUMENTS, add_generation_prompt=True)),
    (
        "documents and knobs",
        dict(messages=USER, documents=DOCUMENTS, add_generation_prompt=True, citation_mode="accurate", response_format={"type": "json_object"}, enable_thinking=False),
    ),
    ("null content", dict(messages=[*USER, say("assistant", None, tool_calls=[CALL]), say("tool", "ok")], tools=[WEATHER], add_generation_prompt=True)),
    ("content in parts", dict(messages=[say("user", [{"type": "text", "text": "One."}, {"type": "image"}, {"type": "text", "text": "Two."}])], add_generation_prompt=True)),
    ("no prompt for an answer", dict(messages=[*USER, say("assistant", "I am.")])),
    ("reasoning in its own field", dict(messages=[*USER, say("assistant", "Hi.", reasoning_content="\nA greeting.\n")])),
    ("generation preamble", dict(messages=USER, add_generation_prompt=True, generation_preamble="Sure:")),
]


def trained():
    """tokenizer.json: bytes and special tokens first, then the pieces of a BPE, then the marks of chats."""
    bpe = Tokenizer(models.BPE(unk_token="<|unk|>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    bpe.train_from_iterator(CORPUS.strip().splitlines(), trainers.BpeTrainer(vocab_size=420, show_progress=False))
    learned = json.loads(bpe.to_str())["model"]
    pieces = sorted(learned["vocab"], key=learned["vocab"].get)
    names = SPECIAL + [f"<0x{byte:02X}>" for byte in range(256)] + pieces + MARKS
    vocab = {name: index for index, name in enumerate(names)}
    added = [
        {"id": vocab[name], "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for name in SPECIAL + MARKS
    ]
    bos = {"SpecialToken": {"id": "<|startoftext|>", "type_id": 0}}
    return {
        "version": "1.0",
        # What the last call before saving left behind.
        "truncation": {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 32}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "<|pad|>"},
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing", "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|startoftext|>": {"id": "<|startoftext|>", "ids": [1], "tokens": ["<|startoftext|>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<|unk|>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": True, "byte_fallback": True, "ignore_merges": False, "vocab": vocab, "merges": learned["merges"],
        },
    }


def recorded(tokenizer, chat):
    arguments = dict(chat)
    messages = arguments.pop("messages")
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **arguments)
        return {"text": text, "tokens": tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **arguments)}
    except Exception as error:
        return {"refused": str(error)}


def main():
    logging.disable(logging.WARNING)
    folder = FOLDER / "sentencepiece"
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(trained(), ensure_ascii=False, separators=(",", ":")) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    with tempfile.TemporaryDirectory() as opened:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (pathlib.Path(opened) / name).write_text((folder / name).read_text())
        (pathlib.Path(opened) / "config.json").write_text('{"model_type": "jamba"}')
        tokenizer = AutoTokenizer.from_pretrained(opened)
    texts = []
    for text in TEXTS:
        ids, plain = tokenizer(text)["input_ids"], tokenizer(text, add_special_tokens=False)["input_ids"]
        decoded = [tokenizer.decode(ids, skip_special_tokens=skip) for skip in (True, False)]
        texts.append({"text": text, "tokens": ids, "plain": plain, "decoded": decoded[0], "with_special": decoded[1]})
    answers = []
    for prompt, answer in ANSWERS:
        first = tokenizer(prompt)["input_ids"]
        # The tokens of an answer are those that follow a text, not those of a text of its own.
        both = tokenizer(prompt + answer)["input_ids"]
        tokens = both[len(first):] if both[: len(first)] == first else tokenizer("x" + answer, add_special_tokens=False)["input_ids"][2:]
        whole, before = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (first + tokens, first))
        answers.append({"prompt": first, "tokens": tokens, "text": whole[len(before):] if whole.startswith(before) else None})
    suites = []
    for name in ("jamba1", "chatml"):
        tokenizer.chat_template = (FOLDER / f"{name}.jinja").read_text()
        suites.append({"template": name, "chats": [{"name": name, "chat": chat, **recorded(tokenizer, chat)} for name, chat in CHATS]})
    versions = f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}"
    document = {"recorded": versions, "texts": texts, "answers": answers, "suites": suites}
    path = FOLDER / "sentencepiece.json"
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n")
    refused = [chat["name"] for suite in suites for chat in suite["chats"] if "refused" in chat]
    print(f"{path.name}: {len(tokenizer)} tokens, {len(texts)} texts, {len(CHATS)} chats; refused: {refused}", file=sys.stderr)


if __name__ == "__main__":
    main()
