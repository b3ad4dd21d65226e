"""A backend of NVIDIA Dynamo: `python -m jambac_runtime.dynamo PLAN`.

It needs `ai-dynamo` 1.6. The frontend gets the plan's own tokenizer and chat template. A request that moves to another worker
in the middle of its answer goes on with the tokens that it would have had: on a CPU the next token has the same bits on every
worker, and draws depend on the seed and the position alone. Penalties of presence and frequency are the exception: the tokens so
far come as a part of the prompt, which they do not count.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from dynamo.common.backend import EngineConfig, LLMEngine, LlmRegistration, WorkerConfig
from dynamo.common.backend.health_check import build_health_check_payload
from dynamo.common.backend.publisher import ComponentSnapshot, KvEventSource, PushSource
from dynamo.common.backend.run import run
from dynamo.common.utils.token_ids import normalize_request_token_ids

from . import _native
from .aio import AsyncEngine
from .answers import Completion, Token
from .kv_events import Cleared, Follower, Removed, Stored
from .model import Model, write_texts

__all__ = ["DynamoEngine", "main"]

#: Dynamo's names of the reasons.
REASONS = {"length": "length", "no_room": "length", "cancelled": "cancelled", "deadline": "cancelled"}


def sampling_of(request: Any, name: str) -> dict[str, Any]:
    """The fields of `AsyncEngine.stream` for a request of Dynamo, whose name gives the seed if the client gave none."""
    options, stop = request.get("sampling_options") or {}, request.get("stop_conditions") or {}
    output = request.get("output_options") or {}
    if (options.get("n") or 1) != 1:
        raise ValueError(f"n: found {options['n']}, expected 1")
    names = ("temperature", "top_p", "top_k", "min_p", "seed", "frequency_penalty", "presence_penalty", "repetition_penalty")
    sampling: dict[str, Any] = {one: options[one] for one in names if options.get(one) is not None}
    if "seed" not in sampling:
        sampling["seed"] = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "little")
    bias = options.get("logit_bias")
    if bias:
        sampling["logit_bias"] = {int(token): value for token, value in bias.items()}
    guided = options.get("guided_decoding") or {}
    structured = {one: guided[one] for one in ("json", "regex", "choice", "grammar") if guided.get(one) is not None}
    if structured:
        sampling["structured_outputs"] = structured
    for one in ("max_tokens", "min_tokens", "ignore_eos"):
        if stop.get(one) is not None:
            sampling[one] = stop[one]
    tokens = {*(stop.get("stop_token_ids") or ()), *(stop.get("stop_token_ids_hidden") or ())}
    if tokens and not stop.get("ignore_eos"):
        sampling["stop_token_ids"] = sorted(tokens)
    if output.get("logprobs") is not None:
        sampling["logprobs"] = int(output["logprobs"])
    return sampling


def folder_of(plan: Path) -> Path:
    """The folder for the texts of a plan. Its name follows from them: Dynamo takes workers of one model with one folder only."""
    digest = hashlib.sha256()
    for name, text in _native.plan_texts(plan):
        digest.update(f"{name} {len(text)} ".encode() + text)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache, "jambac-runtime", "dynamo", digest.hexdigest()[:16])


class DynamoEngine(LLMEngine):
    """A plan as an engine of Dynamo."""

    def __init__(self, plan: Path, name: str | None, options: dict[str, Any], folder: Path) -> None:
        """Made by `from_args`. folder: has the texts of the plan."""
        self._plan, self._name, self._options, self._folder = plan, name, options, folder
        self._engine: AsyncEngine | None = None
        self._follower: Follower | None = None
        self._snapshots: Any = None
        self._block = options["cache_interval"]

    @classmethod
    async def from_args(cls, argv: list[str] | None = None) -> tuple[DynamoEngine, WorkerConfig]:
        parser = argparse.ArgumentParser(prog="python -m jambac_runtime.dynamo", description=__doc__)
        add = parser.add_argument
        add("plan", type=Path, metavar="PLAN")
        add("--served-model-name", metavar="NAME", help="the model's name in requests; by default the plan's")
        add("--namespace", default="dynamo")
        add("--component", default="backend")
        add("--endpoint", default="generate")
        add("--endpoint-types", default=None, help="by default chat,completions, or completions without a chat template")
        add("--discovery-backend", default="etcd", help="etcd, file, mem or kubernetes")
        add("--request-plane", default="tcp")
        add("--event-plane", default=None)
        add("--tool-call-parser", default=None, help="jamba for models that write <tool_calls>")
        add("--reasoning-parser", default=None)
        add("--block-size", type=int, default=512, metavar="N", help="tokens between the states of a prompt: the router's blocks")
        add("--cache-mib", type=int, default=1024, metavar="MIB")
        add("--texts", type=Path, metavar="DIR", help="folder for the plan's tokenizer and template; by default in the user's cache")
        add("--device", default="cpu")
        add("--threads", type=int)
        add("--max-context", type=int, metavar="N")
        add("--max-sequences", type=int, metavar="N")
        args = parser.parse_args(argv)
        folder = args.texts or folder_of(args.plan)
        folder.mkdir(parents=True, exist_ok=True)
        texts = write_texts(args.plan, folder)
        name = args.served_model_name or args.plan.stem
        options = {
            "device": args.device,
            "threads": args.threads,
            "max_context": args.max_context,
            "max_sequences": args.max_sequences,
            "cache_mib": args.cache_mib,
            "cache_interval": args.block_size,
            "cache_events": True,
        }
        types = args.endpoint_types or ("chat,completions" if "chat_template.jinja" in texts else "completions")
        config = WorkerConfig(
            namespace=args.namespace,
            component=args.component,
            endpoint=args.endpoint,
            model_name=str(folder),
            served_model_name=name,
            endpoint_types=types,
            discovery_backend=args.discovery_backend,
            request_plane=args.request_plane,
            event_plane=args.event_plane,
            tool_call_parser=args.tool_call_parser,
            reasoning_parser=args.reasoning_parser,
        )
        return cls(args.plan, name, options, folder), config

    async def start(self, worker_id: int) -> EngineConfig:
        self._engine = AsyncEngine(Model(self._plan, **self._options))
        info = self._engine.model.info
        return EngineConfig(
            model=str(self._folder),
            served_model_name=self._name,
            llm=LlmRegistration(
                context_length=info["max_context"],
                kv_cache_block_size=self._block,
                total_kv_blocks=self._blocks(info["kv_tokens"]),
                max_num_seqs=info["max_sequences"],
                max_num_batched_tokens=info["max_step_tokens"],
            ),
        )

    def _blocks(self, n_tokens: int) -> int:
        return int(n_tokens) // int(self._block)

    async def generate(self, request: Any, context: Any) -> AsyncGenerator[Any, None]:
        assert self._engine is not None
        normalize_request_token_ids(request)
        name = context.id() or ""
        tokens, sampling = list(request["token_ids"]), sampling_of(request, name)
        answer = self._engine.stream(tokens, name or None, detokenize=False, **sampling)
        try:
            async for item in answer:
                if isinstance(item, Completion):
                    yield end_of(item)
                    return
                if context.is_stopped():
                    self._engine.abort(name)
                yield chunk_of(item)
        finally:
            await answer.aclose()

    async def abort(self, context: Any) -> None:
        if self._engine is not None:
            self._engine.abort(context.id() or "")

    async def is_quiescent(self) -> bool | None:
        return self._engine is None or self._engine.n_open == 0

    async def kv_event_sources(self) -> list[KvEventSource]:
        return [PushSource(on_ready=self._follow, dp_rank=0)]

    def component_metrics_dp_ranks(self) -> list[int]:
        return [0]

    def attach_snapshot_publisher(self, publisher: Any) -> None:
        self._snapshots = publisher

    async def health_check_payload(self) -> dict[str, Any] | None:
        assert self._engine is not None
        payload: dict[str, Any] = build_health_check_payload(bos_token_id=self._engine.model.info["bos"] or 0)
        return payload

    def _follow(self, publisher: Any) -> None:
        assert self._engine is not None
        model = self._engine.model

        told: set[int] = set()

        def tell(events: list[Stored | Removed | Cleared]) -> None:
            for event in events:
                if isinstance(event, Stored):
                    block = event.block
                    told.add(block.hash)
                    publisher.publish_stored(
                        token_ids=block.tokens,
                        num_block_tokens=[len(block.tokens)],
                        block_hashes=[block.hash],
                        parent_hash=block.parent,
                    )
                elif isinstance(event, Removed):
                    told.discard(event.hash)
                    publisher.publish_removed(block_hashes=[event.hash])
                elif told:
                    publisher.publish_removed(block_hashes=sorted(told))
                    told.clear()
            if self._snapshots is not None:
                self._snapshots.publish(0, self._snapshot(model))

        self._follower = Follower(model, self._block, tell)

    def _snapshot(self, model: Model) -> ComponentSnapshot:
        stats, total = model.stats(), model.info["kv_tokens"]
        used = max(total - stats["free_pages"] * model.info["kv_page_tokens"], 0)
        cache = stats["cache"]
        n_tokens = cache["tokens_saved"] + cache["tokens_read"]
        return ComponentSnapshot(
            kv_used_blocks=self._blocks(used),
            kv_total_blocks=self._blocks(total),
            gpu_cache_usage=used / total if total else 0.0,
            kv_cache_hit_rate=cache["tokens_saved"] / n_tokens if n_tokens else None,
            dp_rank=0,
        )

    async def cleanup(self) -> None:
        if self._follower is not None:
            self._follower.close()
            self._follower = None
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def chunk_of(token: Token) -> dict[str, Any]:
    """A token as a chunk of an answer."""
    chunk: dict[str, Any] = {"token_ids": [] if token.token is None else [token.token], "index": 0}
    if token.logprob is not None:
        chunk["log_probs"] = [token.logprob]
        top = [{"rank": rank + 1, "token_id": one.token, "logprob": one.logprob} for rank, one in enumerate(token.top)]
        chunk["top_logprobs"] = [top]
    return chunk


def end_of(completion: Completion) -> dict[str, Any]:
    """The end of an answer, behind its last token."""
    usage = completion.usage
    return {
        "token_ids": [],
        "index": 0,
        "finish_reason": REASONS.get(completion.finish_reason, "stop"),
        "completion_usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        },
    }


def main() -> None:
    """Runs a worker until it is told to end."""
    run(DynamoEngine)


if __name__ == "__main__":
    main()
