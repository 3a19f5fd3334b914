"""GET /docs (Swagger UI, without the internet), /docs/json and /docs/yaml."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from emulator.adapter import Adapter
from emulator.http import JsonResponse
from emulator.routes import openapi


def _find_swagger_ui() -> Path:
    """The folder of Swagger UI's files. Their package is not imported, because that would import FastAPI."""
    spec = find_spec("fastapi_swagger")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("fastapi-swagger, which ships Swagger UI, is not installed")
    return Path(spec.submodule_search_locations[0]) / "resources"


SWAGGER_UI = _find_swagger_ui()

# Relative URLs, so that the page works behind a gateway that adds a path prefix.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>ComfyUI API</title>
<link rel="icon" type="image/png" href="docs/static/favicon-32x32.png">
<link rel="stylesheet" href="docs/static/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/static/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({
  url: "docs/json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  presets: [SwaggerUIBundle.presets.apis],
});
</script>
</body>
</html>
"""


def routes() -> list[BaseRoute]:
    """The routes under /docs."""
    return [
        Route("/docs", page),
        Route("/docs/json", as_json),
        Route("/docs/yaml", as_yaml),
        Mount("/docs/static", StaticFiles(directory=SWAGGER_UI)),
    ]


async def page(_request: Request) -> Response:
    return HTMLResponse(_PAGE)


async def as_json(request: Request) -> Response:
    return JsonResponse(await _document(request))


async def as_yaml(request: Request) -> Response:
    text = yaml.safe_dump(await _document(request), sort_keys=False, allow_unicode=True)
    return Response(text, media_type="application/yaml")


async def _document(request: Request) -> dict[str, Any]:
    """Built for each request, so that it has ComfyUI's current lists."""
    adapter: Adapter = request.app.state.adapter
    return await adapter.ask(lambda: openapi.openapi_document(adapter.service))
