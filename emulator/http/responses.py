"""JSON responses."""

from typing import Any

from starlette.responses import Response

from handler import json_codec


class JsonResponse(Response):
    """A response with a value as JSON, or with bytes that are JSON already.

    Starlette's own cannot write everything that ComfyUI sends; see `json_codec.encode`.
    """

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return content if isinstance(content, bytes) else json_codec.encode(content)
