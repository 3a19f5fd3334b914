"""What every route answers with: JSON."""

from typing import Any

from starlette.responses import Response

from handler.schemas.result import encoded


class JsonResponse(Response):
    """A value as JSON; bytes are JSON already. Starlette's own cannot write all that comes from ComfyUI (see `encoded`)."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return content if isinstance(content, bytes) else encoded(content)
