"""Turns errors into HTTP responses: {statusCode, code, error, location?, node_errors?}."""

import logging
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from emulator.http.responses import JsonResponse
from handler import errors
from handler.errors import HandlerError

logger = logging.getLogger(__name__)

# A class that is not listed has the status of its nearest base class.
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
    """The body did not arrive within BODY_TIMEOUT_S."""

    code = "BODY_TIMEOUT"
    retryable = True


class NotFound(HandlerError):
    code = "NOT_FOUND"


class Unauthorized(HandlerError):
    code = "UNAUTHORIZED"


class QueueFull(HandlerError):
    """QUEUE_LIMIT requests are waiting or running."""

    code = "QUEUE_FULL"
    retryable = True


_STATUS |= {BodyTimeout: 408, UnsupportedMediaType: 415, NotFound: 404, QueueFull: 429}
# A guess: it is not known how long the jobs ahead, or a start of ComfyUI, will take.
_RETRY_AFTER_S = 5


async def handler_error(request: Request, exc: Exception) -> Response:
    """The response for a HandlerError."""
    assert isinstance(exc, HandlerError)
    status = next(_STATUS[kind] for kind in type(exc).__mro__ if kind in _STATUS)
    logger.info("%s %s: %d %s: %s", request.method, request.url.path, status, exc.code, exc.message)
    response = error_response(status, exc.answer())
    if isinstance(exc, QueueFull | errors.ComfyUnreachable):
        response.headers["Retry-After"] = str(_RETRY_AFTER_S)
    return response


async def http_error(request: Request, exc: Exception) -> Response:
    """The response for Starlette's own errors. A wrong method is a 404, as in comfyui-api."""
    assert isinstance(exc, HTTPException)
    if exc.status_code in (404, 405):
        path = request.url.path
        return error_response(404, NotFound(f"Route {request.method}:{path} not found").answer())
    return error_response(exc.status_code, {"code": HandlerError.code, "error": str(exc.detail)})


async def bug(_request: Request, _exc: Exception) -> Response:
    """The response for any other exception. Starlette raises it again, so that the log has the traceback."""
    return error_response(500, errors.InternalError().answer())


def error_response(status: int, body: dict[str, Any]) -> Response:
    return JsonResponse({"statusCode": status, **body}, status)
