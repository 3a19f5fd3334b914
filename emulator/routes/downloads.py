"""POST /download."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.requests import Request
from starlette.responses import Response

from emulator.adapter import Adapter
from emulator.http import JsonResponse, parse_json, read_json_body
from handler import HandlerError, storage
from handler.models import ModelCache
from handler.schemas import Auth
from handler.threads import ThreadPool
from handler.urls import MAX_URL_LENGTH, redact_url
from handler.validation import validate

logger = logging.getLogger(__name__)

# Downloads that a client waits for, and those in the background: neither delays the other.
_FOREGROUND = 8
_BACKGROUND = 4
# Checking a URL may wait for its name's resolver.
_CHECKS = 8


class DownloadRequest(BaseModel):
    """The body of POST /download. Unknown fields are ignored, as the reference does."""

    model_config = ConfigDict(frozen=True)

    url: str = Field(
        pattern=r"^[A-Za-z][A-Za-z0-9+.-]*://[^/]",
        max_length=MAX_URL_LENGTH,
        description="Where the model is: http, https, s3, ...",
    )
    model_type: str = Field(
        min_length=1, max_length=255, description="Model folder that it goes into, such as checkpoints or loras."
    )
    filename: str = Field("", description="Its name there; only the last part of a path counts. Default: the URL's.")
    wait: bool = Field(False, description="Answer when it is there, instead of at once.")
    auth: Auth | None = Field(None, description="Credentials for the URL. They are not kept.")
    sha256: str | None = Field(
        None, pattern=r"^[0-9A-Fa-f]{64}$", description="What it must be, in hexadecimal digits."
    )

    @field_validator("filename", mode="after")
    @classmethod
    def _given(cls, value: str) -> str:
        if not value:
            raise ValueError("it is empty; leave it out to get the URL's")
        return value


class Downloads:
    """The endpoint, and what it has under way: so many at once, on threads that do not keep the process from ending."""

    def __init__(self) -> None:
        self._foreground = ThreadPool(_FOREGROUND, "download")
        self._background = ThreadPool(_BACKGROUND, "download")
        self._checks = ThreadPool(_CHECKS, "download")
        self._tasks: set[asyncio.Task[None]] = set()

    async def download(self, request: Request) -> Response:
        """Fetch a model into a model folder."""
        adapter: Adapter = request.app.state.adapter
        body = parse_json(await adapter.while_open(read_json_body(request, adapter.service.settings)))
        wanted = validate(DownloadRequest, body)
        answer = await _run(lambda: _check(wanted, adapter), self._checks)
        if wanted.wait:
            work = _run(lambda: _download(wanted, adapter.service.models), self._foreground)
            return JsonResponse(answer | await adapter.while_open(work))
        task = asyncio.create_task(self._finish_unseen(wanted, adapter.service.models))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return JsonResponse({**answer, "status": "started"}, 202)

    async def _finish_unseen(self, wanted: DownloadRequest, models: ModelCache) -> None:
        try:
            await _run(lambda: _download(wanted, models), self._background)
        except HandlerError as exc:
            models.announce_failure(wanted.url, f"{wanted.model_type}/{_name(wanted, models)}", exc)
        except Exception:
            logger.exception("%s could not be downloaded: a bug", redact_url(wanted.url))


def _check(wanted: DownloadRequest, adapter: Adapter) -> dict[str, Any]:
    """What every answer holds. Raises what can be known to be the caller's fault before the transfer."""
    storage.store_for_url(wanted.url, adapter.service.settings).check_url(wanted.url, wanted.auth)
    adapter.service.models.folder(wanted.model_type)
    name = _name(wanted, adapter.service.models)
    return {"url": redact_url(wanted.url), "model_type": wanted.model_type, "filename": name}


def _name(wanted: DownloadRequest, models: ModelCache) -> str:
    return models.name(wanted.url, wanted.filename or None)


def _download(wanted: DownloadRequest, models: ModelCache) -> dict[str, Any]:
    began = time.monotonic()
    path, size = models.download(
        wanted.url, wanted.model_type, filename=wanted.filename or None, auth=wanted.auth, sha256=wanted.sha256
    )
    duration = round(time.monotonic() - began, 3)
    return {"filename": path.name, "status": "completed", "size": size, "duration": duration}


async def _run(work: Callable[[], dict[str, Any]], pool: ThreadPool) -> dict[str, Any]:
    """What the work gives. A download that the end of the process cuts off resumes where it was when it is asked for again."""
    return await asyncio.wrap_future(pool.submit(work))
