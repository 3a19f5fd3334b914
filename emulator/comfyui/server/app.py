"""The routes, as in ComfyUI's server.py."""

# ruff: noqa: ARG001, ARG002 - each endpoint takes the request

import json
import logging
import urllib.parse
import uuid
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route, Router, WebSocketRoute
from starlette.websockets import WebSocket

from emulator.comfyui.execution import FREE_MEMORY, validate, validation_error
from emulator.comfyui.nodes import object_info
from emulator.comfyui.server.faults import FAULTS
from emulator.comfyui.server.middleware import RequestGuard
from emulator.comfyui.server.prompt_server import PromptServer
from emulator.comfyui.server.sockets import FEATURES
from emulator.comfyui.server.uploads import store_image, store_mask
from emulator.comfyui.server.view import view_file

logger = logging.getLogger(__name__)

INTERNAL_ERROR = "500 Internal Server Error\n\nServer got itself in trouble"
# ComfyUI does not check its input; an invalid request raises one of these and is answered with 500
UNHANDLED_ERRORS = (ValueError, TypeError, LookupError, AttributeError, RecursionError, OSError)
PAGE = "<!doctype html><title>ComfyUI stand-in</title><p>A stand-in for ComfyUI: it draws pictures and runs no model."
# the front end's requests, with the answers of an empty installation
CONSTANTS: dict[str, Any] = {
    "/features": FEATURES,
    "/extensions": [],
    "/users": {"storage": "server", "migrated": True},
    "/settings": {},
    "/workflow_templates": {},
    "/i18n": {},
}

Endpoint = Callable[[Request], Awaitable[Response]]


class Json(Response):
    """JSON as aiohttp writes it."""

    media_type = "application/json; charset=utf-8"

    def render(self, content: Any) -> bytes:
        return json.dumps(content).encode()


def create_app(base: Path, step_seconds: float, extra_model_paths: Iterable[Path] = ()) -> Starlette:
    server = PromptServer(base, step_seconds, extra_model_paths)
    api = Api(server)
    routes = api.routes()
    faults = Route("/emulator/{name}", api.fault, methods=["POST"])
    internal = Route("/internal/folder_paths", api.folder_paths, methods=["GET"])
    app = Starlette(
        routes=[Mount("/api", app=Router(routes, redirect_slashes=False)), *routes, internal, faults],
        middleware=[Middleware(RequestGuard)],
        exception_handlers={404: not_found, 405: not_found, **dict.fromkeys(UNHANDLED_ERRORS, internal_error)},
        lifespan=lambda _: server.running(),
    )
    app.router.redirect_slashes = False
    return app


