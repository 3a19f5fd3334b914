"""GET /health, /ready and /models."""

from starlette.requests import Request
from starlette.responses import Response

from emulator.adapter import Adapter
from emulator.http.responses import JsonResponse
from handler import HandlerError, __version__


async def health(request: Request) -> Response:
    """Healthy once warm; it stays so while the server lives, even when ComfyUI does not."""
    door: Adapter = request.app.state.door
    return _status(200, "healthy") if door.host.warm else _status(500, "not healthy")


async def ready(request: Request) -> Response:
    """Ready to take prompts: warm and not about to end, with a ComfyUI that answers, and below MAX_QUEUE_DEPTH."""
    door: Adapter = request.app.state.door
    good = door.host.ready and not door.closing and await door.ask(lambda: _has_room(door))
    return _status(200, "ready") if good else _status(503, "not ready")


async def models(request: Request) -> Response:
    """The names in each model folder, as ComfyUI sees them now."""
    door: Adapter = request.app.state.door
    return JsonResponse(await door.ask(door.service.comfy.models))


def _has_room(door: Adapter) -> bool:
    comfy, limit = door.service.comfy, door.service.settings.max_queue_depth
    try:
        depth = max(door.pending, comfy.queue_remaining())
    except HandlerError:
        return False
    return limit == 0 or depth < limit


def _status(status: int, word: str) -> Response:
    return JsonResponse({"version": __version__, "status": word}, status)
