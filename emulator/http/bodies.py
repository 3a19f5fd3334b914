"""Reads request bodies, with limits of their size and time."""

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from emulator.http.errors import BodyTimeout, UnsupportedMediaType
from handler import Settings, json_codec
from handler.errors import BadRequest, TooLarge
from handler.threads import ThreadPool

_MB = 1 << 20
# Far more than any graph has. An empty list takes 3 bytes as JSON and 70 in memory, so that 100 MB would become 2 GB.
_MAX_VALUES = 2_000_000
_MAX_FIELDS = 64
_MAX_FIELD_SIZE = _MB
# The only field of a form that may be larger than _MAX_FIELD_SIZE.
_IMAGE_FIELD = "image"
_MAX_LOCATION = 60
# Decoding a url-encoded form takes 90 times its size in memory, so it is small, and decoded one at a time.
_URLENCODED_FORMS = ThreadPool(1, "form")
_URLENCODED_LIMIT = (1, "A url-encoded form may have at most 1 MB; send JSON or a multipart form instead.")


async def read_json_body(request: Request, settings: Settings) -> bytes:
    """Read the body of a JSON request. Raises TooLarge, BodyTimeout or UnsupportedMediaType."""
    kind = media_type(request)
    if kind != "application/json" and not kind.endswith("+json"):
        raise UnsupportedMediaType(f"The Content-Type must be application/json; it is {kind or 'missing'}.")
    return await read_body(request, settings)


async def read_form(request: Request, settings: Settings) -> dict[str, str | bytes]:
    """Read the fields of a form; files are bytes. Raises TooLarge, BodyTimeout, or BadRequest for an invalid form."""
    if media_type(request) == "application/x-www-form-urlencoded":
        body = await _read_bounded(request, settings, *_URLENCODED_LIMIT)
        return await asyncio.wrap_future(_URLENCODED_FORMS.submit(_parse_urlencoded, body))
    body, at = await read_body(request, settings), 0

    async def slices() -> Message:
        nonlocal at
        await asyncio.sleep(0)  # To parse all of it at once would block other requests.
        at += _MB
        return {"type": "http.request", "body": body[at - _MB : at], "more_body": at < len(body)}

    whole = Request(request.scope, slices)
    try:
        async with whole.form(max_files=8, max_fields=_MAX_FIELDS, max_part_size=len(body) + 1) as form:
            return {name: await _read_field(name, value) for name, value in form.items()}
    except HTTPException as exc:  # what starlette raises for an invalid form
        raise BadRequest(f"The form is invalid: {exc.detail}") from exc


def _parse_urlencoded(body: bytes) -> dict[str, str | bytes]:
    try:
        fields = parse_qsl(body.decode(errors="replace"), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError as exc:
        raise BadRequest(f"The form has more than {_MAX_FIELDS} fields.") from exc
    return dict(fields)


async def _read_field(name: str, value: str | UploadFile) -> str | bytes:
    size = len(value) if isinstance(value, str) else value.size or 0
    if name != _IMAGE_FIELD and size > _MAX_FIELD_SIZE:
        raise TooLarge(
            f"A field of a form may have at most 1 MB, except for `{_IMAGE_FIELD}`.", location=name[:_MAX_LOCATION]
        )
    return value if isinstance(value, str) else await value.read()


async def read_body(request: Request, settings: Settings) -> bytes:
    """Read a body of any type. Raises TooLarge or BodyTimeout."""
    max_mb = settings.max_body_size_mb
    return await _read_bounded(
        request, settings, max_mb, f"The request body is larger than {max_mb:g} MB (MAX_BODY_SIZE_MB)."
    )


async def _read_bounded(request: Request, settings: Settings, max_mb: float, refusal: str) -> bytes:
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > max_mb * _MB:
        raise TooLarge(refusal)
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            return await _collect(request, max_mb, refusal)
    except TimeoutError as exc:
        raise BodyTimeout(f"The request body took longer than {settings.body_timeout_s:g} s (BODY_TIMEOUT_S).") from exc


async def _collect(request: Request, max_mb: float, refusal: str) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_mb * _MB:
            raise TooLarge(refusal)
    return bytes(body)


def media_type(request: Request) -> str:
    """The request's Content-Type in lower case, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def parse_json(body: bytes) -> Mapping[str, Any]:
    """The JSON object in a body. Raises BadRequest."""
    if sum(map(body.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise BadRequest(f"The body has more than {_MAX_VALUES:,} values.")
    try:
        given = json_codec.decode(body)
    except ValueError as exc:
        raise BadRequest(f"The body is not valid JSON: {exc}.") from exc
    if not isinstance(given, dict):
        raise BadRequest("The body must be a JSON object.")
    return given