class Api:
    def __init__(self, server: PromptServer) -> None:
        self.server = server
        self.prompts = server.prompts
        self.folders = server.folders

    def routes(self) -> list[BaseRoute]:
        table: dict[tuple[str, str], Endpoint] = {
            ("GET", "/"): self.page,
            ("GET", "/index.html"): self.page,
            ("GET", "/prompt"): self.get_prompt,
            ("POST", "/prompt"): self.post_prompt,
            ("GET", "/queue"): self.get_queue,
            ("POST", "/queue"): self.post_queue,
            ("POST", "/interrupt"): self.interrupt,
            ("POST", "/free"): self.free,
            ("GET", "/history"): self.get_history,
            ("POST", "/history"): self.post_history,
            ("GET", "/history/{prompt_id}"): self.get_history_entry,
            ("GET", "/view"): self.view,
            ("POST", "/upload/image"): self.upload_image,
            ("POST", "/upload/mask"): self.upload_mask,
            ("GET", "/object_info"): self.all_object_info,
            ("GET", "/object_info/{class_type}"): self.one_object_info,
            ("GET", "/models"): self.kinds_of_models,
            ("GET", "/models/{folder}"): self.models,
            ("GET", "/embeddings"): self.embeddings,
            ("GET", "/system_stats"): self.system_stats,
            ("GET", "/ws"): self.websocket_without_upgrade,
        }
        http = [Route(path, endpoint, methods=[method]) for (method, path), endpoint in table.items()]
        constants = [Route(path, constant_endpoint(answer), methods=["GET"]) for path, answer in CONSTANTS.items()]
        return [*http, *constants, WebSocketRoute("/ws", self.websocket)]

    async def page(self, request: Request) -> Response:
        return HTMLResponse(PAGE)

    async def get_prompt(self, request: Request) -> Response:
        return Json(self.prompts.remaining())

    async def post_prompt(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.server.hub.drop_if_at("post")
        if "number" in body:
            number: float = float(body["number"])
        else:
            number = self.server.next_number(front="front" in body and bool(body["front"]))
        if "prompt" not in body:
            error = validation_error("no_prompt", "No prompt provided", "No prompt provided")
            return Json({"error": error, "node_errors": {}}, 400)
        graph = body["prompt"]
        prompt_id = str(body.get("prompt_id", uuid.uuid4()))
        checked = validate(graph, body.get("partial_execution_targets"), self.server.nodes, self.folders)
        if checked.error is not None:
            return Json({"error": checked.error, "node_errors": checked.node_errors}, 400)
        extra_data = dict(body.get("extra_data", {}))
        if "client_id" in body:
            extra_data["client_id"] = body["client_id"]
        self.prompts.put((number, prompt_id, graph, extra_data, checked.outputs))
        self.server.hub.drop_if_at("queued")
        return Json({"prompt_id": prompt_id, "number": number, "node_errors": checked.node_errors})

    async def get_queue(self, request: Request) -> Response:
        running, pending = self.prompts.listing()
        return Json({"queue_running": running, "queue_pending": pending})

    async def post_queue(self, request: Request) -> Response:
        body = json.loads(await request.body())
        if body.get("clear"):
            self.prompts.clear()
        for prompt_id in body.get("delete", []):
            self.prompts.delete(prompt_id)
        return Response()

    async def interrupt(self, request: Request) -> Response:
        try:
            body = json.loads(await request.body())
        except ValueError:
            body = {}
        wanted = body.get("prompt_id")
        running, _ = self.prompts.listing()
        if not wanted or any(entry[1] == wanted for entry in running):
            self.server.executor.interrupt.set()
        return Response()

    async def free(self, request: Request) -> Response:
        body = json.loads(await request.body())
        if body.get("free_memory"):
            self.prompts.set_flag(FREE_MEMORY)
        return Response()

    async def get_history(self, request: Request) -> Response:
        query = request.query_params
        max_items = int(query["max_items"]) if "max_items" in query else None
        return Json(self.prompts.history(max_items, int(query.get("offset", -1))))

    async def post_history(self, request: Request) -> Response:
        body = json.loads(await request.body())
        if body.get("clear"):
            self.prompts.clear_history()
        for prompt_id in body.get("delete", []):
            self.prompts.forget(prompt_id)
        return Response()

    async def get_history_entry(self, request: Request) -> Response:
        return Json(self.prompts.history_entry(decode_last_segment(request)))

    async def view(self, request: Request) -> Response:
        return await view_file(request, self.folders)

    async def upload_image(self, request: Request) -> Response:
        async with request.form() as form:
            stored = await store_image(form, self.folders)
        return Response(status_code=400) if stored is None else Json(stored)

    async def upload_mask(self, request: Request) -> Response:
        async with request.form() as form:
            stored = await store_mask(form, self.folders)
        return Response(status_code=400) if stored is None else Json(stored)

    async def all_object_info(self, request: Request) -> Response:
        nodes = self.server.nodes.items()
        return Json({class_type: object_info(class_type, cls, self.folders) for class_type, cls in nodes})

    async def one_object_info(self, request: Request) -> Response:
        class_type = decode_last_segment(request)
        cls = self.server.nodes.get(class_type)
        return Json({} if cls is None else {class_type: object_info(class_type, cls, self.folders)})

    async def kinds_of_models(self, request: Request) -> Response:
        return Json(list(self.folders.paths))

    async def models(self, request: Request) -> Response:
        folder = request.path_params["folder"]
        return Json(self.folders.models(folder)) if folder in self.folders.paths else Response(status_code=404)

    async def folder_paths(self, request: Request) -> Response:
        return Json({kind: list(map(str, folders)) for kind, folders in self.folders.paths.items()})

    async def embeddings(self, request: Request) -> Response:
        return Json([name.rpartition(".")[0] for name in self.folders.models("embeddings")])

    async def system_stats(self, request: Request) -> Response:
        return Json(self.server.system_stats())

    async def websocket_without_upgrade(self, request: Request) -> Response:
        return PlainTextResponse('No WebSocket UPGRADE hdr: None\n Can "Upgrade" only to "WebSocket".', 400)

    async def websocket(self, websocket: WebSocket) -> None:
        await self.server.hub.serve(websocket)

    async def fault(self, request: Request) -> Response:
        name = request.path_params["name"]
        arguments = json.loads(await request.body() or b"{}")
        return Json(FAULTS[name](self.server, **arguments)) if name in FAULTS else Response(status_code=404)


def constant_endpoint(answer: Any) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return Json(answer)

    return endpoint


def decode_last_segment(request: Request) -> str:
    """The last part of the path. It is decoded here, because an id may contain a "/", sent as %2F."""
    raw: bytes = request.scope["raw_path"]
    return urllib.parse.unquote(raw.partition(b"?")[0].rpartition(b"/")[2].decode())


async def not_found(request: Request, exc: Exception) -> Response:
    """As in ComfyUI: 404 for a GET, which looks for a static file; 405 for other methods."""
    if request.method in ("GET", "HEAD"):
        return Response(status_code=404, media_type="application/octet-stream")
    return PlainTextResponse("405: Method Not Allowed", 405)


async def internal_error(request: Request, exc: Exception) -> Response:
    logger.warning("%s %s: %r", request.method, request.url.path, exc)
    return PlainTextResponse(INTERNAL_ERROR, HTTPStatus.INTERNAL_SERVER_ERROR)
