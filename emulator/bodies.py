"""Request bodies, bounded while they stream in."""

from starlette.requests import Request

from emulator.errors import UnsupportedMediaType
from handler.errors import TooLarge

_MB = 1 << 20


async def json_body(request: Request, max_mb: float) -> bytes:
    """The body of a JSON request. Raises TooLarge as soon as that is known, and UnsupportedMediaType."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        given = media_type or "none"
        raise UnsupportedMediaType(f"The Content-Type must be application/json; it is {given}.")
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


def _too_large(max_mb: float) -> TooLarge:
    return TooLarge(f"The request body is larger than {max_mb:g} MB (MAX_BODY_SIZE_MB).")
