"""The figures that the project promises, measured and printed as a table: `python -m tests.bench`.

Against the stand-in ComfyUI without step time, at 1024x1024. Machines are noisy: compare medians of one run.
"""

import concurrent.futures
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import requests
import websocket

from handler import Service, Settings
from handler.pipeline import run
from tests.support import graphs
from tests.support.live import stand_in
from tests.support.processes import running

ROUNDS = 31
REQUESTS, AT_ONCE = 200, 64
_seeds = iter(range(10**9))


class BareClient:
    """The least that a client of ComfyUI must do: POST /prompt, listen, GET /view. Its websocket stays open."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = requests.Session()
        self._id = uuid4().hex
        self._socket = websocket.create_connection(
            f"{url.replace('http', 'ws')}/ws?clientId={self._id}", timeout=60, skip_utf8_validation=True
        )

    def __call__(self, graph: graphs.Graph) -> bytes:
        body = {"prompt": graph, "client_id": self._id}
        prompt_id = self._session.post(f"{self._url}/prompt", json=body, timeout=60).json()["prompt_id"]
        image: dict[str, Any] = {}
        while True:
            message = json.loads(self._socket.recv())
            data = message["data"]
            if message["type"] == "executed" and data["prompt_id"] == prompt_id:
                image = data["output"]["images"][0]
            if message["type"] == "execution_success" and data["prompt_id"] == prompt_id:
                return self._session.get(f"{self._url}/view", params=image, timeout=60).content


def graph(size: int = 1024) -> graphs.Graph:
    return graphs.txt2img("8-bit video game art of a salad", seed=next(_seeds), size=size, steps=4)


def timed(call: Callable[[], object]) -> float:
    """In ms."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def added_time(comfy_url: str, home: Path, api: str) -> list[tuple[str, str, str]]:
    environ = {"COMFYUI_URL": comfy_url, "COMFY_HOME": str(home)}
    service = Service.load(Settings.from_environ(environ))
    bare, session = BareClient(comfy_url), requests.Session()

    def post() -> None:
        assert session.post(f"{api}/prompt", json={"prompt": graph()}, timeout=60).status_code == 200

    ways: dict[str, Callable[[], object]] = {
        "bare client": lambda: bare(graph()),
        "handler": lambda: run({"input": {"prompt": graph()}}, service),
        "HTTP API": post,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):  # in turns, so that noise meets all of them
        for name, way in ways.items():
            times[name].append(timed(way))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    base = medians["bare client"]
    return [("bare client, 1024x1024 PNG", f"{base:.1f} ms", "")] + [
        (f"added by {name}", f"{medians[name] - base:+.1f} ms", "10 ms" if name == "HTTP API" else "")
        for name in ("handler", "HTTP API")
    ]


def import_time() -> tuple[str, str, str]:
    code = "import time; t = time.perf_counter(); import handler; print(time.perf_counter() - t)"
    runs = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(7)
    ]
    return ("import handler", f"{statistics.median(runs):.2f} s", "0.35 s")


def memory(pid: int) -> float:
    """Resident memory in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


def load(api: str) -> list[tuple[str, str, str]]:
    """Many requests at once, while /health is asked all the time."""
    health: list[float] = []
    done = threading.Event()

    def ask() -> None:
        with requests.Session() as session:
            while not done.wait(0.01):
                health.append(timed(lambda: session.get(f"{api}/health", timeout=10)))

    probe = threading.Thread(target=ask)
    probe.start()
    client = [sys.executable, "-m", "tests.bench", "--client", api]
    began = time.perf_counter()
    # A process of its own: its threads must not slow the probe down.
    failed = subprocess.run(client, capture_output=True, text=True, check=True).stdout.strip()
    seconds = time.perf_counter() - began
    done.set()
    probe.join()
    return [
        (f"{REQUESTS} requests, {AT_ONCE} at a time: failed", failed, "0"),
        ("  throughput", f"{REQUESTS / seconds:.1f} /s", ""),
        ("  /health meanwhile, median", f"{statistics.median(health):.1f} ms", ""),
        ("  /health meanwhile, slowest", f"{max(health):.1f} ms", "50 ms"),
    ]


def client(api: str) -> int:
    """How many of the requests failed."""

    def one(number: int) -> bool:
        body = {"prompt": graphs.txt2img("a salad", seed=10**9 + number, size=1024), "id": f"load-{number}"}
        answer = requests.post(f"{api}/prompt", json=body, timeout=300)
        return answer.status_code == 200 and answer.json()["filenames"] == [f"load-{number}_Flux_00001_.png"]

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(one, range(REQUESTS))).count(False)


def main() -> None:
    if sys.argv[1:2] == ["--client"]:
        print(client(sys.argv[2]))
        return
    rows = [("", "measured", "at most"), import_time()]
    with tempfile.TemporaryDirectory() as name, stand_in(Path(name), "--step-ms", "0") as comfy_url:
        env = {"PATH": os.environ["PATH"], "COMFYUI_URL": comfy_url, "COMFY_HOME": name, "PORT": "0"}
        with running("emulator", {**env, "PYTHONUNBUFFERED": "1"}) as server:
            while "ready at" not in server.text():
                time.sleep(0.05)
            api = re.findall(r"ready at (\S+),", server.text())[0].replace("localhost", "127.0.0.1")
            requests.get(f"{api}/health", timeout=10)
            rows.append(("HTTP server, idle", f"{memory(server.child.pid):.0f} MB", "90 MB"))
            rows += added_time(comfy_url, Path(name), api)
            rows += load(api)
            rows.append(("HTTP server, after that", f"{memory(server.child.pid):.0f} MB", ""))
    for what, measured, limit in rows:
        print(f"{what:45} {measured:>12} {limit:>10}")


if __name__ == "__main__":
    main()
