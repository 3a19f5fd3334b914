"""HTTP below the routes: bodies, errors, responses, API keys, header time-out. For the rest of the API, not for the stand-in."""

from emulator.http import errors
from emulator.http.api_keys import ApiKeyMiddleware
from emulator.http.bodies import media_type, parse_json, read_form, read_json_body
from emulator.http.errors import QueueFull
from emulator.http.header_timeout import HeaderTimeoutProtocol
from emulator.http.responses import JsonResponse

__all__ = [
    "ApiKeyMiddleware",
    "HeaderTimeoutProtocol",
    "JsonResponse",
    "QueueFull",
    "errors",
    "media_type",
    "parse_json",
    "read_form",
    "read_json_body",
]
