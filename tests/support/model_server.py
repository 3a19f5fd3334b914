"""A file server for downloads: with ranges, bearer tokens and transfers that break off, and a book of what was asked."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

_CHUNK = 1 << 14


@dataclass
class Files:
    """What is served at which path, and how. `breaks` counts the transfers of a path that end half-way from now on."""

    content: dict[str, bytes] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    breaks: dict[str, int] = field(default_factory=dict)
    delay_s: float = 0
    # Path and Range header of each request, and how many bytes were handed over.
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)

    def renew(self, content: dict[str, bytes]) -> None:
        """Forget everything, and serve this."""
        vars(self).update(vars(Files(dict(content))))

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/{path:path}", self._answer)])

    async def _answer(self, request: Request) -> Response:
        path, begin = request.url.path, 0
        self.asked.append((path, request.headers.get("range")))
        if path not in self.content:
            return Response("no such file", 404)
        if path in self.tokens and request.headers.get("authorization") != f"Bearer {self.tokens[path]}":
            return Response("who are you", 401)
        whole = self.content[path]
        if given := re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", "")):
            begin = int(given[1])
        etag = f'"{hashlib.sha256(whole).hexdigest()}"'
        if request.headers.get("if-range", etag) != etag:
            begin = 0
        if begin and begin >= len(whole):
            return Response(status_code=416, headers={"content-range": f"bytes */{len(whole)}"})
        headers = {"content-length": str(len(whole) - begin), "etag": etag}
        if begin:
            headers["content-range"] = f"bytes {begin}-{len(whole) - 1}/{len(whole)}"
        return StreamingResponse(self._stream(path, whole[begin:]), 206 if begin else 200, headers)

    async def _stream(self, path: str, body: bytes) -> AsyncIterator[bytes]:
        end = len(body)
        if self.breaks.get(path, 0) > 0:
            self.breaks[path] -= 1
            end //= 2
        for start in range(0, end, _CHUNK):
            await asyncio.sleep(self.delay_s)
            chunk = body[start : min(end, start + _CHUNK)]
            self.sent[path] = self.sent.get(path, 0) + len(chunk)
            yield chunk
        if end < len(body):
            raise ConnectionError("it breaks off, as it is told to")
