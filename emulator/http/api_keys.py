"""The check of API_KEYS."""

from hmac import compare_digest

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from emulator.http.errors import Unauthorized, error_response
from handler import Settings

# Platforms probe these paths without a key.
_OPEN_PATHS = ("/health", "/ready", "/metrics")


class ApiKeyMiddleware:
    """Answers 401 unless a request has one of the keys, as `Salad-Api-Key` or as a bearer token. Probes need no key."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        given = settings.api_keys.get_secret_value() if settings.api_keys else ""
        keys = [key.strip() for key in given.split(",") if key.strip()]
        # A header is bytes: some clients encode it as UTF-8, others as Latin-1 if that has all characters.
        self._keys = [key.encode() for key in keys]
        self._keys += [key.encode("latin-1") for key in keys if max(key) <= "\xff" and not key.isascii()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] != "http"
            or not self._keys
            or scope["path"] in _OPEN_PATHS
            or self._is_authorized(Headers(scope=scope))
        ):
            await self._app(scope, receive, send)
            return
        error = Unauthorized("This server needs an API key, as Salad-Api-Key or as Authorization: Bearer.")
        await error_response(401, error.answer())(scope, receive, send)

    def _is_authorized(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        shown = [headers.get("salad-api-key", ""), token.strip() if scheme.lower() == "bearer" else ""]
        # Compare each with all, in constant time, so that the time reveals nothing about the keys.
        found = [compare_digest(one.encode("latin-1"), key) for one in shown for key in self._keys]
        return True in found
