"""What answers consist of."""

from __future__ import annotations

from typing import Any, NamedTuple

from ._native import Parts

__all__ = ["CallOfTool", "ChatAnswer", "ChatPart", "Completion", "Token", "TokenLogprob", "Usage"]


class TokenLogprob(NamedTuple):
    """A token and the natural logarithm of its probability; None for the first token of a prompt."""

    token: int
    logprob: float | None


class Token(NamedTuple):
    """A new token of an answer."""

    #: None for text that was held back when the answer ended without a token, for example because the context is full.
    token: int | None
    #: The text that became final with this token: whole characters, often a word, sometimes nothing.
    text: str
    #: Natural logarithm of the token's probability, if asked for.
    logprob: float | None = None
    #: The most likely tokens in its place, most likely first, if asked for.
    top: tuple[TokenLogprob, ...] = ()


class Usage(NamedTuple):
    """What an answer has used."""

    prompt_tokens: int
    completion_tokens: int
    #: Prompt tokens that came from the cache.
    cached_tokens: int
    #: Seconds that the request waited, that its prompt took, and that the tokens behind the first one took.
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float


class Completion(NamedTuple):
    """An answer."""

    text: str
    tokens: list[int]
    #: `eos`, `length`, `no_room` (the context or the memory is full), `stopped` (a stop string or token), `complete` (the
    #: constraint allows nothing more), `cancelled` or `deadline`.
    finish_reason: str
    #: Per token, if asked for.
    logprobs: list[Token] | None
    #: Per token of the prompt: the token, and the most likely ones in its place; if asked for.
    prompt_logprobs: list[tuple[TokenLogprob, tuple[TokenLogprob, ...]]] | None
    #: The seed of the draws: with it, the same request gives the same answer.
    seed: int
    usage: Usage


class CallOfTool(NamedTuple):
    """A call of a function by the model."""

    id: str
    name: str
    #: JSON text as the model wrote it, which may be invalid.
    arguments: str

    def to_message(self) -> dict[str, Any]:
        """The call as an entry of `tool_calls` in a message."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


class ChatAnswer(NamedTuple):
    """The model's message."""

    #: Text for the user; None if there is none.
    content: str | None
    #: The model's reasoning, if it marks one.
    reasoning: str | None
    tool_calls: list[CallOfTool]
    #: `tool_calls` if the model calls functions; else as in `Completion`.
    finish_reason: str
    #: The whole answer with its markup, tokens and usage.
    completion: Completion

    def to_message(self) -> dict[str, Any]:
        """The message, for the `messages` of the next request."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content or ""}
        if self.reasoning is not None:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [call.to_message() for call in self.tool_calls]
        return message


class ChatPart(NamedTuple):
    """A part of the model's message that became known."""

    #: `content`, `reasoning`, `call` (a call begins: `text` is its id), `arguments` (the next part of them), or `end`.
    kind: str
    text: str = ""
    #: Position of the call among those of the answer.
    call: int = 0
    #: The function of a `call`.
    name: str = ""
    #: The whole answer, with `end`.
    answer: ChatAnswer | None = None


#: What the extension module tells: key, choice, token, text, and a dict with what most of them do not have.
Letter = tuple[int, int, "int | None", str, "dict[str, Any] | None"]


def token_of(letter: Letter) -> Token:
    """The token of a letter that has one."""
    _, _, token, text, more = letter
    if more is None or "logprob" not in more:
        return Token(token, text)
    return Token(token, text, more["logprob"], tuple(TokenLogprob(*entry) for entry in more["top"]))


class Collected:
    """An answer as far as it is known."""

    __slots__ = ("ended", "finish", "more", "parts", "prompt", "tokens")

    def __init__(self) -> None:
        self.tokens: list[Token] = []
        self.parts: list[str] = []
        self.prompt: list[tuple[TokenLogprob, tuple[TokenLogprob, ...]]] = []
        self.finish: str | None = None
        self.more: dict[str, Any] = {}
        self.ended = False

    def add(self, letter: Letter) -> Token | None:
        """Adds a letter and returns its token. Raises the error that it tells."""
        text, more = letter[3], letter[4]
        token = token_of(letter) if letter[2] is not None else None
        if token is not None:
            self.tokens.append(token)
        if text:
            self.parts.append(text)
        if more is not None:
            if "error" in more:
                self.ended = True
                raise more["error"]
            for entry, logprob, top in more.get("prompt", ()):
                self.prompt.append((TokenLogprob(entry, logprob), tuple(TokenLogprob(*one) for one in top)))
            if "finish" in more:
                self.ended, self.finish, self.more = True, more["finish"], more
        return token

    def text(self) -> str:
        """The text so far."""
        if len(self.parts) > 1:
            self.parts = ["".join(self.parts)]
        return self.parts[0] if self.parts else ""

    def completion(self) -> Completion:
        """The answer, once it has ended."""
        more = self.more
        usage = Usage(
            more["prompt_tokens"],
            len(self.tokens),
            more["cached_tokens"],
            more["queue_seconds"],
            more["prefill_seconds"],
            more["decode_seconds"],
        )
        logprobs = self.tokens if any(token.logprob is not None for token in self.tokens) else None
        return Completion(
            text=self.text(),
            tokens=[token.token for token in self.tokens if token.token is not None],
            finish_reason=self.finish or "",
            logprobs=logprobs,
            prompt_logprobs=self.prompt or None,
            seed=more["seed"],
            usage=usage,
        )


class Told:
    """The parts of a model's message as far as they are known."""

    __slots__ = ("calls", "content", "parser", "reasoning")

    def __init__(self, parser: Parts) -> None:
        self.parser = parser
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.calls: list[tuple[str, str, list[str]]] = []

    def push(self, text: str) -> list[ChatPart]:
        """What more text makes known."""
        return self._add(self.parser.push(text)) if text else []

    def finish(self) -> list[ChatPart]:
        """What the end of the text makes known."""
        return self._add(self.parser.finish())

    def _add(self, parts: list[tuple[str, int, str, str]]) -> list[ChatPart]:
        for kind, index, text, name in parts:
            if kind == "content":
                self.content.append(text)
            elif kind == "reasoning":
                self.reasoning.append(text)
            elif kind == "call":
                self.calls.append((text, name, []))
            else:
                self.calls[index][2].append(text)
        return [ChatPart(kind, text, index, name) for kind, index, text, name in parts]

    def answer(self, completion: Completion) -> ChatAnswer:
        """The whole message."""
        # A call that was cut off is no call to make.
        is_cut = completion.finish_reason in ("length", "no_room", "cancelled")
        return ChatAnswer(
            content="".join(self.content) if self.content else None,
            reasoning="".join(self.reasoning) if self.reasoning else None,
            tool_calls=[CallOfTool(id, name, "".join(arguments)) for id, name, arguments in self.calls],
            finish_reason="tool_calls" if self.calls and not is_cut else completion.finish_reason,
            completion=completion,
        )
