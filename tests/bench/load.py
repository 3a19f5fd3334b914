"""What the server promises under load, measured and printed as a table: `python -m tests.bench.load`.

1,000 requests at once, with pictures of 64x64, through the HTTP API as a process, and /health asked all the time.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support import graphs
from tests.support.crowd import crowd
from tests.support.faulty import serving
from tests.support.watched import Watcher, sample

REQUESTS = 1000


def client(api: str) -> None:
    """Prints how many failed, and in which order they were started."""
    answers = crowd(api, [{"prompt": graphs.empty(color=n), "id": f"{n}"} for n in range(REQUESTS)])
    starts = [answer.body["stats"]["comfy_execution"]["start"] for answer in answers if answer.status == 200]
    order = sorted(range(len(starts)), key=lambda n: starts[n])
    print(json.dumps({"failed": REQUESTS - len(starts), "displaced": max(abs(at - n) for at, n in enumerate(order))}))


def measured() -> list[tuple[str, str, str]]:
    with tempfile.TemporaryDirectory() as name, serving(Path(name)) as api:
        pid = api.server.child.pid
        idle = sample(pid)
        with Watcher(pid, api.url) as watcher:
            began = time.perf_counter()
            # A process of its own: it must not slow the watcher down.
            command = [sys.executable, "-m", "tests.bench.load", "--client", api.url]
            told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            seconds = time.perf_counter() - began
    return [
        (f"{REQUESTS} requests at once: failed", str(told["failed"]), "0"),
        ("  farthest from its place in the order", str(told["displaced"]), "11"),
        ("  throughput", f"{REQUESTS / seconds:.0f} /s", ""),
        ("  /health meanwhile, median", f"{statistics.median(watcher.health_ms):.1f} ms", ""),
        ("  /health meanwhile, slowest", f"{max(watcher.health_ms):.1f} ms", "100 ms"),
        ("  threads, most", str(max(each.threads for each in watcher.samples)), "63"),
        ("  memory, idle", f"{idle.memory_mb:.0f} MB", ""),
        ("  memory, most", f"{max(each.memory_mb for each in watcher.samples):.0f} MB", "300 MB"),
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--client"]:
        client(sys.argv[2])
    else:
        for row in [("", "measured", "at most"), *measured()]:
            print("{:45} {:>12} {:>10}".format(*row))
