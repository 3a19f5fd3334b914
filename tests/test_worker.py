"""The RunPod worker: `python -m handler` in the SDK's own loop, against a small server that plays RunPod's queue."""

import asyncio
import json
import queue
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests import graphs
from tests.live import served
from tests.test_process import WARMUP, comfyui_processes, environment, running

Results = queue.Queue[tuple[str, dict[str, Any]]]


class RunPod:
    """RunPod's queue: jobs that are put in are taken by the worker, and its results come out."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.results: Results = queue.Queue()
        self.url = ""

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/job-take/{worker}", self._take),
                Route("/job-done/{job}", self._done, methods=["POST"]),
                Route("/{rest:path}", self._nothing),
            ]
        )

    def env(self) -> dict[str, str]:
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{self.url}/job-take/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{self.url}/job-done/$ID?gpu=none",
            "RUNPOD_DISABLE_FITNESS_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
        }

    async def _take(self, _request: Request) -> Response:
        if self.jobs:
            return JSONResponse(self.jobs.pop(0))
        await asyncio.sleep(0.05)
        return Response(status_code=204)

    async def _done(self, request: Request) -> Response:
        self.results.put((request.path_params["job"], json.loads(await request.body())))
        return Response()

    async def _nothing(self, _request: Request) -> Response:
        await asyncio.sleep(0.5)
        return Response(status_code=204)


@pytest.fixture
def runpod() -> Iterator[RunPod]:
    played = RunPod()
    with served(played.app()) as url:
        played.url = url
        yield played


def test_jobs_run_through_the_sdk_s_loop(runpod: RunPod, tmp_path: Path) -> None:
    runpod.jobs = [
        {"id": "job-1", "input": {"prompt": graphs.txt2img()}},
        {"id": "job-2", "input": {"workflow": "flux/txt2img", "input": {"prompt": "a", "width": 256, "height": 256}}},
        {"id": "job-3", "input": {"prompt": graphs.changed(graphs.txt2img(), "30", ckpt_name="none")}},
        {"id": "job-4", "input": {"prompt": "text"}},
    ]
    env = environment(tmp_path, WARMUP_PROMPT_FILE=str(WARMUP), **runpod.env())
    with running("handler", env) as worker:
        results = dict(runpod.results.get(timeout=30) for _ in range(4))
        worker.child.send_signal(signal.SIGTERM)
        assert worker.wait() == 0
    assert results["job-1"]["output"]["filenames"] == ["job-1_Flux_00001_.png"]
    assert graphs.opened(results["job-1"]["output"]["images"][0]).size == (64, 64)
    assert results["job-2"]["output"]["input"]["width"] == 256
    assert results["job-3"]["output"]["code"] == "PROMPT_REJECTED"
    assert results["job-3"]["output"]["location"] == "prompt.30.inputs.ckpt_name"
    assert results["job-3"]["error"].startswith("Node 30 (CheckpointLoaderSimple): ckpt_name 'none'")
    assert results["job-4"]["output"] == {"code": "BAD_REQUEST", "location": "prompt"}
    assert comfyui_processes(tmp_path) == []


def test_a_test_input_runs_and_ends(tmp_path: Path) -> None:
    event = {"input": {"prompt": graphs.txt2img(), "id": "once"}}
    with running("handler", environment(tmp_path), "--test_input", json.dumps(event)) as worker:
        assert worker.wait() == 0
        assert "once_Flux_00001_.png" in worker.text()
    assert comfyui_processes(tmp_path) == []


def test_a_test_input_that_fails_ends_with_an_error(tmp_path: Path) -> None:
    event: dict[str, Any] = {"input": {"prompt": {}}}
    with running("handler", environment(tmp_path), "--test_input", json.dumps(event)) as worker:
        assert worker.wait() == 1
        assert "nothing to save" in worker.text()
        assert "Traceback" not in worker.text()


def test_a_bad_configuration_ends_the_start_with_one_line(tmp_path: Path) -> None:
    with running("handler", environment(tmp_path, COMFYUI_INFLIGHT="0")) as worker:
        assert worker.wait() == 1
        assert "cannot start: COMFYUI_INFLIGHT='0'" in worker.text()
