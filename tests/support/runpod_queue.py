"""RunPod's queue, played by a small server: the URLs that its SDK takes jobs from, and sends results to."""

import asyncio
import contextlib
import json
import queue
import time
from collections.abc import Callable, Iterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.live import served

# The platform holds a poll open until there is something to say.
_POLL_S = 20


class RunPodQueue:
    """Jobs that are put in are taken by the worker, and its results come out.

    `progress` are the updates of running jobs, each of which takes `progress_s` to arrive; `overtaken` the jobs whose result did
    not arrive last. `asked` are the paths that the worker has called, with the time of the first call.
    """

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.stops: list[str] = []
        self.results: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        self.progress: list[tuple[float, str, dict[str, Any]]] = []
        self.progress_s = 0.0
        self.overtaken: list[str] = []
        self._ended: set[str] = set()
        self.asked: dict[str, float] = {}
        self.pings: list[dict[str, str]] = []
        self.url = ""

    @contextlib.contextmanager
    def running(self) -> Iterator["RunPodQueue"]:
        routes = [
            Route("/job-take/{worker}", self._take),
            Route("/job-take-batch/{worker}", self._take_batch),
            Route("/job-stop/{worker}", self._stop),
            Route("/job-done/{job}", self._done, methods=["POST"]),
            Route("/ping/{worker}", self._ping),
        ]
        with served(Starlette(routes=routes)) as self.url:
            yield self

    def env(self, **changes: str) -> dict[str, str]:
        """What the platform sets for a worker. The checks of the SDK's own, which look at this machine, are off."""
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{self.url}/job-take/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{self.url}/job-done/$ID?gpu=none",
            "RUNPOD_WEBHOOK_PING": f"{self.url}/ping/$RUNPOD_POD_ID",
            "RUNPOD_AI_API_KEY": "key",
            "RUNPOD_POD_ID": "pod-1",
            "RUNPOD_PING_INTERVAL": "1000",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
            **changes,
        }

    def taken(self, count: int, timeout_s: float = 60) -> dict[str, dict[str, Any]]:
        """The results of so many jobs, by id."""
        return dict(self.results.get(timeout=timeout_s) for _ in range(count))

    async def _poll(self, request: Request, waiting: Callable[[], list[Any]]) -> bool:
        self.asked.setdefault(request.url.path.split("/")[1], time.monotonic())
        end = time.monotonic() + _POLL_S
        while not waiting() and time.monotonic() < end and not await request.is_disconnected():
            await asyncio.sleep(0.01)
        return bool(waiting())

    async def _take(self, request: Request) -> Response:
        found = await self._poll(request, lambda: self.jobs)
        return _json(self.jobs.pop(0)) if found else Response(status_code=204)

    async def _take_batch(self, request: Request) -> Response:
        if not await self._poll(request, lambda: self.jobs):
            return Response(status_code=204)
        size = int(request.query_params["batch_size"])
        batch, self.jobs[:] = self.jobs[:size], self.jobs[size:]
        return _json(batch)

    async def _stop(self, request: Request) -> Response:
        if not await self._poll(request, lambda: self.stops):
            return Response(status_code=204)
        ids, self.stops[:] = self.stops[:], []
        return JSONResponse({"jobsToStop": ids})

    async def _done(self, request: Request) -> Response:
        job, body = request.path_params["job"], json.loads(await request.body())
        if body.get("status") == "IN_PROGRESS":
            await asyncio.sleep(self.progress_s)
            self.progress.append((time.monotonic(), job, body["output"]))
            self.overtaken += [job] if job in self._ended else []
        else:
            self._ended.add(job)
            self.results.put((job, body))
        return Response()

    async def _ping(self, request: Request) -> Response:
        self.pings.append(dict(request.query_params))
        return Response()


def _json(content: Any) -> Response:
    """As ASCII: jobs may hold lone surrogates."""
    return Response(json.dumps(content), media_type="application/json")
