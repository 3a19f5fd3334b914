"""POST /prompt, POST /workflow/<route> and POST /interrupt."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from emulator.adapter import Adapter
from emulator.http import JsonResponse, parse_json, read_json_body
from handler import Job, accepted
from handler.validation import validate

logger = logging.getLogger(__name__)


async def prompt(request: Request) -> Response:
    """Run a graph."""
    return await _answer(request, None)


def workflow(route: str) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of one workflow file."""

    async def endpoint(request: Request) -> Response:
        return await _answer(request, route)

    return endpoint


async def _answer(request: Request, route: str | None) -> Response:
    adapter: Adapter = request.app.state.adapter
    body = await adapter.while_open(read_json_body(request, adapter.service.settings))
    job = await adapter.admit(lambda: _event(body, route))
    if job.request.deferred:
        adapter.finish_later(job)
        return JsonResponse(accepted(job), 202)
    async with cancelled_on_disconnect(request, job):
        return JsonResponse(await adapter.finish(job))


@asynccontextmanager
async def cancelled_on_disconnect(request: Request, job: Job) -> AsyncIterator[None]:
    """With CANCEL_ON_DISCONNECT: end a job whose client goes away while it waits for the answer. The body must have been read."""
    adapter: Adapter = request.app.state.adapter

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        logger.info("job %r: its client is gone", job.request.id)
        await adapter.ask(partial(adapter.service.comfy.interrupt, job.ticket))

    watcher = asyncio.create_task(watch()) if adapter.service.settings.cancel_on_disconnect else None
    try:
        yield
    finally:
        if watcher is not None:
            watcher.cancel()


def _event(body: bytes, route: str | None) -> dict[str, Any]:
    """The route decides on the dialect. The field of the other one is ignored, as unknown fields are."""
    given = parse_json(body)
    if route is None:
        return {"input": {name: value for name, value in given.items() if name != "workflow"}}
    return {"input": {name: value for name, value in given.items() if name != "prompt"} | {"workflow": route}}


class InterruptRequest(BaseModel):
    """The body of POST /interrupt."""

    id: str = Field(min_length=1, max_length=255, description="The id of the request that is to end.")


async def interrupt(request: Request) -> Response:
    """End a prompt that waits or runs."""
    adapter: Adapter = request.app.state.adapter
    given = parse_json(await adapter.while_open(read_json_body(request, adapter.service.settings)))
    request_id = validate(InterruptRequest, given).id
    was = await adapter.interrupt(request_id)
    if was is None:
        return JsonResponse({"id": request_id, "interrupted": "failed"}, 404)
    return JsonResponse({"id": request_id, "interrupted": "success", "was": was})
