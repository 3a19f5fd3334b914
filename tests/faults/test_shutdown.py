"""SIGTERM with work in every phase, and SIGKILL: everybody is told, and nothing is left behind."""

import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support import graphs
from tests.support.faulty import Api, serving
from tests.support.live import served, stand_in
from tests.support.processes import Server, comfyui_processes, environment, running
from tests.support.raw import HEAD, answered, dripping, scripted
from tests.support.receivers import Receiver
from tests.support.waiting import wait_until


class Store:
    """A receiver of uploads that answers when it is told to."""

    def __init__(self) -> None:
        self.url = ""
        self.asked = threading.Event()
        self.released = threading.Event()

    def app(self) -> Starlette:
        def put(_request: Request) -> Response:
            self.asked.set()
            self.released.wait(60)
            return Response(status_code=201)

        return Starlette(routes=[Route("/{name:path}", put, methods=["PUT"])])


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    with served(store.app()) as store.url:
        yield store
        store.released.set()


def stop(api: Api) -> None:
    print("injected: SIGTERM to the server")
    api.server.child.send_signal(signal.SIGTERM)


def refused(api: Api, kept: requests.Session) -> bool:
    """New work: on a connection that is still open, and on a new one."""
    try:
        if kept.get(f"{api.url}/ready", timeout=30).status_code == 503:
            assert kept.post(f"{api.url}/prompt", json={"prompt": graphs.empty()}, timeout=30).status_code == 503
            return True
    except requests.ConnectionError:
        return True
    return False


def test_within_the_grace_everything_finishes(tmp_path: Path, store: Store) -> None:
    with serving(tmp_path, COMFYUI_INFLIGHT="1", SHUTDOWN_GRACE_S="20") as api, requests.Session() as kept:
        kept.get(f"{api.url}/ready", timeout=30)
        uploading = api.begin(prompt=graphs.empty(), http_upload={"url_prefix": store.url}, id="u")
        assert store.asked.wait(60)
        jobs = [api.begin(prompt=graphs.sleep(2, seed=1))]
        wait_until(lambda: api.inside() == 1)
        jobs.append(api.begin(prompt=graphs.empty(color=2)))
        wait_until(lambda: api.taken() == 3)
        stop(api)
        wait_until(lambda: refused(api, kept))
        assert [job.result(60).status_code for job in jobs] == [200, 200]
        store.released.set()
        assert uploading.result(60).json()["images"] == [f"{store.url}/u_E_00001_.png"]
        assert api.server.wait() == 0


def test_after_the_grace_everybody_is_told(tmp_path: Path, store: Store, hook: Receiver) -> None:
    with serving(tmp_path, COMFYUI_INFLIGHT="1", SHUTDOWN_GRACE_S="0.3") as api:
        upload = {"url_prefix": store.url, "async": True}
        assert api.post(prompt=graphs.empty(), http_upload=upload, webhook_v2=hook.url, id="up").status_code == 202
        assert store.asked.wait(60)
        jobs = [api.begin(prompt=graphs.long(seed=1))]
        wait_until(lambda: api.inside() == 1)
        jobs.append(api.begin(prompt=graphs.empty(color=2)))
        assert api.post(prompt=graphs.empty(color=4), webhook_v2=hook.url, id="waiting").status_code == 202
        jobs.append(api.begin(prompt=graphs.empty(color=3), http_upload={"url_prefix": store.url}))
        wait_until(lambda: api.taken() == 5)
        stop(api)
        answers = [job.result(60) for job in jobs]
        assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(503, "SERVER_STOPPED")}
        assert api.server.wait() == 0
        assert "Traceback" not in api.server.text()
    told = {(body["type"], body["id"], body["code"]) for body in hook.bodies(2)}
    assert told == {("prompt.failed", name, "SERVER_STOPPED") for name in ("waiting", "up")}
    # What was being uploaded is kept.
    assert len(list((tmp_path / "output").rglob("*.png"))) == 1


def test_who_waits_for_something_else_than_a_prompt_is_told_as_well(tmp_path: Path) -> None:
    slow = dripping(HEAD + b"Content-Length: 1000000\r\n\r\n")
    with scripted(slow) as files, serving(tmp_path, SHUTDOWN_GRACE_S="0.5") as api:
        fetching = api.begin(prompt=graphs.load(f"{files}/a.png"))
        wait_until(lambda: list((tmp_path / "input").rglob("*.part")) != [])
        body = {"url": f"{files}/m.safetensors", "model_type": "loras", "wait": True}
        download = api.pool.submit(requests.post, f"{api.url}/download", json=body, timeout=60)
        url = urlsplit(api.url)
        with socket.create_connection((str(url.hostname), int(url.port or 0)), timeout=60) as half:
            half.sendall(
                b"POST /prompt HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
            )
            wait_until(lambda: list((tmp_path / "cache").rglob("*.lock")) != [])
            stop(api)
            assert answered(half)[0] == 503
        for job in (fetching, download):
            assert (job.result(60).status_code, job.result().json()["code"]) == (503, "SERVER_STOPPED")
        assert api.server.wait() == 0
        assert "Traceback" not in api.server.text()
    assert list((tmp_path / "input").iterdir()) == []


def test_a_hanging_comfyui_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with serving(tmp_path, SHUTDOWN_GRACE_S="0.1") as api:
        job = api.begin(prompt=graphs.long())
        wait_until(lambda: api.inside() == 1)
        api.inject("SIGSTOP")
        stop(api)
        answer = job.result(60)
        assert (answer.status_code, answer.json()["code"]) == (503, "SERVER_STOPPED")
        assert api.server.child.wait(60) == 0


def test_a_second_interrupt_leaves_no_comfyui_behind(tmp_path: Path) -> None:
    with serving(tmp_path) as api, requests.Session() as kept:
        job = api.begin(prompt=graphs.long())
        wait_until(lambda: api.inside() == 1)
        for _ in range(2):
            print("injected: SIGINT to the server")
            api.server.child.send_signal(signal.SIGINT)
            wait_until(lambda: refused(api, kept))
        assert api.server.wait() == 0
        assert job.exception(10) or job.result().status_code >= 500


def test_the_next_start_ends_the_comfyui_of_a_killed_server(tmp_path: Path) -> None:
    env = environment(tmp_path)
    first = Server("emulator", env)
    wait_until(lambda: "documentation at" in first.text())
    (left,) = comfyui_processes(tmp_path)
    print("injected: SIGKILL to the server")
    first.child.kill()
    first.child.wait(60)
    assert comfyui_processes(tmp_path) == [left]
    with running("emulator", env) as second:
        wait_until(lambda: "documentation at" in second.text())
        assert f"ending the ComfyUI (process {left}) that a killed server has left behind" in second.text()
        (pid,) = comfyui_processes(tmp_path)
        assert pid != left
    assert comfyui_processes(tmp_path) == []


def test_a_foreign_comfyui_is_used_and_left_alone(tmp_path: Path) -> None:
    with stand_in(tmp_path) as url:
        env = environment(tmp_path, COMFYUI_PORT_HOST=url.rpartition(":")[2])
        with running("emulator", env) as server:
            wait_until(lambda: "documentation at" in server.text())
            assert "is used; none is started" in server.text()
            server.child.terminate()
            assert server.wait() == 0
        assert requests.get(f"{url}/system_stats", timeout=30).ok
