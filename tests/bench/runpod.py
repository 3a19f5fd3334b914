"""The RunPod worker in the SDK's own loop: jobs per minute, and the cold start. `python -m tests.bench.runpod`."""

import argparse
import re
import statistics
import tempfile
import time
from pathlib import Path

from tests.support import graphs
from tests.support.processes import WARMUP, Server, environment, running
from tests.support.runpod_queue import RunPodQueue

JOB_S = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=30)
    parser.add_argument("--starts", type=int, default=5)
    options = parser.parse_args()
    print(
        f"{options.jobs} jobs, each with {JOB_S:g} s on the GPU and a picture of 1024x1024; {60 / JOB_S:g} a minute at most"
    )
    print("RUNPOD_CONCURRENCY   jobs/min   median latency of one job alone")
    for concurrency in (1, 2):
        rate, latency = throughput(concurrency, options.jobs)
        print(f"{concurrency:>18}   {rate:>8.1f}   {latency:>10.2f} s")
    print(f"\ncold start up to the first job-take, median of {options.starts} (in seconds)")
    for name, seconds in cold_start(options.starts).items():
        print(f"{name:<44} {seconds:5.2f}")


def throughput(concurrency: int, count: int) -> tuple[float, float]:
    """Jobs per minute with a full queue; and how long one job takes from being put in to its result."""
    with tempfile.TemporaryDirectory() as home, RunPodQueue().running() as runpod:
        env = environment(Path(home), RUNPOD_CONCURRENCY=str(concurrency), LOG_LEVEL="warn", **runpod.env())
        with running("handler", env):
            runpod.jobs = [job("first", 0)]
            runpod.taken(1)
            began = time.monotonic()
            runpod.jobs = [job(f"job-{n}", n + 1) for n in range(count)]
            for result in runpod.taken(count, timeout_s=120).values():
                assert result["output"]["images"], result
            rate = 60 * count / (time.monotonic() - began)
            return rate, statistics.median(latency(runpod, n) for n in range(5))


def latency(runpod: RunPodQueue, n: int) -> float:
    began = time.monotonic()
    runpod.jobs = [job(f"alone-{n}", 1000 + n)]
    runpod.taken(1)
    return time.monotonic() - began


def job(name: str, seed: int) -> dict[str, object]:
    graph = graphs.sleep(JOB_S)
    graph["3"]["inputs"] |= {"width": 1024, "height": 1024, "color": seed}
    return {"id": name, "input": {"workflow": graph}}


def cold_start(count: int) -> dict[str, float]:
    runs = [one_start() for _ in range(count)]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def one_start() -> dict[str, float]:
    """Where the time goes, read off the worker's log."""
    with tempfile.TemporaryDirectory() as home, RunPodQueue().running() as runpod:
        began = time.monotonic()
        with running("handler", environment(Path(home), WARMUP_PROMPT_FILE=str(WARMUP), **runpod.env())) as worker:
            launched = seen(worker, "starting ComfyUI") - began
            up = seen(worker, "running the warm-up prompt") - began
            warm = seen(worker, "warm after") - began
            while "job-take" not in runpod.asked:
                time.sleep(0.002)
            taken = runpod.asked["job-take"] - began
    return {
        "Python and our own modules": launched,
        "ComfyUI's own start (the stand-in's here)": up - launched,
        "warm-up prompt (the SDK is imported meanwhile)": warm - up,
        "rest of the SDK's import, and its start": taken - warm,
        "all": taken,
        "all but ComfyUI's own start and warm-up": taken - (warm - launched),
    }


def seen(worker: Server, text: str) -> float:
    """When a line with the text was there."""
    while not re.search(text, worker.text()):
        assert worker.child.poll() is None, worker.text()
        time.sleep(0.002)
    return time.monotonic()


if __name__ == "__main__":
    main()
