"""`Model`: text, tokens, constraints, errors, signals, threads, forks."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import PROMPT, until_idle

from jambac_runtime import EngineError, Model, write_texts


def greedy(model: Model, prompt: object = PROMPT, n: int = 24, **more: object):
    return model.generate(prompt, temperature=0, max_tokens=n, **more)


def test_the_text_is_that_of_the_program(model: Model, plan: str) -> None:
    command = [os.environ["JAMBA"], "run", plan, PROMPT, "--temperature", "0", "-n", "24"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert greedy(model).text.strip() in printed


def test_answers_do_not_depend_on_each_other(model: Model) -> None:
    prompts = [PROMPT, "Anna has a red kite.", "The sea", "Ben likes soup."] * 3
    together = greedy(model, prompts)
    assert [one.tokens for one in together] == [greedy(model, prompt).tokens for prompt in prompts]


def test_prompts_are_texts_or_tokens(model: Model) -> None:
    tokens = model.tokenize(PROMPT)
    assert greedy(model, tokens).text == greedy(model).text
    assert [one.text for one in greedy(model, [tokens, tokens])] == [greedy(model).text] * 2
    assert model.detokenize(model.tokenize("Hello, world", special=False)) == "Hello, world"
    with pytest.raises(ValueError, match="token"):
        greedy(model, [model.info["vocab"]])
    assert greedy(model, []) == []
    with pytest.raises(ValueError, match="no tokens"):
        next(model.stream([]))


def test_a_seed_repeats_an_answer(model: Model) -> None:
    first = model.generate(PROMPT, max_tokens=24, temperature=1.5)
    again = model.generate(PROMPT, max_tokens=24, temperature=1.5, seed=first.seed)
    assert again.tokens == first.tokens
    others = {tuple(model.generate(PROMPT, max_tokens=24, temperature=1.5, seed=n).tokens) for n in range(4)}
    assert len(others) > 1


def test_a_stream_has_the_tokens_of_the_answer(model: Model) -> None:
    tokens = list(model.stream(PROMPT, temperature=0, max_tokens=24))
    whole = greedy(model)
    assert [token.token for token in tokens] == whole.tokens
    assert "".join(token.text for token in tokens) == whole.text
    assert (whole.usage.completion_tokens, whole.finish_reason) == (24, "length")


def test_a_closed_stream_is_cancelled(model: Model) -> None:
    stream = model.stream(PROMPT, max_tokens=4000, ignore_eos=True)
    next(stream)
    assert model.stats()["running"] == 1
    stream.close()
    until_idle(model)
    # Even one whose first token nobody asked for.
    model.stream(PROMPT, max_tokens=4000, ignore_eos=True).close()
    until_idle(model)


def test_stops(model: Model) -> None:
    whole = greedy(model)
    word = whole.text.split()[2]
    cut = greedy(model, stop=word)
    assert cut.text == whole.text[: whole.text.index(word)]
    assert cut.finish_reason == "stopped"
    assert greedy(model, stop=[word], include_stop_str_in_output=True).text == cut.text + word
    token = whole.tokens[3]
    assert greedy(model, stop_token_ids=[token]).tokens == whole.tokens[: whole.tokens.index(token) + 1]


def test_log_probabilities(model: Model) -> None:
    answer = greedy(model, logprobs=3, prompt_logprobs=2)
    assert answer.logprobs is not None and answer.prompt_logprobs is not None
    for token in answer.logprobs:
        assert token.top[0] == (token.token, token.logprob)
        assert len(token.top) == 3
    prompt = model.tokenize(PROMPT)
    assert [entry.token for entry, _ in answer.prompt_logprobs] == prompt
    assert answer.prompt_logprobs[0][0].logprob is None
    assert all(entry.logprob <= 0 for entry, _ in answer.prompt_logprobs[1:])
    assert greedy(model).logprobs is None


def test_constraints(model: Model) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"], "additionalProperties": False}
    answer = model.generate(PROMPT, max_tokens=60, response_format={"type": "json_schema", "json_schema": {"schema": schema}})
    if answer.finish_reason == "complete":
        assert isinstance(json.loads(answer.text)["age"], int)
    else:
        assert answer.text.startswith('{"age": ')
    assert re.fullmatch("[ab]{3}", model.generate(PROMPT, structured_outputs={"regex": "[ab]{3}"}).text)
    assert model.generate(PROMPT, structured_outputs={"choice": ["yes", "no"]}).text in ("yes", "no")


def test_wrong_values_are_named(model: Model) -> None:
    with pytest.raises(ValueError, match="^top_p: found 2, expected above 0, up to 1$"):
        model.generate(PROMPT, top_p=2)
    with pytest.raises(ValueError, match="response_format"):
        model.generate(PROMPT, response_format={"type": "yaml"})
    with pytest.raises(TypeError, match="'temprature'"):
        model.generate(PROMPT, temprature=1)
    with pytest.raises(ValueError, match="not finite"):
        model.generate(PROMPT, temperature=float("nan"))
    with pytest.raises(ValueError, match="context is 4096 tokens"):
        model.generate([5] * 5000)
    with pytest.raises(TypeError):
        model.generate([PROMPT, 5])


def test_plans_that_cannot_be_opened(plan: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent.plan"):
        Model(tmp_path / "absent.plan")
    damaged = tmp_path / "damaged.plan"
    data = bytearray(Path(plan).read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(ValueError, match="damaged.plan"):
        Model(damaged)
    with pytest.raises(ValueError, match="digest"):
        Model(plan, require_digest="0" * 64)
    with pytest.raises(ValueError, match="^device: "):
        Model(plan, device="tpu")
    with pytest.raises(ValueError, match="sequences: found 99"):
        Model(plan, max_sequences=99)


def test_a_model_that_was_closed_says_so(plan: str) -> None:
    model = Model(plan, threads=1)
    digest = model.info["digest"]
    stream = model.stream(PROMPT, max_tokens=4000, ignore_eos=True)
    model.close()
    with pytest.raises(EngineError, match="closed"):
        list(stream)
    with pytest.raises(EngineError, match="closed"):
        model.generate(PROMPT)
    model.close()
    with Model(plan, require_digest=digest, max_sequences=1, max_context=64, cache_mib=0) as small:
        assert (small.info["max_context"], small.info["max_sequences"]) == (64, 1)
        assert greedy(small, n=4).tokens


def test_logits(model: Model) -> None:
    prompt = model.tokenize(PROMPT)
    last = model.logits(PROMPT)
    rows = model.logits(prompt, all=True)
    vocab = model.info["vocab"]
    assert (last.shape, rows.shape) == ((vocab,), (len(prompt), vocab))
    best = max(range(vocab), key=lambda token: last[token])
    assert best == greedy(model, n=1).tokens[0]
    assert bytes(memoryview(rows)[-1:]) == bytes(memoryview(last)) if _has_numpy() else True
    assert rows.tolist()[-1] == last.tolist()
    # Longer than a step.
    assert model.logits([5] * 3000, all=True).shape == (3000, vocab)
    with pytest.raises(ValueError, match="no tokens"):
        model.logits([])


def _has_numpy() -> bool:
    try:
        import numpy  # noqa: F401
    except ImportError:
        return False
    return True


def test_logits_without_numpy(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with_it = model.logits(PROMPT).tolist()
    monkeypatch.setitem(sys.modules, "numpy", None)
    view = model.logits(PROMPT)
    assert isinstance(view, memoryview)
    assert (view.format, view.tolist()) == ("f", with_it)


def when_running(model: Model, act: object) -> threading.Thread:
    """Calls `act` on another thread once a request runs."""

    def wait() -> None:
        while not model.stats()["running"]:
            pass
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_ctrl_c_ends_an_answer(model: Model) -> None:
    thread = when_running(model, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        model.generate(PROMPT, max_tokens=4000, ignore_eos=True)
    thread.join()
    until_idle(model)
    assert greedy(model).tokens


def test_ctrl_c_ends_a_long_prompt(plan: str) -> None:
    # In a step or between two of them: the interpreter is told at once.
    code = f"""
