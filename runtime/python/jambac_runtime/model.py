"""Plans that are open, their sessions and snapshots."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from . import _native
from .answers import ChatAnswer, ChatPart, Collected, Completion, Token, Told
from .sampling import CHAT_FIELDS, FIELDS, fields

if TYPE_CHECKING:
    from .sampling import Sampling, Unpack

__all__ = ["Model", "Session", "Snapshot", "write_texts"]


def open_options(
    *,
    device: str = "cpu",
    threads: int | None = None,
    target: str | None = None,
    max_context: int | None = None,
    max_sequences: int | None = None,
    trust_weights: bool = False,
    require_digest: str | None = None,
    prefault: bool = False,
    check: bool = False,
) -> str:
    """How a plan is opened, as JSON."""
    return json.dumps(locals())


class Model:
    """A plan that is open. Threads may share it: their requests run together.

    Steps run on a thread of the model without the interpreter's lock. Ctrl-C ends a call and cancels what it waits for.
    Processes that are forks of the one that opened the model cannot use it.
    """

    def __init__(
        self,
        plan: str | os.PathLike[str],
        *,
        device: str = "cpu",
        threads: int | None = None,
        target: str | None = None,
        max_context: int | None = None,
        max_sequences: int | None = None,
        cache_mib: int = 1024,
        cache_interval: int | None = None,
        cache_events: bool = False,
        step_tokens: int | None = None,
        step_target_ms: int | None = None,
        trust_weights: bool = False,
        require_digest: str | None = None,
        prefault: bool = False,
        check: bool = False,
    ) -> None:
        """Opens a plan that `jambac build` wrote.

        device: `cpu`, or `cuda:N` for GPU N, which needs NVIDIA's driver only.
        threads: by default one per core.
        target: code of the plan to load, for example `x86-64-v3`; by default the best that the device supports.
        max_context, max_sequences: less than the plan's, to save memory.
        cache_mib: most memory for states of prompts and answers, from which later requests with the same beginning go on;
            0 turns it off. cache_interval: tokens between the states of one prompt; 512 by default.
        cache_events: keep what enters and leaves the cache for `take_cache_events`, which must be called then.
        step_tokens: most tokens of a step. step_target_ms: most time of a step; prompts are cut so that steps keep to it.
        trust_weights: do not verify the digest of the weights: large plans open faster.
        require_digest: the digest that the plan must have, as `jamba verify` prints it.
        prefault: make all memory resident now.
        check: look for faults in kernels after every step (slow).

        Raises ValueError if the plan is damaged or an option is wrong, OSError if it cannot be read, and EngineError if
        the machine cannot run it.
        """
        options = open_options(
            device=device,
            threads=threads,
            target=target,
            max_context=max_context,
            max_sequences=max_sequences,
            trust_weights=trust_weights,
            require_digest=require_digest,
            prefault=prefault,
            check=check,
        )
        sharing = {
            "cache_bytes": cache_mib << 20,
            "cache_interval": cache_interval,
            "has_journal": cache_events,
            "step_tokens": step_tokens,
            "step_target_ms": step_target_ms,
        }
        self._core = _native.Core(plan, options, json.dumps(sharing))
        self._info: dict[str, Any] = json.loads(self._core.info())
        self._numbers = itertools.count()

    def close(self) -> None:
        """Cancels all answers and frees the memory."""
        self._core.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        info = self._info
        return f"<Model {info['model']!r}, {info['target']} on {info['device']}>"

    @property
    def info(self) -> Mapping[str, Any]:
        """Facts of the plan and the machine: `model`, `vocab`, `max_context`, `max_sequences`, `target`, `device`,
        `threads`, `digest`, `eos`, and `defaults`, how the model's authors generate."""
        return self._info

    def stats(self) -> dict[str, Any]:
        """What the engine holds now: `running`, `waiting`, `free_sequences`, `free_pages`, `preemptions`, `cache`."""
        stats: dict[str, Any] = json.loads(self._core.stats())
        return stats

    def take_cache_events(self) -> list[tuple[bool, list[int]] | None]:
        """What entered the cache (True) and left it (False) since the last call, in order, with the tokens that the state has
        read; None where events were lost because nobody took them: whoever follows the cache begins with an empty one."""
        return self._core.cache_changes()

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """The tokens of a text. special: with the special tokens that the tokenizer is configured to add, such as the start of
        a text."""
        return self._core.tokenize(text, special)

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """The text of tokens. special: with special tokens."""
        return self._core.detokenize(list(tokens), special)

    def render_chat(self, messages: Sequence[Mapping[str, Any]], **chat: Any) -> tuple[str, list[int]]:
        """The text and the tokens of a chat as the plan's template writes it; see `chat`."""
        return self._core.render(fields({"messages": list(messages), **chat}, CHAT_FIELDS | {"messages"}, "render_chat()"))

    @overload
    def generate(self, prompt: str | list[int], **sampling: Unpack[Sampling]) -> Completion: ...
    @overload
    def generate(self, prompt: list[str] | list[list[int]], **sampling: Unpack[Sampling]) -> list[Completion]: ...

    def generate(self, prompt: Any, **sampling: Any) -> Completion | list[Completion]:
        """The answer to a text or to tokens, or the answers to a list of them, which run together.

        max_tokens: most new tokens; by default the limit of the model's authors, or 256. min_tokens.
        temperature, top_k, top_p, min_p: by default as the model's authors chose. seed: of the draws; by default random.
        presence_penalty, frequency_penalty, repetition_penalty, logit_bias (-100 forbids a token).
        stop, stop_token_ids, include_stop_str_in_output, ignore_eos, allowed_token_ids.
        skip_special_tokens, detokenize (False: no text).
        logprobs, prompt_logprobs: number of most likely tokens to tell for each token.
        response_format: `{"type": "json_schema", "json_schema": {"schema": …}}` or `{"type": "json_object"}`.
        structured_outputs: `json`, `regex`, `grammar` (llguidance's Lark) or `choice`.
        priority: lower ones come first.

        Raises ValueError if a value is wrong or the prompt is too long.
        """
        if isinstance(prompt, str) or (len(prompt) > 0 and isinstance(prompt[0], int)):
            return self._answers([prompt], sampling, "generate()")[0]
        return self._answers(list(prompt), sampling, "generate()")

    def stream(self, prompt: str | Sequence[int], **sampling: Unpack[Sampling]) -> Generator[Token, None, Completion]:
        """The tokens of an answer as they come; see `generate`. Closing the iterator cancels the answer.

        Text that may begin a stop string is held back until it is known what it is. The generator's return value, which
        `yield from` gives, is the `Completion`.
        """
        text = fields(dict(sampling), FIELDS, "stream()")
        mailbox = _native.Mailbox(False)
        ticket = self._core.submit(mailbox, 0, self._tokens(prompt), text)
        return _stream(mailbox, ticket)

    def chat(self, messages: Sequence[Mapping[str, Any]], **chat: Any) -> ChatAnswer:
        """The model's answer to a chat, with its reasoning and its calls told apart.

        messages: as in OpenAI's API: `role`, `content`, `tool_calls`, `tool_call_id`.
        tools, tool_choice, parallel_tool_calls: as there. With `tool_choice="required"` or a named function, the answer is
            constrained to calls that the functions' schemas allow.
        response_format: as there. documents, chat_template_kwargs, reasoning_effort: for the template.
        continue_final_message: with add_generation_prompt=False, continue the last message.
        logprobs, top_logprobs: as there. Other fields as in `generate`.

        Raises ValueError if a value is wrong, or the plan has no chat template.
        """
        for part in self.stream_chat(messages, **chat):
            if part.answer is not None:
                return part.answer
        raise AssertionError("a chat has an end")

    def stream_chat(self, messages: Sequence[Mapping[str, Any]], **chat: Any) -> Iterator[ChatPart]:
        """The parts of an answer to a chat as they come; the last one has the whole answer. See `chat`."""
        text = fields({"messages": list(messages), **chat}, CHAT_FIELDS | {"messages"}, "chat()")
        mailbox = _native.Mailbox(False)
        ticket = self._core.submit_chat(mailbox, 0, text)
        return _stream_chat(mailbox, ticket, f"call_{next(self._numbers)}_")

    def logits(self, prompt: str | Sequence[int], *, all: bool = False) -> Any:
        """The logits behind a prompt, float32 [vocab]; with `all`, behind each of its tokens, float32 [tokens, vocab]: a numpy
        array, or, without numpy, a memoryview of this shape."""
        tokens = self._tokens(prompt)
        vocab = self._info["vocab"]
        return _array(self._core.logits(tokens, all), (len(tokens), vocab) if all else (vocab,))

    def session(self, prompt: str | Sequence[int] = ()) -> Session:
        """A session that has read `prompt`. It holds one of the plan's sequences until it is closed."""
        session = Session(self, self._core.add_sequence())
        if len(prompt) > 0:
            session.append(self._tokens(prompt))
        return session

    def restore(self, snapshot: Snapshot) -> Session:
        """A session that goes on where the snapshot was taken, with the same bits on the same target."""
        return Session(self, self._core.restore(snapshot._native))

    def load(self, path: str | os.PathLike[str]) -> Snapshot:
        """Reads what `Snapshot.save` or `jamba run --save-state` wrote for this plan."""
        return Snapshot(self._core.load(path))

    def snapshot_from_bytes(self, data: bytes) -> Snapshot:
        """Reads what `Snapshot.to_bytes` made for this plan."""
        return Snapshot(self._core.snapshot_of(data))

    def _tokens(self, prompt: str | Sequence[int]) -> list[int]:
        return self._core.tokenize(prompt, True) if isinstance(prompt, str) else list(prompt)

    def _answers(self, prompts: list[Any], sampling: dict[str, Any], where: str) -> list[Completion]:
        """The answers to prompts, which run together."""
        text = fields(sampling, FIELDS, where)
        answers, _ = self._collect([(prompt, text) for prompt in prompts])
        return [choices[0].completion() for choices in answers]

    def _collect(self, requests: list[tuple[Any, str]]) -> tuple[list[list[Collected]], list[list[int]]]:
        """The answers to each prompt with its fields, and the tokens of the prompts."""
        all_tokens = [self._tokens(prompt) for prompt, _ in requests]
        mailbox = _native.Mailbox(False)
        tickets: list[_native.Ticket] = []
        try:
            for key, (tokens, (_, text)) in enumerate(zip(all_tokens, requests)):
                tickets.append(self._core.submit(mailbox, key, tokens, text))
            found = [[Collected() for _ in range(ticket.n)] for ticket in tickets]
            n_open = sum(ticket.n for ticket in tickets)
            while n_open:
                for letter in mailbox.wait():
                    answer = found[letter[0]][letter[1]]
                    answer.add(letter)
                    n_open -= answer.ended
            return found, all_tokens
        except BaseException:
            for ticket in tickets:
                ticket.cancel()
            raise


