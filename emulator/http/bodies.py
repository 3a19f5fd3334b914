"""Request bodies, bounded in size and time while they stream in."""

import asyncio
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from anyio import to_thread
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from emulator.http.errors import BodyTimeout, UnsupportedMediaType
from handler import Settings, json_codec
from handler.errors import BadRequest, TooLarge

_MB = 1 << 20
# Far more than any graph has. Three bytes, an empty list, become seventy: a body of 100 MB would fill the memory.
_MOST_VALUES = 2_000_000
_MOST_FIELDS = 64
_LONGEST_FIELD = _MB
# The field of a form that may be as large as the body.
_PICTURE = "image"
_SHOWN = 60
# To decode one takes ninety times its size: they are small, and decoded one after the other.
_UNQUOTING = threading.Lock()
_QUOTED = (1, "A url-encoded form has at most 1 MB; send JSON or a multipart form instead.")


async def read_json_body(request: Request, settings: Settings) -> bytes:
    """The body of a JSON request. Raises TooLarge as soon as that is known, BodyTimeout, and UnsupportedMediaType."""
    kind = media_type(request)
    if kind != "application/json" and not kind.endswith("+json"):
        raise UnsupportedMediaType(f"The Content-Type must be application/json; it is {kind or 'none'}.")
    return await read_body(request, settings)


async def read_form(request: Request, settings: Settings) -> dict[str, str | bytes]:
    """The fields of a form, files as bytes. Raises TooLarge, BodyTimeout, and BadRequest for what is no form."""
    if media_type(request) == "application/x-www-form-urlencoded":
        return await to_thread.run_sync(_unquoted, await _whole(request, settings, *_QUOTED))
    body, at = await read_body(request, settings), 0

    async def slices() -> Message:
        nonlocal at
        await asyncio.sleep(0)  # All of it at once would hold up every other request.
        at += _MB
        return {"type": "http.request", "body": body[at - _MB : at], "more_body": at < len(body)}

    whole = Request(request.scope, slices)
    try:
        async with whole.form(max_files=8, max_fields=_MOST_FIELDS, max_part_size=len(body) + 1) as form:
            return {name: await _field(name, value) for name, value in form.items()}
    except HTTPException as exc:  # starlette's word for a form that cannot be parsed
        raise BadRequest(f"The form cannot be read: {exc.detail}") from exc


def _unquoted(body: bytes) -> dict[str, str | bytes]:
    try:
        with _UNQUOTING:
            fields = parse_qsl(body.decode(errors="replace"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError as exc:
        raise BadRequest(f"The form has more than {_MOST_FIELDS} fields.") from exc
    return dict(fields)


async def _field(name: str, value: str | UploadFile) -> str | bytes:
    size = len(value) if isinstance(value, str) else value.size or 0
    if name != _PICTURE and size > _LONGEST_FIELD:
        raise TooLarge(f"A field of a form holds at most 1 MB, except for `{_PICTURE}`.", location=name[:_SHOWN])
    return value if isinstance(value, str) else await value.read()


async def read_body(request: Request, settings: Settings) -> bytes:
    """A body of any kind. Raises TooLarge, or BodyTimeout."""
    max_mb = settings.max_body_size_mb
    return await _whole(request, settings, max_mb, f"The request body is larger than {max_mb:g} MB (MAX_BODY_SIZE_MB).")


async def _whole(request: Request, settings: Settings, max_mb: float, refusal: str) -> bytes:
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > max_mb * _MB:
        raise TooLarge(refusal)
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            return await _received(request, max_mb, refusal)
    except TimeoutError as exc:
        raise BodyTimeout(f"The request body took longer than {settings.body_timeout_s:g} s (BODY_TIMEOUT_S).") from exc


async def _received(request: Request, max_mb: float, refusal: str) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_mb * _MB:
            raise TooLarge(refusal)
    return bytes(body)


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def parse_json(body: bytes) -> Mapping[str, Any]:
    """The JSON object that a body holds. Raises BadRequest."""
    if sum(map(body.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise BadRequest(f"The body has more than {_MOST_VALUES:,} values.")
    try:
        given = json_codec.decode(body)
    except ValueError as exc:
        raise BadRequest(f"The body is not valid JSON: {exc}.") from exc
    if not isinstance(given, dict):
        raise BadRequest("The body must be a JSON object.")
    return given
