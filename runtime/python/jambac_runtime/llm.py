"""vLLM's names for what means the same here: `LLM`, `SamplingParams`, `RequestOutput`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields as fields_of
from typing import Any

from .answers import Collected, Completion, Token
from .model import Model
from .sampling import CHAT_FIELDS, FIELDS, fields

__all__ = ["LLM", "CompletionOutput", "RequestOutput", "SamplingParams"]


@dataclass(kw_only=True)
class SamplingParams:
    """How to generate, with vLLM's names and default values. Names that vLLM has and that mean nothing here are refused.

    `LLM.generate` without parameters generates as the model's authors chose.
    """

    n: int = 1
    max_tokens: int | None = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    allowed_token_ids: list[int] | None = None
    skip_special_tokens: bool = True
    detokenize: bool = True
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    #: `json`, `regex`, `grammar` or `choice`.
    structured_outputs: Mapping[str, Any] | None = None

    def _fields(self, where: str, priority: int = 0, known: frozenset[str] = FIELDS) -> str:
        given = {one.name: getattr(self, one.name) for one in fields_of(self)}
        return fields({**given, "priority": priority}, known | {"n"}, where)


@dataclass
class CompletionOutput:
    """One of the answers to a prompt."""

    index: int
    text: str
    token_ids: list[int]
    #: Per token, the token and the most likely ones in its place.
    logprobs: list[Token] | None = None
    cumulative_logprob: float | None = None
    #: `stop` (the model ended it, or a stop string or token occurred), `length`, or `abort`; None while it runs.
    finish_reason: str | None = None

    def finished(self) -> bool:
        """True if nothing follows."""
        return self.finish_reason is not None


@dataclass
class RequestOutput:
    """The answers to a prompt."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput] = field(default_factory=list)
    finished: bool = False
    num_cached_tokens: int = 0
    prompt_logprobs: list[Any] | None = None


#: vLLM's names of the reasons.
_REASONS = {"length": "length", "no_room": "length", "cancelled": "abort", "deadline": "abort"}


def output_of(index: int, answer: Collected) -> CompletionOutput:
    """An answer as far as it is known."""
    logprobs = [token.logprob for token in answer.tokens if token.logprob is not None]
    return CompletionOutput(
        index=index,
        text=answer.text(),
        token_ids=[token.token for token in answer.tokens if token.token is not None],
        logprobs=list(answer.tokens) if logprobs else None,
        cumulative_logprob=sum(logprobs) if logprobs else None,
        finish_reason=None if answer.finish is None else _REASONS.get(answer.finish, "stop"),
    )


def outputs_of(request_id: str, prompt: Any, tokens: list[int], answers: Sequence[Collected]) -> RequestOutput:
    """The answers to a prompt as far as they are known."""
    first: Completion | None = answers[0].completion() if answers[0].ended else None
    return RequestOutput(
        request_id=request_id,
        prompt=prompt if isinstance(prompt, str) else None,
        prompt_token_ids=tokens,
        outputs=[output_of(index, answer) for index, answer in enumerate(answers)],
        finished=all(answer.ended for answer in answers),
        num_cached_tokens=first.usage.cached_tokens if first else 0,
        prompt_logprobs=first.prompt_logprobs if first else None,
    )


class LLM:
    """A plan with vLLM's interface. `LLM(...).model` is the `Model` below it."""

    def __init__(
        self,
        model: Any,
        *,
        max_model_len: int | None = None,
        max_num_seqs: int | None = None,
        max_num_batched_tokens: int | None = None,
        enable_prefix_caching: bool = True,
        **options: Any,
    ) -> None:
        """Opens a plan. Other options are those of `Model`."""
        if not enable_prefix_caching:
            options["cache_mib"] = 0
        self.model = Model(
            model,
            max_context=max_model_len,
            max_sequences=max_num_seqs,
            step_tokens=max_num_batched_tokens,
            **options,
        )

    def get_default_sampling_params(self) -> SamplingParams:
        """How the model's authors generate."""
        return SamplingParams(**self.model.info["defaults"])

    def generate(
        self,
        prompts: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | Mapping[str, Any] | Sequence[Mapping[str, Any]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """The answers to prompts, in their order: texts, lists of tokens, or `{"prompt": …}` and `{"prompt_token_ids": …}`."""
        is_one = isinstance(prompts, (str, Mapping)) or (len(prompts) > 0 and isinstance(prompts[0], int))
        listed: list[Any] = [prompts] if is_one else list(prompts)
        listed = [prompt_of(prompt) for prompt in listed]
        params = _each(sampling_params or self.get_default_sampling_params(), len(listed))
        requests = [(prompt, one._fields("SamplingParams")) for prompt, one in zip(listed, params)]
        collected, tokens = self.model._collect(requests)
        answers = zip(listed, tokens, collected)
        return [outputs_of(str(i), prompt, ids, found) for i, (prompt, ids, found) in enumerate(answers)]

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        tools: list[dict[str, Any]] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool | None = None,
    ) -> list[RequestOutput]:
        """The answers to a chat or to a list of chats, with the markup of calls in their texts as in vLLM. `Model.chat` tells
        it apart."""
        chats: list[Any] = [messages] if isinstance(messages[0], Mapping) else list(messages)
        extra = {
            "tools": tools,
            "chat_template_kwargs": chat_template_kwargs,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
        }
        fields_known = CHAT_FIELDS | {"messages"}
        prompts = [self.model._core.render(fields({"messages": list(chat), **extra}, fields_known, "chat()")) for chat in chats]
        outputs = self.generate([tokens for _, tokens in prompts], sampling_params)
        for output, (text, _) in zip(outputs, prompts):
            output.prompt = text
        return outputs


def prompt_of(prompt: Any) -> Any:
    """The text or the tokens of a prompt in vLLM's forms."""
    if not isinstance(prompt, Mapping):
        return prompt
    for name in ("prompt_token_ids", "prompt"):
        if name in prompt:
            return prompt[name]
    raise ValueError(f"prompt: found the keys {sorted(prompt)}, expected prompt or prompt_token_ids")


def _each(params: SamplingParams | Sequence[SamplingParams], n: int) -> Sequence[SamplingParams]:
    if isinstance(params, SamplingParams):
        return [params] * n
    if len(params) != n:
        raise ValueError(f"sampling_params: found {len(params)}, expected one for each of {n} prompts")
    return params
