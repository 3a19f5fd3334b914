"""A receiver of webhooks and events that keeps what it gets, and webhooks for it."""

import asyncio
import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from handler.webhooks.queue import Delivery, WebhookQueue
from tests.support.waiting import wait_until

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SILENT = 0

Open = Callable[..., WebhookQueue]
Stored = Callable[[], list[Path]]


@dataclasses.dataclass(frozen=True)
class Got:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


class Receiver:
    """Keeps what it gets. `answers` are the statuses of the next answers; SILENT is none at all. Then 200.

    Requests of the paths in `held` get their answer once their path is out of it.
    """

    def __init__(self) -> None:
        self.got: list[Got] = []
        self.answers: list[int] = []
        self.held: set[str] = set()
        self.url = ""

    def app(self) -> Starlette:
        async def receive(request: Request) -> Response:
            self.got.append(Got(request.url.path, dict(request.headers), await request.body()))
            status = self.answers.pop(0) if self.answers else 200
            while (status == SILENT or request.url.path in self.held) and not await request.is_disconnected():
                await asyncio.sleep(0.01)
            return Response(status_code=status or 200, headers={"location": "/elsewhere"} if status == 302 else None)

        return Starlette(routes=[Route("/{path:path}", receive, methods=["POST"])])

    def bodies(self, count: int) -> list[dict[str, Any]]:
        """So many deliveries; and no more come within a moment."""
        wait_until(lambda: len(self.got) >= count)
        threading.Event().wait(0.1)
        assert len(self.got) == count
        return [got.json for got in self.got]


def webhook(url: str, number: int = 0, *, webhook_id: str = "job-1", standard: bool = True) -> Delivery:
    return Delivery(url, webhook_id, orjson.dumps({"id": webhook_id, "number": number}), standard)


def numbers(receiver: Receiver) -> list[int]:
    return [got.json["number"] for got in receiver.got]
