"""Stores that hang up on an upload, and a server that dies before its webhook has arrived: nothing is lost."""

import re
import signal
import socket
from pathlib import Path

import pytest
import requests

from handler import Settings
from handler.jobs.delivery import upload_files
from handler.jobs.outputs import Output
from handler.schemas.uploads import HttpUpload, S3Upload
from tests.support import graphs
from tests.support.comfyui import Comfyui
from tests.support.ports import free_port
from tests.support.processes import Server, environment, running
from tests.support.raw import asked, scripted
from tests.support.waiting import wait_until

CONTENT = bytes(range(256)) * 4000


class Store:
    """Hangs up half-way through the first uploads, and takes the next one."""

    def __init__(self, hang_ups: int) -> None:
        self.hang_ups = hang_ups
        self.got = b""

    def __call__(self, connection: socket.socket) -> None:
        head, _, body = self._begin(connection)
        size = int(re.findall(rb"content-length: (\d+)", head.lower())[0])
        if self.hang_ups:
            self.hang_ups -= 1
            return
        while len(body) < size:
            body += connection.recv(1 << 16)
        self.got = body
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    def _begin(self, connection: socket.socket) -> tuple[bytes, bytes, bytes]:
        head = asked(connection)
        if b"100-continue" in head.lower():
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        return head.partition(b"\r\n\r\n")


@pytest.mark.parametrize("kind", ["http", "s3"])
def test_an_upload_that_is_hung_up_on_is_made_again_and_is_whole(kind: str) -> None:
    print("injected: a store that hangs up twice, half-way through an upload")
    store = Store(2)
    with scripted(store) as url:
        environ = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
        settings = Settings.from_environ({**environ, "ALLOW_PRIVATE_URLS": "true"})
        upload = HttpUpload(url_prefix=f"{url}/up") if kind == "http" else S3Upload(bucket="bkt")
        output = Output("1", "a.png", CONTENT, "image/png")
        assert len(upload_files([output], upload, settings, lambda _url: None)) == 1
    assert store.got == CONTENT


@pytest.fixture
def env(comfyui: Comfyui, tmp_path: Path) -> dict[str, str]:
    given = {"COMFYUI_URL": comfyui.url, "ALLOW_PRIVATE_URLS": "true", "CACHE_DIR": str(tmp_path / "cache")}
    return environment(comfyui.home, **given)


@pytest.fixture
def port() -> int:
    """One that nobody listens at yet."""
    return free_port()


def address(server: Server) -> str:
    wait_until(lambda: "ready at" in server.text())
    return str(re.findall(r"ready at (\S+),", server.text())[0])


def test_a_webhook_outlives_a_server_that_is_killed(env: dict[str, str], port: int, tmp_path: Path) -> None:
    print("injected: a receiver that is down, and a server that is killed meanwhile")
    with running("emulator", env) as server:
        body = {"prompt": graphs.empty(), "id": "kept", "webhook_v2": f"http://127.0.0.1:{port}/hook"}
        assert requests.post(f"{address(server)}/prompt", json=body, timeout=20).status_code == 202
        wait_until(lambda: bool(list((tmp_path / "cache/webhooks").glob("*.delivery"))))
        wait_until(lambda: not list((tmp_path / "cache/webhooks").glob("*.promise")))
        server.child.send_signal(signal.SIGKILL)
        server.wait()
    got: list[bytes] = []

    def receive(connection: socket.socket) -> None:
        got.append(asked(connection))
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    with scripted(receive, port), running("emulator", env):
        wait_until(lambda: bool(got))
        wait_until(lambda: not list((tmp_path / "cache/webhooks").glob("*.delivery")))
    assert b"webhook-id: kept" in got[0]
    assert len(got) == 1