def write_texts(plan: str | os.PathLike[str], folder: str | os.PathLike[str]) -> list[str]:
    """Writes the texts of a plan into a folder as its checkpoint had them, for programs that read those: `config.json`,
    `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`, as far as the plan has them. Returns their names."""
    texts = _native.plan_texts(plan)
    for name, text in texts:
        path = os.path.join(folder, name)
        # Whoever reads it meanwhile finds a whole file.
        with open(f"{path}.{os.getpid()}", "wb") as file:
            file.write(text)
        os.replace(file.name, path)
    return [name for name, _ in texts]


class Session:
    """A sequence of the model that can be continued, forked and saved.

    Sessions hold memory of the plan's pool, a state each and pages for their tokens: close them, or use them in `with`.
    """

    def __init__(self, model: Model, native: _native.Sequence) -> None:
        """Made by `Model.session` and `Model.restore`."""
        self._model = model
        self._native = native

    def close(self) -> None:
        """Frees the sequence."""
        self._native.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def tokens(self) -> list[int]:
        """All tokens, prompts and answers."""
        return self._native.tokens()

    def __len__(self) -> int:
        return len(self._native.tokens())

    def append(self, prompt: str | Sequence[int]) -> None:
        """Reads more text or tokens."""
        tokens = self._more(prompt)
        self._native.append(tokens)

    def generate(self, prompt: str | Sequence[int] = (), **sampling: Unpack[Sampling]) -> Completion:
        """Reads `prompt` and answers; see `Model.generate`. The answer becomes part of the session."""
        tokens = self.stream(prompt, **sampling)
        while True:
            try:
                next(tokens)
            except StopIteration as end:
                completion: Completion = end.value
                return completion

    def stream(self, prompt: str | Sequence[int] = (), **sampling: Unpack[Sampling]) -> Generator[Token, None, Completion]:
        """The tokens of an answer as they come; see `Model.stream`. An iterator that is closed leaves the session behind the
        last token that the model picked. If it is closed while the prompt is read, a part of the prompt is lost."""
        text = fields(dict(sampling), FIELDS - {"prompt_logprobs", "priority"}, "stream()")
        mailbox = _native.Mailbox(False)
        ticket = self._model._core.submit_in(mailbox, 0, self._native, self._more(prompt), text)
        return _stream(mailbox, ticket)

    def logits(self) -> Any:
        """The logits behind the last token, float32 [vocab], as `Model.logits` gives them."""
        return _array(self._native.logits(), (self._model._info["vocab"],))

    def fork(self) -> Session:
        """A session with the same tokens, which goes its own way from here. The two share memory until they differ."""
        return Session(self._model, self._native.fork())

    def snapshot(self) -> Snapshot:
        """A copy of the state in memory outside of the pool. `Model.restore` goes on from it."""
        return Snapshot(self._native.snapshot())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a snapshot to a file; see `Model.load`."""
        self.snapshot().save(path)

    def _more(self, prompt: str | Sequence[int]) -> list[int]:
        if not isinstance(prompt, str):
            return list(prompt)
        # Text that goes on begins no new text.
        is_first = len(self._native.tokens()) == 0
        return self._model._core.tokenize(prompt, is_first)


class Snapshot:
    """A copy of a session's state. Every model of the same plan and kind of device can restore it."""

    def __init__(self, native: _native.Snapshot) -> None:
        """Made by `Session.snapshot` and `Model.load`."""
        self._native = native

    @property
    def tokens(self) -> list[int]:
        """All tokens of the session."""
        return self._native.tokens()

    @property
    def note(self) -> str:
        """Text that files store too; empty by default."""
        return self._native.note()

    def with_note(self, note: str) -> Snapshot:
        """The snapshot with another note."""
        return Snapshot(self._native.with_note(note))

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return self._native.nbytes()

    @property
    def target(self) -> str:
        """The target whose code computed the state."""
        return self._native.target()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a file. A file that is no snapshot is not replaced."""
        self._native.save(path)

    def to_bytes(self) -> bytes:
        """The bytes of such a file."""
        return self._native.to_bytes()


def _stream(mailbox: _native.Mailbox, ticket: _native.Ticket) -> Generator[Token, None, Completion]:
    stream = _tokens_of(mailbox, ticket)
    # Up to the first `yield`, so that closing the iterator cancels the answer even before its first token is asked for.
    next(stream)
    return stream


def _tokens_of(mailbox: _native.Mailbox, ticket: _native.Ticket) -> Generator[Token, None, Completion]:
    answer = Collected()
    try:
        yield Token(None, "")
        while not answer.ended:
            for letter in mailbox.wait():
                token = answer.add(letter)
                if token is not None or letter[3]:
                    yield token or Token(None, letter[3])
    finally:
        ticket.cancel()
        while not answer.ended:
            for letter in mailbox.wait():
                answer.add(letter)
    return answer.completion()


def _stream_chat(mailbox: _native.Mailbox, ticket: _native.Ticket, id_prefix: str) -> Iterator[ChatPart]:
    answer, told = Collected(), Told(ticket.parts(id_prefix))
    try:
        while not answer.ended:
            for letter in mailbox.wait():
                answer.add(letter)
                yield from told.push(letter[3])
        yield from told.finish()
    finally:
        ticket.cancel()
    yield ChatPart("end", answer=told.answer(answer.completion()))


def _array(data: bytearray, shape: tuple[int, ...]) -> Any:
    """A numpy array, or a memoryview without numpy."""
    try:
        import numpy
    except ImportError:
        return memoryview(data).cast("B").cast("f", shape)
    return numpy.frombuffer(data, dtype="<f4").reshape(shape)
