"""What a process holds: memory, threads, descriptors, as the system sees them."""

import re
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import requests


@dataclass(frozen=True)
class Sample:
    memory_mb: float
    threads: int
    descriptors: int
    sockets: int


def sample(pid: int) -> Sample:
    status = Path(f"/proc/{pid}/status").read_text()
    memory, threads = (int(re.findall(rf"{name}:\s+(\d+)", status)[0]) for name in ("VmRSS", "Threads"))
    links = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(str(entry.readlink()))
        except OSError:  # closed meanwhile
            continue
    return Sample(memory / 1024, threads, len(links), sum(link.startswith("socket:") for link in links))


def slope(values: Sequence[float]) -> float:
    """By how much they grow from one to the next."""
    return statistics.linear_regression(range(len(values)), values).slope


class Watcher:
    """Asks a server for its health all the time, and looks at what it holds."""

    def __init__(self, pid: int, url: str) -> None:
        self.health_ms: list[float] = []
        self.samples: list[Sample] = []
        self._pid = pid
        self._url = url
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        with requests.Session() as session:
            while not self._done.wait(0.02):
                began = time.perf_counter()
                assert session.get(f"{self._url}/health", timeout=30).status_code == 200
                self.health_ms.append((time.perf_counter() - began) * 1000)
                self.samples.append(sample(self._pid))
