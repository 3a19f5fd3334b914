"""POST /prompt and POST /workflow/<route>."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from emulator.bodies import json_body
from emulator.door import Door


async def prompt(request: Request) -> Response:
    """Run a graph."""
    return await _answer(request, None)


def workflow(route: str) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of one workflow file."""

    async def endpoint(request: Request) -> Response:
        return await _answer(request, route)

    return endpoint


async def _answer(request: Request, route: str | None) -> Response:
    door: Door = request.app.state.door
    body = await json_body(request, door.service.settings.max_body_size_mb)
    return Response(await door.run(body, route), media_type="application/json")
