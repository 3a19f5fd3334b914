"""Request bodies, bounded in size and time while they stream in."""

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from emulator.errors import BodyTimeout, UnsupportedMediaType
from handler import Settings
from handler.errors import BadRequest, TooLarge

_MB = 1 << 20
# Far more than any graph has. Three bytes, an empty list, become seventy: a body of 100 MB would fill the memory.
_MOST_VALUES = 2_000_000


async def json_body(request: Request, settings: Settings) -> bytes:
    """The body of a JSON request. Raises TooLarge as soon as that is known, BodyTimeout, and UnsupportedMediaType."""
    kind = media_type(request)
    if kind != "application/json" and not kind.endswith("+json"):
        raise UnsupportedMediaType(f"The Content-Type must be application/json; it is {kind or 'none'}.")
    return await bounded_body(request, settings)


async def form_body(request: Request, settings: Settings) -> dict[str, str | bytes]:
    """The fields of a form, files as bytes. Raises TooLarge, BodyTimeout, and BadRequest for what is no form."""
    body = await bounded_body(request, settings)

    async def again() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    whole = Request(request.scope, again)
    try:
        async with whole.form(max_files=8, max_fields=64, max_part_size=len(body) + 1) as form:
            return {
                name: await value.read() if isinstance(value, UploadFile) else value for name, value in form.items()
            }
    except HTTPException as exc:  # starlette's word for a form that cannot be parsed
        raise BadRequest(f"The form cannot be read: {exc.detail}") from exc


async def bounded_body(request: Request, settings: Settings) -> bytes:
    """A body of any kind. Raises TooLarge, or BodyTimeout."""
    max_mb = settings.max_body_size_mb
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > max_mb * _MB:
        raise _too_large(max_mb)
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            return await _received(request, max_mb)
    except TimeoutError as exc:
        raise BodyTimeout(f"The request body took longer than {settings.body_timeout_s:g} s (BODY_TIMEOUT_S).") from exc


async def _received(request: Request, max_mb: float) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_mb * _MB:
            raise _too_large(max_mb)
    return bytes(body)


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def parsed_json(body: bytes) -> Mapping[str, Any]:
    """The JSON object that a body holds. Raises BadRequest."""
    if sum(map(body.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise BadRequest(f"The body has more than {_MOST_VALUES:,} values.")
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise BadRequest(f"The body is not valid JSON: {exc}.") from exc
    if not isinstance(given, dict):
        raise BadRequest("The body must be a JSON object.")
    return given


def _too_large(max_mb: float) -> TooLarge:
    return TooLarge(f"The request body is larger than {max_mb:g} MB (MAX_BODY_SIZE_MB).")
