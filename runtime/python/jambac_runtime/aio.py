"""Many requests of an event loop on one model."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import _native
from .answers import ChatPart, Collected, Completion, Letter, Token, Told
from .llm import RequestOutput, SamplingParams, outputs_of, prompt_of
from .model import Model
from .sampling import CHAT_FIELDS, FIELDS, fields

if TYPE_CHECKING:
    from .sampling import Sampling, Unpack

__all__ = ["AsyncEngine"]

#: Texts of more characters are tokenized on another thread.
_LONG = 1 << 14


class _Inbox:
    """The letters of one request."""

    __slots__ = ("letters", "waiter")

    def __init__(self) -> None:
        self.letters: list[Letter] = []
        self.waiter: asyncio.Future[None] | None = None

    def put(self, letter: Letter) -> None:
        self.letters.append(letter)
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def take(self) -> list[Letter]:
        while not self.letters:
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter
        letters, self.letters = self.letters, []
        return letters


class AsyncEngine:
    """Serves requests of an event loop. They run together; the tokens of an answer do not depend on the others.

        engine = AsyncEngine("jamba.plan")
        async for output in engine.generate("Once upon a time", SamplingParams(max_tokens=40)):
            print(output.outputs[0].text)

    Closing a generator, cancelling its task, and `abort` end the answer before the next step.
    """

    def __init__(self, model: Any, **options: Any) -> None:
        """model: a plan's path, or a `Model`. options: those of `Model`."""
        if isinstance(model, Model) and options:
            raise TypeError(f"AsyncEngine() takes options with a path only, found {sorted(options)} with a Model")
        self.model = model if isinstance(model, Model) else Model(model, **options)
        self._mailbox = _native.Mailbox(True)
        self._inboxes: dict[int, _Inbox] = {}
        self._tickets: dict[str, _native.Ticket] = {}
        self._keys = itertools.count()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def generate(
        self,
        prompt: str | Sequence[int] | Mapping[str, Any],
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        priority: int = 0,
    ) -> AsyncGenerator[RequestOutput, None]:
        """The answers to a prompt as far as they are known, again and again until they end, as vLLM's engine has it.

        sampling_params: by default those of the model's authors. priority: lower ones come first.
        """
        if sampling_params is None:
            sampling_params = SamplingParams(**self.model.info["defaults"])
        text = sampling_params._fields("SamplingParams", priority)
        prompt = prompt_of(prompt)
        key, tokens = next(self._keys), await self._tokens(prompt)
        name = str(key) if request_id is None else request_id
        inbox, ticket = self._begin(key, name, lambda: self.model._core.submit(self._mailbox, key, tokens, text))
        answers = [Collected() for _ in range(ticket.n)]
        try:
            while not all(answer.ended for answer in answers):
                for letter in await inbox.take():
                    answers[letter[1]].add(letter)
                yield outputs_of(name, prompt, tokens, answers)
        finally:
            self._end(key, name, ticket)

    async def stream(
        self, prompt: str | Sequence[int], request_id: str | None = None, **sampling: Unpack[Sampling]
    ) -> AsyncGenerator[Token | Completion, None]:
        """The tokens of an answer as they come, and the `Completion` at the end; see `Model.generate`."""
        text = fields(dict(sampling), FIELDS, "stream()")
        key, tokens = next(self._keys), await self._tokens(prompt)
        name = str(key) if request_id is None else request_id
        inbox, ticket = self._begin(key, name, lambda: self.model._core.submit(self._mailbox, key, tokens, text))
        answer = Collected()
        try:
            while not answer.ended:
                for letter in await inbox.take():
                    token = answer.add(letter)
                    if token is not None or letter[3]:
                        yield token or Token(None, letter[3])
            yield answer.completion()
        finally:
            self._end(key, name, ticket)

    async def chat(
        self, messages: Sequence[Mapping[str, Any]], request_id: str | None = None, **chat: Any
    ) -> AsyncGenerator[ChatPart, None]:
        """The parts of an answer to a chat as they come; the last one has the whole answer. See `Model.chat`."""
        text = fields({"messages": list(messages), **chat}, CHAT_FIELDS | {"messages"}, "chat()")
        key = next(self._keys)
        name = str(key) if request_id is None else request_id
        core, mailbox = self.model._core, self._mailbox
        inbox, ticket = self._begin(key, name, lambda: core.submit_chat(mailbox, key, text))
        answer, told = Collected(), Told(ticket.parts(f"call_{key}_"))
        try:
            while not answer.ended:
                for letter in await inbox.take():
                    answer.add(letter)
                    for part in told.push(letter[3]):
                        yield part
            for part in told.finish():
                yield part
            yield ChatPart("end", answer=told.answer(answer.completion()))
        finally:
            self._end(key, name, ticket)

    def abort(self, request_id: str) -> bool:
        """Ends the answers to a request before the next step. False if there is no such request."""
        ticket = self._tickets.get(request_id)
        if ticket is not None:
            ticket.cancel()
        return ticket is not None

    @property
    def n_open(self) -> int:
        """Number of requests that have not ended."""
        return len(self._tickets)

    def close(self) -> None:
        """Cancels all answers and frees the memory."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._fileno())
        self._loop = None
        self.model.close()

    async def __aenter__(self) -> AsyncEngine:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()

    def _fileno(self) -> int:
        number = self._mailbox.fileno()
        assert number is not None
        return number

    async def _tokens(self, prompt: Any) -> list[int]:
        if isinstance(prompt, str) and len(prompt) > _LONG:
            return await asyncio.to_thread(self.model.tokenize, prompt)
        return self.model._tokens(prompt)

    def _begin(self, key: int, name: str, submit: Any) -> tuple[_Inbox, _native.Ticket]:
        self._watch()
        if name in self._tickets:
            raise ValueError(f"request_id: found {name!r}, which another request has")
        inbox = self._inboxes[key] = _Inbox()
        try:
            ticket: _native.Ticket = submit()
        except BaseException:
            del self._inboxes[key]
            raise
        self._tickets[name] = ticket
        return inbox, ticket

    def _end(self, key: int, name: str, ticket: _native.Ticket) -> None:
        ticket.cancel()
        self._inboxes.pop(key, None)
        self._tickets.pop(name, None)

    def _watch(self) -> None:
        """Listens for letters in the running loop."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._loop is not None and not self._loop.is_closed():
            if self._inboxes:
                raise RuntimeError("the engine has requests of another event loop: use one engine per loop")
            self._loop.remove_reader(self._fileno())
        self._inboxes.clear()
        self._tickets.clear()
        loop.add_reader(self._fileno(), self._deliver)
        self._loop = loop

    def _deliver(self) -> None:
        for letter in self._mailbox.take():
            inbox = self._inboxes.get(letter[0])
            if inbox is not None:  # else the request was cancelled
                inbox.put(letter)