import os, signal, threading
from jambac_runtime import Model
model = Model({plan!r}, cache_mib=0)
alarm = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
alarm.start()
try:
    while True:
        model.logits([5] * 4000, all=True)
except KeyboardInterrupt:
    alarm.join()
    print(len(model.generate("Once", max_tokens=3, ignore_eos=True).tokens))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("3\n", 0), done.stderr


def test_threads_share_a_model_and_steps_release_the_lock(model: Model) -> None:
    expected = greedy(model, n=200, ignore_eos=True).tokens
    found = []
    threads = [threading.Thread(target=lambda: found.append(greedy(model, n=200, ignore_eos=True).tokens)) for _ in range(4)]
    seen = []
    watch = when_running(model, lambda: seen.append(model.stats()["running"]))
    for thread in threads:
        thread.start()
    for thread in [*threads, watch]:
        thread.join()
    assert found == [expected] * 4
    assert seen and seen[0] >= 1


def test_two_models(plan: str, model: Model) -> None:
    with Model(plan, threads=1) as other:
        assert greedy(other).tokens == greedy(model).tokens


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_is_refused_in_words(model: Model) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            greedy(model)
            told = "nothing"
        except EngineError as error:
            told = str(error)
        except BaseException as error:
            told = repr(error)
        os.write(writer, told.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    assert re.match(rf"the model was opened by process {os.getpid()}, of which this process is a fork", told), told
    assert greedy(model).tokens


def test_a_fork_may_open_a_plan_after_the_import(plan: str) -> None:
    code = f"""
import os, sys
from jambac_runtime import Model
child = os.fork()
n = len(Model({plan!r}).generate("Once", max_tokens=3, ignore_eos=True).tokens)
os.write(1, b"%d\\n" % n)  # one write: both processes have the pipe
if child:
    os.waitpid(child, 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("3\n3\n", 0), done.stderr


def test_facts_and_stats(model: Model) -> None:
    assert model.info["device"] == "cpu"
    assert repr(model).startswith("<Model ")
    before = model.stats()["cache"]["prompts"]
    greedy(model)
    assert model.stats()["cache"]["prompts"] == before + 1


def test_events_of_the_cache(plan: str) -> None:
    with Model(plan, cache_interval=64, cache_events=True, cache_mib=1) as model:
        prompt = model.tokenize("Anna has a red kite. " * 20)[:200]
        model.generate(prompt, max_tokens=1)
        stored = [event for event in model.take_cache_events() if event]
        assert [tokens for is_stored, tokens in stored if len(tokens) % 64 == 0] == [prompt[:n] for n in (64, 128, 192)]
        assert all(is_stored for is_stored, _ in stored)
        assert model.take_cache_events() == []
        # Others push them out of a cache of this size.
        held = {tuple(tokens) for _, tokens in stored}
        for n in range(40):
            model.generate([n + 10] + prompt, max_tokens=1)
        for is_stored, tokens in model.take_cache_events():
            (held.add if is_stored else held.remove)(tuple(tokens))
        assert len(held) == model.stats()["cache"]["snapshots"] < 40 * 4
        assert tuple(prompt[:64]) not in held


def test_texts_of_a_plan(plan: str, tmp_path: Path) -> None:
    names = write_texts(plan, tmp_path)
    assert set(names) == {"config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "jamba"
    assert "<|im_start|>" in (tmp_path / "chat_template.jinja").read_text()
    with pytest.raises(FileNotFoundError):
        write_texts(tmp_path / "absent.plan", tmp_path)
