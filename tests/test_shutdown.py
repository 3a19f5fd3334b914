"""The end of the HTTP API as a process: what runs finishes or is told, and nothing is left."""

import concurrent.futures
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from tests import graphs
from tests.conftest import wait_until
from tests.test_deferred import Receiver, hook  # noqa: F401
from tests.test_process import Server, comfyui_processes, environment, running


def address(server: Server) -> str:
    wait_until(lambda: "ready at" in server.text())
    return str(re.findall(r"ready at (\S+),", server.text())[0])


def inside(env: dict[str, str]) -> int:
    """How many prompts ComfyUI has."""
    queue = requests.get(f"http://127.0.0.1:{env['COMFYUI_PORT_HOST']}/prompt", timeout=5).json()
    return int(queue["exec_info"]["queue_remaining"])


@pytest.fixture
def pool() -> Any:
    with concurrent.futures.ThreadPoolExecutor(8) as executor:
        yield executor


def test_requests_that_outlast_the_grace_end_with_server_stopped(
    tmp_path: Path,
    hook: Receiver,  # noqa: F811
    pool: concurrent.futures.Executor,
) -> None:
    env = environment(tmp_path, SHUTDOWN_GRACE_S="0.5", COMFYUI_INFLIGHT="1", ALLOW_PRIVATE_URLS="true")
    with running("emulator", env) as server:
        url = address(server)
        bodies: list[dict[str, Any]] = [{"prompt": graphs.sleep(60, seed=n), "id": f"{n}"} for n in range(4)]
        bodies[3]["webhook_v2"] = hook.url
        answers = []
        for n, body in enumerate(bodies):
            answers.append(pool.submit(requests.post, f"{url}/prompt", json=body, timeout=30))
            if n == 0:
                wait_until(lambda: inside(env) == 1)
        assert answers[3].result(10).status_code == 202
        began = time.monotonic()
        server.child.send_signal(signal.SIGTERM)
        results = [answer.result(20) for answer in answers[:3]]
        assert {(result.status_code, result.json()["code"]) for result in results} == {(503, "SERVER_STOPPED")}
        assert server.wait() == 0
        assert time.monotonic() - began < 15
        assert "Traceback" not in server.text()
    (told,) = hook.bodies(1)
    assert (told["type"], told["id"], told["code"]) == ("prompt.failed", "3", "SERVER_STOPPED")
    assert comfyui_processes(tmp_path) == []
    assert list((tmp_path / "output").iterdir()) == []


def test_running_work_finishes_within_the_grace(tmp_path: Path, pool: concurrent.futures.Executor) -> None:
    env = environment(tmp_path, SHUTDOWN_GRACE_S="20")
    with running("emulator", env) as server, requests.Session() as kept:
        url = address(server)
        assert kept.get(f"{url}/ready", timeout=5).status_code == 200
        answer = pool.submit(requests.post, f"{url}/prompt", json={"prompt": graphs.sleep(1.5)}, timeout=30)
        wait_until(lambda: inside(env) == 1)
        server.child.send_signal(signal.SIGTERM)
        wait_until(lambda: refuses(kept, url))
        assert answer.result(20).status_code == 200
        assert server.wait() == 0
    assert comfyui_processes(tmp_path) == []


def refuses(session: requests.Session, url: str) -> bool:
    """Whether new work is refused: by a 503 on a connection that is still open, by no connection otherwise."""
    try:
        return session.get(f"{url}/ready", timeout=5).status_code == 503
    except requests.ConnectionError:
        return True


def test_a_second_interrupt_leaves_no_comfyui_behind(tmp_path: Path, pool: concurrent.futures.Executor) -> None:
    env = environment(tmp_path)
    with running("emulator", env) as server:
        url = address(server)
        answer = pool.submit(requests.post, f"{url}/prompt", json={"prompt": graphs.sleep(60)}, timeout=30)
        wait_until(lambda: inside(env) == 1)
        server.child.send_signal(signal.SIGINT)
        wait_until(lambda: refuses(requests.Session(), url))
        server.child.send_signal(signal.SIGINT)
        assert server.wait() == 0
        assert answer.exception(10) or answer.result().status_code >= 500
    assert comfyui_processes(tmp_path) == []
