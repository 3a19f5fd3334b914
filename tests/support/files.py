"""A web server with files to fetch and room for uploads, which remembers what it was asked."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.support.live import served


@dataclass
class Files:
    """`content` is what /file holds; `seen` are the requests, latest last; `statuses` are the next answers to PUT."""

    folder: Path
    content: bytes = bytes(range(256)) * 1000
    url: str = ""
    seen: list[Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    @property
    def last(self) -> Request:
        return self.seen[-1]

    @contextlib.contextmanager
    def running(self) -> Iterator["Files"]:
        (self.folder / "file").write_bytes(self.content)
        routes = [
            Route("/file", self._file),
            Route("/whole", self._whole),
            Route("/shifted", self._shifted),
            Route("/unauthorized", self._unauthorized),
            Route("/truncated", self._truncated),
            Route("/trickle", self._trickle),
            Route("/to{rest:path}", self._to, methods=["GET", "PUT"]),
            Route("/up/{name:path}", self._put, methods=["PUT"]),
        ]
        with served(Starlette(routes=routes)) as self.url:
            yield self

    async def _file(self, request: Request) -> Response:
        self.seen.append(request)
        return FileResponse(self.folder / "file")

    async def _whole(self, request: Request) -> Response:
        self.seen.append(request)
        return Response(self.content)

    async def _shifted(self, request: Request) -> Response:
        """Answers every range with the first bytes."""
        self.seen.append(request)
        if "range" not in request.headers:
            return Response(self.content)
        total = len(self.content)
        return Response(self.content[:10], 206, {"Content-Range": f"bytes 0-9/{total}"})

    async def _unauthorized(self, request: Request) -> Response:
        self.seen.append(request)
        return PlainTextResponse("no", 401)

    async def _truncated(self, _request: Request) -> Response:
        async def half() -> AsyncIterator[bytes]:
            yield self.content[: len(self.content) // 2]

        return StreamingResponse(half(), headers={"Content-Length": str(len(self.content))})

    async def _trickle(self, _request: Request) -> Response:
        async def one_by_one() -> AsyncIterator[bytes]:
            for n in range(1000):
                yield self.content[n : n + 1]
                await asyncio.sleep(0.1)

        return StreamingResponse(one_by_one())

    async def _to(self, request: Request) -> Response:
        self.seen.append(request)
        return RedirectResponse(request.query_params["url"], 307)

    async def _put(self, request: Request) -> Response:
        self.bodies.append(await request.body())
        self.seen.append(request)
        return Response(status_code=self.statuses.pop(0) if self.statuses else 201)
