"""Many requests at once, and many one after the other: none fails, they start in their order, and nothing grows."""

from pathlib import Path
from typing import Any

import pytest

from tests.support import graphs
from tests.support.crowd import crowd
from tests.support.faulty import Api, serving
from tests.support.receivers import Receiver
from tests.support.waiting import wait_until
from tests.support.watched import Sample, Watcher, sample, slope

# Requests that are prepared at the same time may be ready in any order.
PREPARED_AT_ONCE = 12
AT_ONCE = 50


def test_all_at_once_start_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    count = 200
    with serving(tmp_path) as api, Watcher(api.server.child.pid, api.url) as watcher:
        print(f"injected: {count} requests at once")
        answers = crowd(api.url, [{"prompt": graphs.empty(color=n), "id": str(n)} for n in range(count)])
        assert {answer.status for answer in answers} == {200}
        assert [answer.body["filenames"] for answer in answers] == [[f"{n}_E_00001_.png"] for n in range(count)]
        starts = [answer.body["stats"]["comfy_execution"]["start"] for answer in answers]
    order = sorted(range(count), key=lambda n: starts[n])
    displaced = max(abs(place - n) for place, n in enumerate(order))
    threads = max(each.threads for each in watcher.samples)
    print(f"the farthest from its place: {displaced}; threads: {threads}")
    assert displaced < PREPARED_AT_ONCE
    assert threads < 64


def mixed(round_: int, hook_url: str) -> list[tuple[int, dict[str, Any]]]:
    """Requests of all kinds, each with the status of its answer."""
    seeds = range(round_ * AT_ONCE, (round_ + 1) * AT_ONCE)
    failing = graphs.empty() | {
        "5": {"class_type": "EmulatorFail", "inputs": {"message": "broken", "image": ["1", 0]}},
        "6": {"class_type": "SaveImage", "inputs": {"filename_prefix": "bad", "images": ["5", 0]}},
    }
    kinds: list[tuple[int, dict[str, Any]]] = [
        (200, {"prompt": graphs.txt2img()}),
        (200, {"prompt": graphs.load(graphs.as_base64(graphs.picture()))}),
        (200, {"prompt": graphs.empty(), "convert_output": {"format": "jpeg", "options": {"quality": 80}}}),
        (200, {"prompt": graphs.sleep(0.001)}),
        (400, {"prompt": graphs.changed(graphs.empty(), "1", width=0)}),
        (500, {"prompt": failing}),
        (202, {"prompt": graphs.empty(), "webhook_v2": hook_url}),
    ]
    return [(status, body | {"id": f"soak-{seed}"}) for seed in seeds for status, body in [kinds[seed % len(kinds)]]]


def held(api: Api) -> tuple[Sample, int]:
    """What the server holds when it is idle, and how many files there are in all of its folders."""
    wait_until(lambda: api.inside() == 0)
    files = [path for path in api.home.rglob("*") if path.is_file() and "models" not in path.parts]
    return sample(api.server.child.pid), len(files)


@pytest.mark.parametrize("jobs", [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_nothing_grows_with_the_number_of_jobs(
    tmp_path: Path,
    hook: Receiver,
    jobs: int,
) -> None:
    with serving(tmp_path) as api:
        samples = []
        for round_ in range(jobs // AT_ONCE):
            wanted = mixed(round_, hook.url)
            answers = crowd(api.url, [body for _, body in wanted])
            assert [answer.status for answer in answers] == [status for status, _ in wanted]
            samples.append(held(api))
        history = api.history()
    settled = samples[2:]  # what is made once is there then
    memory = [each.memory_mb for each, _ in settled]
    growth = slope(memory) * 1024 / AT_ONCE
    print(f"{jobs} jobs: memory {memory[0]:.1f} to {memory[-1]:.1f} MB, {growth:+.2f} kB per job")
    for name in ("threads", "descriptors", "sockets"):
        values = [getattr(each, name) for each, _ in settled]
        print(f"{name}: {values[0]} to {values[-1]}, {slope(values) / AT_ONCE:+.4f} per job")
        assert values[-1] <= max(values[:2]) + 10
    assert memory[-1] - memory[0] < 8
    assert history == {}
    assert samples[-1][1] == samples[0][1]
