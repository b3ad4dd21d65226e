"""The fields that say how to generate."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    if sys.version_info >= (3, 11):
        from typing import TypedDict, Unpack
    else:
        from typing_extensions import TypedDict, Unpack

    class Sampling(TypedDict, total=False):
        """Fields of a request, with OpenAI's names, and vLLM's where OpenAI has none."""

        max_tokens: int
        min_tokens: int
        temperature: float
        top_k: int
        top_p: float
        min_p: float
        seed: int
        presence_penalty: float
        frequency_penalty: float
        repetition_penalty: float
        logit_bias: dict[int, float]
        stop: str | list[str]
        stop_token_ids: list[int]
        include_stop_str_in_output: bool
        ignore_eos: bool
        allowed_token_ids: list[int]
        skip_special_tokens: bool
        detokenize: bool
        logprobs: int
        prompt_logprobs: int
        response_format: dict[str, Any]
        structured_outputs: dict[str, Any]
        priority: int

    __all__ = ["Sampling", "Unpack"]

#: The fields of a request for text.
FIELDS = frozenset(
    """max_tokens min_tokens temperature top_k top_p min_p seed presence_penalty frequency_penalty repetition_penalty
    logit_bias stop stop_token_ids include_stop_str_in_output ignore_eos allowed_token_ids skip_special_tokens detokenize
    logprobs prompt_logprobs response_format structured_outputs priority""".split()
)
#: Those of a chat besides.
CHAT_FIELDS = FIELDS - {"logprobs", "prompt_logprobs", "detokenize"} | frozenset(
    """logprobs top_logprobs tools tool_choice parallel_tool_calls documents chat_template_kwargs reasoning_effort
    add_generation_prompt continue_final_message max_completion_tokens""".split()
)


def fields(given: dict[str, Any], known: frozenset[str], where: str) -> str:
    """The fields as JSON. Refuses those that are not known."""
    for name in given:
        if name not in known:
            raise TypeError(f"{where} got an unexpected keyword argument {name!r}")
    given = {name: value for name, value in given.items() if value is not None}
    bias = given.get("logit_bias")
    if bias is not None:
        given["logit_bias"] = {str(token): value for token, value in bias.items()}
    try:
        return json.dumps(given, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{where}: found a number that is not finite: {error}") from None
