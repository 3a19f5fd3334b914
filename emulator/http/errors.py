"""Every error's way out over HTTP, in one shape: {statusCode, code, error, location?, node_errors?}."""

import logging
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from emulator.http.responses import JsonResponse
from handler import errors
from handler.errors import HandlerError

logger = logging.getLogger(__name__)

# Looked up along the class's MRO: a kind that is not listed has the status of the one above it.
_STATUS: dict[type[Exception], int] = {
    HandlerError: 500,
    errors.BadRequest: 400,
    errors.TooLarge: 413,
    errors.ComfyError: 502,
    errors.ComfyUnreachable: 503,
    errors.ComfyCrashed: 502,
    errors.PromptRejected: 400,
    errors.PromptFailed: 500,
    errors.PromptInterrupted: 499,
    errors.PromptTimeout: 504,
    errors.ServerStopped: 503,
    errors.DiskFull: 507,
    errors.OutputError: 500,
    errors.DeliveryError: 502,
    errors.DeliveryTimeout: 504,
}


class UnsupportedMediaType(HandlerError):
    code = "UNSUPPORTED_MEDIA_TYPE"


class BodyTimeout(HandlerError):
    """A client that sends its body so slowly that it may be none."""

    code = "BODY_TIMEOUT"
    retryable = True


class NotFound(HandlerError):
    code = "NOT_FOUND"


class Unauthorized(HandlerError):
    code = "UNAUTHORIZED"


class QueueFull(HandlerError):
    """As many requests as QUEUE_LIMIT allows have not been finished."""

    code = "QUEUE_FULL"
    retryable = True


_STATUS |= {BodyTimeout: 408, UnsupportedMediaType: 415, NotFound: 404, QueueFull: 429}
# When to come again, in seconds: a guess, for how long the jobs in front take, or a start of ComfyUI, is not known.
_RETRY_AFTER_S = 5


async def handler_error(request: Request, exc: Exception) -> Response:
    """The answer to an error of the tree."""
    assert isinstance(exc, HandlerError)
    status = next(_STATUS[kind] for kind in type(exc).__mro__ if kind in _STATUS)
    logger.info("%s %s: %d %s: %s", request.method, request.url.path, status, exc.code, exc.message)
    response = error_response(status, exc.answer())
    if isinstance(exc, QueueFull | errors.ComfyUnreachable):
        response.headers["Retry-After"] = str(_RETRY_AFTER_S)
    return response


async def http_error(request: Request, exc: Exception) -> Response:
    """Starlette's own: an unknown route, and a known one with another method, which the reference answers alike."""
    assert isinstance(exc, HTTPException)
    if exc.status_code in (404, 405):
        path = request.url.path
        return error_response(404, NotFound(f"Route {request.method}:{path} not found").answer())
    return error_response(exc.status_code, {"code": HandlerError.code, "error": str(exc.detail)})


async def bug(_request: Request, _exc: Exception) -> Response:
    """Anything else is a bug: the traceback goes to the log (Starlette raises it again), none of it to the caller."""
    return error_response(500, {"code": HandlerError.code, "error": "Internal error; the server's log says more."})


def error_response(status: int, body: dict[str, Any]) -> Response:
    return JsonResponse({"statusCode": status, **body}, status)
