"""ComfyUI's middleware: the origin check, OPTIONS, and the limit of bodies."""

import urllib.parse
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from emulator.comfyui.server.sockets import FEATURES

MAX_BODY = int(FEATURES["max_upload_size"])


class RequestGuard:
    """Refuses requests of other origins, answers OPTIONS, and limits bodies."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        # an encoded slash is part of an id, and must not be seen by the routing
        raw: bytes = scope["raw_path"]
        scope["path"] = urllib.parse.unquote(raw.decode().replace("%2F", "%252F").replace("%2f", "%252F"))
        headers = Headers(scope=scope)
        if is_cross_origin(headers):
            await self._refuse(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "OPTIONS":
            await Response()(scope, receive, send)
        else:
            await self.app(scope, limit_body(receive), send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await Response(status_code=403)(scope, receive, send)
        else:
            await send({"type": "websocket.close"})


def is_cross_origin(headers: Headers) -> bool:
    """Whether a web page of another host sent the request to a loopback address."""
    if "host" not in headers or "origin" not in headers:
        return False
    host, origin = (
        urllib.parse.urlsplit("//" + headers["host"].lower()),
        urllib.parse.urlsplit(headers["origin"].lower()),
    )
    with_port = host.port is not None and origin.port is not None
    names = (host.netloc, origin.netloc) if with_port else (host.hostname, origin.hostname)
    return is_loopback(host.hostname) and all(names) and names[0] != names[1]


def is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


def limit_body(receive: Receive) -> Receive:
    """Refuse a body that is too large once it has been read: a client that is still sending does not read the answer."""
    size = 0

    async def receive_limited() -> Message:
        nonlocal size
        message = await receive()
        if message["type"] == "http.request":
            size += len(message.get("body", b""))
            while size > MAX_BODY and message["type"] == "http.request" and message.get("more_body"):
                message = await receive()
            if size > MAX_BODY:
                raise HTTPException(413, f"Maximum request body size {MAX_BODY} exceeded.")
        return message

    return receive_limited
