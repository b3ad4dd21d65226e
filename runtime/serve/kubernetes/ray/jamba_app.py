"""Jamba on Ray Serve: replicas of one plan that answer `POST /` with a stream of text.

    JAMBA_PLAN=my.plan serve run jamba_app:app
    curl -N localhost:8000 -d '{"prompt": "Once upon a time", "max_tokens": 40, "seed": 2}'

The tokens of an answer do not depend on the replica. Clients of OpenAI's API want `jamba serve`; this is for graphs of Ray
deployments that contain a language model.
"""

import os
from collections.abc import AsyncGenerator

from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from jambac_runtime import AsyncEngine, Token

#: Fields of a request that go to the sampler as they are.
SAMPLING = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop")


@serve.deployment(health_check_period_s=10)
class Jamba:
    """A plan in one process."""

    def __init__(self, plan: str) -> None:
        self.engine = AsyncEngine(plan, threads=int(os.environ.get("JAMBA_THREADS", "0")) or None)

    async def texts(self, prompt: str, sampling: dict) -> AsyncGenerator[str, None]:
        """The pieces of an answer; also for other deployments."""
        async for item in self.engine.stream(prompt, **sampling):
            if isinstance(item, Token):
                yield item.text

    async def __call__(self, request: Request) -> Response:
        try:
            body = await request.json()
            prompt, sampling = body["prompt"], {name: body[name] for name in SAMPLING if name in body}
        except (ValueError, KeyError, TypeError) as error:
            return JSONResponse({"error": f"expected a JSON object with a prompt: {error!r}"}, 400)
        return StreamingResponse(self.texts(prompt, sampling), media_type="text/plain; charset=utf-8")

    def check_health(self) -> None:
        """Called by Ray. Raises if the engine has failed or was closed."""
        self.engine.model.stats()


app = Jamba.bind(os.environ.get("JAMBA_PLAN", "/plan/my.plan"))
