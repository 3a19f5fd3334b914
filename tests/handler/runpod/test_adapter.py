"""The RunPod worker: `python -m handler` in the SDK's own loop, against a small server that plays RunPod's queue."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support import graphs
from tests.support.live import served
from tests.support.processes import WARMUP, comfyui_processes, environment, running
from tests.support.runpod_queue import RunPodQueue
from tests.support.waiting import wait_until


@pytest.fixture
def runpod() -> Iterator[RunPodQueue]:
    with RunPodQueue().running() as played:
        yield played


class Store:
    """A web server that does not answer to what is uploaded, until it ends."""

    def __init__(self) -> None:
        self.url = ""
        self.asked = self.ended = False

    async def hold(self, _: Request) -> Response:
        self.asked = True
        while not self.ended:
            await asyncio.sleep(0.05)
        return Response()


@pytest.fixture
def store() -> Iterator[Store]:
    played = Store()
    with served(Starlette(routes=[Route("/{name}", played.hold, methods=["PUT"])])) as played.url:
        yield played
        played.ended = True


def files(home: Path) -> list[Path]:
    """What is left of jobs."""
    return [path for folder in ("input", "output") for path in (home / folder).iterdir() if path.is_dir()]


def inside(env: dict[str, str]) -> int:
    """How many prompts ComfyUI has."""
    queue = requests.get(f"http://127.0.0.1:{env['COMFYUI_PORT_HOST']}/prompt", timeout=30).json()
    return int(queue["exec_info"]["queue_remaining"])


def job(name: str, prompt: graphs.Graph) -> dict[str, Any]:
    return {"id": name, "input": {"workflow": prompt}}


BAD: list[Any] = [
    None,
    [],
    "text",
    '"text"',
    {"workflow": {"nodes": []}},
    {"workflow": graphs.empty(), "images": [1]},
    "[" * 20000,
]


def test_jobs_run_through_the_sdk_s_loop(runpod: RunPodQueue, tmp_path: Path) -> None:
    runpod.jobs = [
        {"id": "job-1", "input": {"prompt": graphs.txt2img()}},
        {"id": "job-2", "input": {"workflow": "flux/txt2img", "input": {"prompt": "a", "width": 256, "height": 256}}},
        {"id": "job-3", "input": {"prompt": graphs.changed(graphs.txt2img(), "30", ckpt_name="none")}},
        {"id": "job-4", "input": json.dumps({"workflow": graphs.empty()})},
        {"id": "job-5", "input": {"prompt": graphs.txt2img("a \ud800 fox")}},
        {"id": "job-6", "input": {"prompt": graphs.changed(graphs.txt2img(), "30", ckpt_name="caf.safetensors")}},
        *({"id": f"bad-{n}", "input": given} for n, given in enumerate(BAD)),
    ]
    # A name in Latin-1 is no text: Python has half of a character for what it cannot read, which the SDK cannot send.
    models = tmp_path / "models/checkpoints"
    models.mkdir(parents=True)
    for name in ("flux1-schnell-fp8.safetensors", os.fsdecode(b"caf\xe9.safetensors")):
        (models / name).touch()
    env = environment(tmp_path, WARMUP_PROMPT_FILE=str(WARMUP), RUNPOD_CONCURRENCY="4", **runpod.env())
    with running("handler", env) as worker:
        results = runpod.taken(6 + len(BAD))
        worker.child.send_signal(signal.SIGTERM)
        assert worker.wait() == 0
    assert results["job-1"]["output"]["filenames"] == ["job-1_Flux_00001_.png"]
    assert graphs.opened(results["job-1"]["output"]["images"][0]).size == (64, 64)
    assert results["job-2"]["output"]["input"]["width"] == 256
    assert results["job-3"]["output"]["code"] == "PROMPT_REJECTED"
    assert results["job-3"]["output"]["location"] == "prompt.30.inputs.ckpt_name"
    assert results["job-3"]["error"].startswith("Node 30 (CheckpointLoaderSimple): ckpt_name 'none'")
    assert results["job-4"]["output"]["images"][0]["filename"] == "E_00001_.png"
    assert results["job-5"]["output"]["code"] == "BAD_REQUEST"
    assert results["job-5"]["error"].startswith("The input cannot be written as JSON")
    assert results["job-6"]["output"]["code"] == "PROMPT_REJECTED"
    assert "caf?.safetensors" in json.dumps(results["job-6"]["output"]["node_errors"])
    for n in range(len(BAD)):
        bad = results[f"bad-{n}"]
        assert (bad["output"]["code"], "\n" in bad["error"]) == ("BAD_REQUEST", False)
        assert "Traceback" not in json.dumps(bad)
    assert "job-take-batch" in runpod.asked
    assert runpod.pings
    assert comfyui_processes(tmp_path) == []
    assert files(tmp_path) == []


def test_a_job_that_runpod_stops_is_interrupted_and_leaves_nothing(runpod: RunPodQueue, tmp_path: Path) -> None:
    env = environment(tmp_path, RUNPOD_CONCURRENCY="3", COMFYUI_INFLIGHT="1", **runpod.env())
    with running("handler", env) as worker:
        runpod.jobs = [job("running", graphs.long(seed=1))]
        wait_until(lambda: "job-take-batch" in runpod.asked and inside(env) == 1)
        runpod.jobs = [job("waiting", graphs.long(seed=2)), job("last", graphs.empty())]
        wait_until(lambda: worker.text().count("Started.") == 3)
        runpod.stops += ["waiting"]
        wait_until(lambda: "Job stopped." in worker.text())
        runpod.stops += ["running"]
        wait_until(lambda: worker.text().count("Job stopped.") == 2)
        assert runpod.taken(1).keys() == {"last"}
        worker.child.send_signal(signal.SIGTERM)
        assert worker.wait() == 0
    assert runpod.results.empty()
    assert files(tmp_path) == []


def test_sigterm_reaches_the_jobs(runpod: RunPodQueue, tmp_path: Path) -> None:
    """The SDK itself would wait for them, and then for its poll of the queue."""
    env = environment(tmp_path, RUNPOD_CONCURRENCY="2", COMFYUI_INFLIGHT="1", **runpod.env())
    with running("handler", env) as worker:
        runpod.jobs = [job("running", graphs.long(seed=1)), job("waiting", graphs.long(seed=2))]
        wait_until(lambda: worker.text().count("Started.") == 2 and inside(env) == 1)
        worker.child.send_signal(signal.SIGTERM)
        results = runpod.taken(2)
        assert worker.wait() == 0
    assert {result["output"]["code"] for result in results.values()} == {"SERVER_STOPPED"}
    assert comfyui_processes(tmp_path) == []
    assert files(tmp_path) == []


def test_with_a_grace_jobs_finish_after_sigterm(runpod: RunPodQueue, tmp_path: Path) -> None:
    env = environment(tmp_path, SHUTDOWN_GRACE_S="20", **runpod.env())
    with running("handler", env) as worker:
        runpod.jobs = [job("running", graphs.sleep(1.5))]
        wait_until(lambda: "Started." in worker.text() and inside(env) == 1)
        worker.child.send_signal(signal.SIGTERM)
        assert runpod.taken(1)["running"]["output"]["images"]
        assert worker.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_comfyui_starts_leaves_nothing(runpod: RunPodQueue, tmp_path: Path, number: int) -> None:
    command = f"{sys.executable} -c 'import time; time.sleep(60)' {tmp_path}"
    env = environment(tmp_path, CMD=command, STARTUP_CHECK_MAX_TRIES="60", **runpod.env())
    with running("handler", env) as worker:
        wait_until(lambda: len(comfyui_processes(tmp_path)) == 1)
        worker.child.send_signal(number)
        assert worker.wait() == 0, worker.text()
        assert "Traceback" not in worker.text()
    assert comfyui_processes(tmp_path) == []


def test_progress_is_told_twice_a_second_at_most(runpod: RunPodQueue, tmp_path: Path) -> None:
    env = environment(tmp_path, **runpod.env())
    graph = graphs.txt2img(steps=100)
    runpod.jobs = [{"id": "slow", "input": {"prompt": graph}}]
    with running("handler", env):
        assert runpod.taken(1)["slow"]["output"]["images"]
    told = [progress for _, _, progress in runpod.progress]
    assert {"preparing", "running"} <= {progress["phase"] for progress in told}
    steps = [progress for progress in told if progress.get("node") == "31" and progress.get("of") == 100]
    assert steps
    assert [progress["step"] for progress in steps] == sorted(progress["step"] for progress in steps)
    percents = [progress["percent"] for progress in told]
    assert percents == sorted(percents)
    assert 0 <= percents[0] <= percents[-1] <= 100
    stats = sum(1 for _ in told)
    spent = runpod.progress[-1][0] - runpod.progress[0][0]
    assert stats <= spent / 0.5 + 5


def test_the_result_arrives_after_the_progress(runpod: RunPodQueue, tmp_path: Path) -> None:
    """RunPod showed ended jobs as IN_PROGRESS: the SDK sends each update on a thread and a connection of its own."""
    runpod.progress_s = 0.3
    runpod.jobs = [{"id": f"job-{n}", "input": {"prompt": graphs.txt2img(steps=20 + 7 * n)}} for n in range(4)]
    with running("handler", environment(tmp_path, RUNPOD_CONCURRENCY="2", **runpod.env())):
        runpod.taken(4)
        time.sleep(0.5)
    assert runpod.progress
    assert runpod.overtaken == []


@pytest.mark.parametrize("dies", ["worker", "comfyui"])
def test_at_the_end_all_jobs_are_answered_and_none_is_taken(
    runpod: RunPodQueue, tmp_path: Path, store: Store, dies: str
) -> None:
    """A job in an upload that nobody can end got no result, and the worker took and failed others while it waited for it."""
    env = environment(tmp_path, RUNPOD_CONCURRENCY="3", ALLOW_PRIVATE_URLS="true", **runpod.env())
    with running("handler", env) as worker:
        uploading = {"prompt": graphs.empty(), "http_upload": {"url_prefix": store.url}}
        runpod.jobs = [{"id": "uploading", "input": uploading}]
        wait_until(lambda: store.asked)
        runpod.jobs = [job("running", graphs.long())]
        wait_until(lambda: inside(env) == 1)
        code = {"worker": "SERVER_STOPPED", "comfyui": "COMFYUI_CRASHED"}[dies]
        if dies == "worker":
            worker.child.send_signal(signal.SIGTERM)
        else:
            os.kill(comfyui_processes(tmp_path)[0], signal.SIGKILL)
        wait_until(lambda: not runpod.results.empty())
        # One poll may have been under way.
        runpod.jobs = [job(f"next-{n}", graphs.empty()) for n in range(10)]
        assert (worker.wait() == 0) == (dies == "worker")
    results = dict(runpod.results.get() for _ in range(runpod.results.qsize()))
    assert {"uploading", "running"} <= results.keys()
    assert len(results) + len(runpod.jobs) == 12
    assert len(runpod.jobs) >= 9
    assert results["running"]["output"] == {"code": code}
    assert {result["output"]["code"] for result in results.values()} == {code}
    assert {result.get("stopPod", False) for result in results.values()} == {dies == "comfyui"}
    assert comfyui_processes(tmp_path) == []


def test_an_idle_worker_whose_comfyui_dies_ends(runpod: RunPodQueue, tmp_path: Path) -> None:
    env = environment(tmp_path, **runpod.env())
    with running("handler", env) as worker:
        wait_until(lambda: "job-take" in runpod.asked)
        os.kill(comfyui_processes(tmp_path)[0], signal.SIGKILL)
        assert worker.wait() not in (0, None)
        assert "ComfyUI ended, and so does this worker" in worker.text()


def test_a_worker_that_lost_its_gpu_takes_itself_out(runpod: RunPodQueue, tmp_path: Path) -> None:
    graph = graphs.empty()
    graph["3"] = {"class_type": "EmulatorFail", "inputs": {"message": "x", "kind": "gpu lost", "image": ["1", 0]}}
    graph["2"]["inputs"]["images"] = ["3", 0]
    runpod.jobs = [job("lost", graph)]
    with running("handler", environment(tmp_path, **runpod.env())) as worker:
        result = runpod.taken(1)["lost"]
        assert worker.wait() not in (0, None)
    assert (result["output"]["code"], result["stopPod"]) == ("PROMPT_FAILED", True)
    assert "CUDA error" in result["error"]


def test_refresh_worker_lets_the_other_jobs_finish(runpod: RunPodQueue, tmp_path: Path) -> None:
    env = environment(tmp_path, REFRESH_WORKER="true", RUNPOD_CONCURRENCY="2", **runpod.env())
    with running("handler", env) as worker:
        runpod.jobs = [job("short", graphs.empty()), job("long", graphs.sleep(2)), job("next", graphs.empty())]
        results = runpod.taken(2)
        assert worker.wait() == 0
    assert [one["id"] for one in runpod.jobs] == ["next"]
    assert [results[name]["output"]["images"][0]["type"] for name in ("short", "long")] == ["base64", "base64"]
    # In the order of their ends, which ComfyUI's queue decides.
    assert [result.get("stopPod", False) for result in results.values()] == [False, True]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"INPUT_DIR": "/proc/self"}, "/proc/self cannot take a file of 16 MB"),
        ({"CMD": "{stand_in}"}, "ComfyUI found no GPU"),
    ],
)
def test_an_unfit_worker_takes_no_jobs(runpod: RunPodQueue, tmp_path: Path, changes: dict[str, str], says: str) -> None:
    env = environment(tmp_path, **runpod.env())
    stand_in = f"{sys.executable} -m emulator.comfyui --port {env['COMFYUI_PORT_HOST']} --base-dir {tmp_path}"
    changes = {name: value.format(stand_in=stand_in) for name, value in changes.items()}
    with running("handler", env | changes) as worker:
        assert worker.wait() == 1
        assert says in worker.text()
    assert "job-take" not in runpod.asked
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
