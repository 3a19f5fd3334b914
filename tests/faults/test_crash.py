"""ComfyUI ends or hangs, in every way and at every moment: no job is lost to it, and nothing is left behind."""

import os
import signal
import sys
from pathlib import Path

import pytest

from handler.runpod.worker import Worker
from handler.ticket import Ticket
from tests.support import graphs
from tests.support.faulty import Api, Pending, serving
from tests.support.processes import WARMUP, comfyui_processes, environment, lifecycle, running
from tests.support.receivers import Receiver
from tests.support.waiting import wait_until

RESTART = {"ALWAYS_RESTART_COMFYUI": "true", "COMFYUI_INFLIGHT": "2"}
ENDS = [("SIGKILL", {}), ("end", {"code": 0}), ("SIGSTOP", {})]


def half_done(seed: int, seconds: float) -> graphs.Graph:
    """A graph that saves a picture, takes its time, and saves another one."""
    first = {"class_type": "SaveImage", "inputs": {"filename_prefix": "F", "images": ["3", 0]}}
    graph = graphs.sleep(seconds, seed=seed)
    return {"3": graph["3"], "4": first, "1": graph["1"], "2": graph["2"]}


def some_jobs(api: Api) -> list[Pending]:
    """Two that are inside ComfyUI, of which one has saved something already, and two that wait."""
    # The first lasts until the fault is injected, also on a busy machine; the second waits behind it.
    jobs = [api.begin(prompt=half_done(1, 6), id="job-1")]
    wait_until(lambda: api.inside() == 1)
    jobs += [api.begin(prompt=half_done(2, 0.1), id="job-2")]
    wait_until(lambda: api.taken() == 2)
    jobs += [api.begin(prompt=graphs.empty(color=seed), id=f"job-{seed}") for seed in (3, 4)]
    wait_until(lambda: api.inside() == 2 and api.taken() == 4 and len(list(api.home.glob("output/*/*.png"))) == 1)
    return jobs


@pytest.mark.parametrize(("fault", "arguments"), ENDS, ids=["killed", "exits with 0", "hangs"])
def test_jobs_survive_a_comfyui_that_ends(tmp_path: Path, fault: str, arguments: dict[str, int]) -> None:
    with serving(tmp_path, **RESTART, COMFYUI_HANG_TIMEOUT_S="3", WARMUP_PROMPT_FILE=str(WARMUP)) as api:
        jobs = some_jobs(api)
        first = api.comfyui_pid()
        api.inject(fault, **arguments)
        wait_until(lambda: api.status("/ready") == 503)
        assert api.status("/health") == 200
        answers = [job.result(60) for job in jobs]
        assert [answer.status_code for answer in answers] == [200] * 4
        assert [answer.json()["filenames"] for answer in answers] == [
            ["job-1_F_00001_.png", "job-1_S_00001_.png"],
            ["job-2_F_00001_.png", "job-2_S_00001_.png"],
            ["job-3_E_00001_.png"],
            ["job-4_E_00001_.png"],
        ]
        assert api.status("/ready") == 200
        assert api.comfyui_pid() != first
        log = api.server.text().rpartition("starting ComfyUI")[2]
    # Nobody's turn came before the new ComfyUI was warm.
    assert log.partition("warm after")[0].count(" starts\n") == 1


def test_a_job_under_which_comfyui_ends_twice_fails(tmp_path: Path) -> None:
    with serving(tmp_path, **RESTART) as api:
        job = api.begin(prompt=graphs.long(), timeout_s=60)
        for crash in (1, 2):
            wait_until(lambda: api.inside() == 1)
            print(f"crash {crash}")
            api.inject("SIGKILL")
            wait_until(lambda: api.inside() == -1)
        answer = job.result(60)
        assert (answer.status_code, answer.json()["code"]) == (502, "COMFYUI_CRASHED")
    assert list((tmp_path / "output").iterdir()) == []


def test_a_job_that_waits_for_a_restart_keeps_its_deadline(tmp_path: Path) -> None:
    env = environment(tmp_path)
    marker = tmp_path / "started-once"
    launch = f"{sys.executable} -m emulator.comfyui --port {env['COMFYUI_PORT_HOST']} --base-dir {tmp_path}"
    once = f"test -e {marker} && sleep 60; touch {marker}; exec {launch}"
    changes = {"CMD": f"bash -c '{once}'", "COMFYUI_PORT_HOST": env["COMFYUI_PORT_HOST"]}
    with serving(tmp_path, **RESTART, **changes) as api:
        job = api.begin(prompt=graphs.long(), timeout_s=3)
        wait_until(lambda: api.inside() == 1)
        api.inject("SIGKILL")
        answer = job.result(60)
        assert (answer.status_code, answer.json()["code"]) == (504, "TIMEOUT")


@pytest.mark.parametrize(
    ("fault", "arguments", "code"),
    [("SIGKILL", {}, 137), ("end", {"code": 3}, 3), ("end", {"code": 0}, 1)],
    ids=["killed", "exits with 3", "exits with 0"],
)
def test_without_a_restart_the_jobs_are_told_and_the_server_ends(
    tmp_path: Path,
    hook: Receiver,
    fault: str,
    arguments: dict[str, int],
    code: int,
) -> None:
    with serving(tmp_path) as api:
        jobs = some_jobs(api)
        assert api.post(prompt=graphs.empty(), webhook_v2=hook.url, id="told").status_code == 202
        api.inject(fault, **arguments)
        answers = [job.result(60) for job in jobs]
        assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(502, "COMFYUI_CRASHED")}
        assert api.server.wait() == code
    (told,) = hook.bodies(1)
    assert (told["type"], told["id"], told["code"]) == ("prompt.failed", "told", "COMFYUI_CRASHED")


def test_a_comfyui_that_is_killed_while_it_starts_ends_the_start(tmp_path: Path) -> None:
    with running("emulator", environment(tmp_path, CMD=f"bash -c 'sleep 60; true {tmp_path}'")) as server:
        wait_until(lambda: len(comfyui_processes(tmp_path)) == 1)
        print("injected: SIGKILL while it starts")
        os.killpg(comfyui_processes(tmp_path)[0], signal.SIGKILL)
        assert server.wait() == 1
        assert "cannot start: ComfyUI exited with code 137" in server.text()


def test_a_busy_comfyui_is_not_taken_for_a_hanging_one(tmp_path: Path) -> None:
    """A node that loads a model may keep ComfyUI from answering for many seconds."""
    with serving(tmp_path, COMFYUI_HANG_TIMEOUT_S="20") as api:
        job = api.begin(prompt=graphs.sleep(0.5))
        wait_until(lambda: api.inside() == 1)
        api.inject("hang", seconds=4.5)
        assert job.result(60).status_code == 200
        assert api.status("/ready") == 200


def test_a_runpod_job_that_comes_during_a_restart_waits_for_it(tmp_path: Path) -> None:
    own = lifecycle(tmp_path, **RESTART)
    own.start()
    try:
        print("injected: SIGKILL")
        own.process.kill()
        wait_until(lambda: not own.ready)
        answer = Worker(own).handle({"id": "1", "input": {"prompt": graphs.empty()}}, Ticket(), lambda _: None)
        assert len(answer["images"]) == 1
    finally:
        own.stop()
