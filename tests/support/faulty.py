"""A server of ours as a process with its own stand-in ComfyUI, to break things in; each fault is printed."""

import concurrent.futures
import contextlib
import os
import re
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tests.support.processes import Server, comfyui_processes, environment, running
from tests.support.waiting import wait_until

Pending = concurrent.futures.Future[requests.Response]


@dataclass
class Api:
    """The server, its ComfyUI, and requests to them."""

    server: Server
    env: dict[str, str]
    home: Path
    pool: concurrent.futures.Executor

    def __post_init__(self) -> None:
        wait_until(lambda: "documentation at" in self.server.text())
        self.url = str(re.findall(r"ready at (\S+),", self.server.text())[0]).replace("localhost", "127.0.0.1")
        self.comfyui = f"http://127.0.0.1:{self.env['COMFYUI_PORT_HOST']}"

    def post(self, path: str = "/prompt", **body: Any) -> requests.Response:
        return requests.post(self.url + path, json=body, timeout=60)

    def begin(self, **body: Any) -> Pending:
        return self.pool.submit(self.post, **body)

    def status(self, path: str) -> int:
        return requests.get(self.url + path, timeout=30).status_code

    def inside(self) -> int:
        """How many prompts ComfyUI has."""
        try:
            answer = requests.get(f"{self.comfyui}/prompt", timeout=5).json()
        except requests.RequestException:
            return -1
        return int(answer["exec_info"]["queue_remaining"])

    def taken(self) -> int:
        """How many requests the server has taken and not finished."""
        return int(float(re.findall(r"^comfyui_handler_queue_depth (\S+)$", self._metrics(), re.MULTILINE)[0]))

    def _metrics(self) -> str:
        return requests.get(f"{self.url}/metrics", timeout=30).text

    def history(self) -> dict[str, Any]:
        """Of ComfyUI, which remembers all prompts that nobody has made it forget."""
        answer: dict[str, Any] = requests.get(f"{self.comfyui}/history", timeout=30).json()
        return answer

    def comfyui_pid(self) -> int:
        (pid,) = comfyui_processes(self.home)
        return pid

    def inject(self, fault: str, **arguments: Any) -> None:
        """One of the stand-in's faults, or a signal to it."""
        print(f"injected: {fault} {arguments or ''}")
        if fault.startswith("SIG"):
            os.kill(self.comfyui_pid(), signal.Signals[fault])
            return
        with contextlib.suppress(requests.ConnectionError, requests.Timeout):
            requests.post(f"{self.comfyui}/emulator/{fault}", json=arguments, timeout=0.5)


@contextlib.contextmanager
def serving(home: Path, **changes: str) -> Iterator[Api]:
    """A server that is ready. At its end nothing is left of it and of its ComfyUI."""
    env = environment(home, ALLOW_PRIVATE_URLS="true", **changes)
    with concurrent.futures.ThreadPoolExecutor(64) as pool, running("emulator", env) as server:
        yield Api(server, env, home, pool)
    assert comfyui_processes(home) == []
    with socket.create_server(("127.0.0.1", int(env["COMFYUI_PORT_HOST"]))):
        pass  # the port is free
