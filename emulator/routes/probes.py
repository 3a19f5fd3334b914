"""GET /health, /ready and /models."""

from starlette.requests import Request
from starlette.responses import Response

from emulator.adapter import Adapter
from emulator.http import JsonResponse
from handler import HandlerError, __version__


async def health(request: Request) -> Response:
    """Healthy once warm; it stays so while the server lives, even when ComfyUI does not."""
    adapter: Adapter = request.app.state.adapter
    return _status(200, "healthy") if adapter.lifecycle.warm else _status(500, "not healthy")


async def ready(request: Request) -> Response:
    """Ready to take prompts: warm and not about to end, with a ComfyUI that answers, and below MAX_QUEUE_DEPTH."""
    adapter: Adapter = request.app.state.adapter
    good = adapter.lifecycle.ready and not adapter.closing and await adapter.ask(lambda: _has_room(adapter))
    return _status(200, "ready") if good else _status(503, "not ready")


async def models(request: Request) -> Response:
    """The names in each model folder, as ComfyUI sees them now."""
    adapter: Adapter = request.app.state.adapter
    return JsonResponse(await adapter.ask(adapter.service.comfy.models))


def _has_room(adapter: Adapter) -> bool:
    comfy, limit = adapter.service.comfy, adapter.service.settings.max_queue_depth
    try:
        depth = max(adapter.pending, comfy.queue_remaining())
    except HandlerError:
        return False
    return limit == 0 or depth < limit


def _status(status: int, word: str) -> Response:
    return JsonResponse({"version": __version__, "status": word}, status)
