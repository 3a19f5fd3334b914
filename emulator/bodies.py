"""Request bodies, bounded while they stream in."""

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from emulator.errors import UnsupportedMediaType
from handler.errors import BadRequest, TooLarge

_MB = 1 << 20


async def json_body(request: Request, max_mb: float) -> bytes:
    """The body of a JSON request. Raises TooLarge as soon as that is known, and UnsupportedMediaType."""
    kind = media_type(request)
    if kind != "application/json" and not kind.endswith("+json"):
        raise UnsupportedMediaType(f"The Content-Type must be application/json; it is {kind or 'none'}.")
    return await bounded_body(request, max_mb)


async def form_body(request: Request, max_mb: float) -> dict[str, str | bytes]:
    """The fields of a form, files as bytes. Raises TooLarge, and BadRequest for what is no form."""
    body = await bounded_body(request, max_mb)

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


async def bounded_body(request: Request, max_mb: float) -> bytes:
    """A body of any kind. Raises TooLarge."""
    limit = int(max_mb * _MB)
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > limit:
        raise _too_large(max_mb)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _too_large(max_mb)
    return bytes(body)


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def parsed_json(body: bytes) -> Mapping[str, Any]:
    """The JSON object that a body holds. Raises BadRequest."""
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise BadRequest(f"The body is not valid JSON: {exc}.") from exc
    if not isinstance(given, dict):
        raise BadRequest("The body must be a JSON object.")
    return given


def _too_large(max_mb: float) -> TooLarge:
    return TooLarge(f"The request body is larger than {max_mb:g} MB (MAX_BODY_SIZE_MB).")
