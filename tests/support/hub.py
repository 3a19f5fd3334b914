"""The part of the Hugging Face hub that uploads and fetches of files need, in memory."""

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.support.live import served

TOKEN = "hf_s3cret"
LARGE = 10_000
"""From this size on files go through LFS; on the hub itself by type and from 10 MB on."""


@dataclass
class Hub:
    """`files` is by kind, repository, revision and path; `seen` are the requests; `statuses` the next answers to commits.

    Contents are given out by `storage`, another server, to which the hub redirects.
    """

    url: str = ""
    storage: str = ""
    files: dict[tuple[str, str, str, str], bytes] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    seen: list[Request] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    @contextlib.contextmanager
    def running(self) -> Iterator["Hub"]:
        api, repo = "/api/{kind}/{owner}/{name}", "/{owner}/{name}"
        routes = [
            Route(f"{api}/preupload/{{revision:path}}", self._preupload, methods=["POST"]),
            Route(f"{api}/commit/{{revision:path}}", self._commit, methods=["POST"]),
            Route(f"{api}/revision/{{revision:path}}", self._info),
        ]
        for kind, prefix in (("datasets", "/datasets"), ("models", "")):
            batch = f"{prefix}{repo}.git/info/lfs/objects/batch"
            routes += [
                Route(batch, self._batch, methods=["POST"]),
                Route(f"{prefix}{repo}/resolve/{{revision}}/{{path:path}}", self._resolve, name=kind),
            ]
        contents = [Route("/{oid}", self._put, methods=["PUT"]), Route("/{oid}", self._get)]
        with served(Starlette(routes=routes)) as self.url, served(Starlette(routes=contents)) as self.storage:
            yield self

    def _refused(self, request: Request) -> Response | None:
        self.seen.append(request)
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return JSONResponse({"error": "Invalid username or password."}, 401)
        if request.path_params["owner"] != "a":
            return JSONResponse({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        return None

    async def _preupload(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        return JSONResponse(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["size"] >= LARGE else "regular",
                        "shouldIgnore": False,
                    }
                    for file in (await request.json())["files"]
                ]
            }
        )

    async def _batch(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.storage}/{one['oid']}"}}}
            for one in (await request.json())["objects"]
        ]
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def _commit(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        if self.statuses:
            return JSONResponse({"error": "A commit has happened since."}, self.statuses.pop(0))
        for line in (await request.body()).splitlines():
            entry: dict[str, Any] = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                self.files[self._place(request, value["path"])] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                self.files[self._place(request, value["path"])] = self.large[value["oid"]]
        oid = "0" * 40
        return JSONResponse({"commitUrl": f"{self.url}/a/b/commit/{oid}", "commitOid": oid})

    async def _info(self, request: Request) -> Response:
        return self._refused(request) or JSONResponse({"id": "a/b", "sha": "0" * 40})

    async def _resolve(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        kind = "datasets" if request.url.path.startswith("/datasets/") else "models"
        place = self._place(request, request.path_params["path"], kind)
        if place not in self.files:
            return JSONResponse({"error": "Entry not found"}, 404)
        oid = hashlib.sha256(self.files[place]).hexdigest()
        self.large[oid] = self.files[place]
        return RedirectResponse(f"{self.storage}/{oid}", 302)

    async def _put(self, request: Request) -> Response:
        self.seen.append(request)
        body = await request.body()
        oid = request.path_params["oid"]
        if hashlib.sha256(body).hexdigest() != oid:
            return Response(status_code=400)
        self.large[oid] = body
        return Response()

    async def _get(self, request: Request) -> Response:
        self.seen.append(request)
        return Response(self.large[request.path_params["oid"]])

    @staticmethod
    def _place(request: Request, path: str, kind: str = "") -> tuple[str, str, str, str]:
        params = request.path_params
        return kind or params["kind"], f"{params['owner']}/{params['name']}", params["revision"], path
