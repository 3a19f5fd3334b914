"""The websocket to ComfyUI fails in every way: what counts is the history, and nobody waits for long."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from handler import Service
from handler.pipeline import execute, prepare
from tests.support import graphs
from tests.support.comfyui import Comfyui
from tests.support.live import stand_in

# Between the moment that the history has the result and the moment that the caller has it. It is a fraction of a second, and
# for ever if the socket is what counts: the bound is far from both, so that it holds on a busy machine.
AT_MOST_S = 20.0


class Faulty:
    """A stand-in of its own, and what is to go wrong in it."""

    def __init__(self, url: str, home: Path) -> None:
        self.url = url
        self.service = Service.load(Comfyui(url, home).settings(home / "cache"))

    def inject(self, fault: str, **arguments: Any) -> None:
        print(f"injected: {fault} {arguments or ''}")
        assert requests.post(f"{self.url}/emulator/{fault}", json=arguments, timeout=60).ok


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[Faulty]:
    with stand_in(tmp_path, "--step-ms", "2") as url:
        yield Faulty(url, tmp_path)


def late_s(faulty: Faulty, graph: graphs.Graph, on_message: Any = lambda _: None) -> float:
    """How long after ComfyUI's own word of success the result is there."""
    result = execute(prepare({"input": {"prompt": graph}}, faulty.service), faulty.service, on_message)
    assert len(result.images) == 1
    late = time.time() - result.stats.comfy_execution.end / 1000
    print(f"the result came {late:.3f} s after its success")
    return late


@pytest.mark.parametrize("moment", ["post", "queued", "execution_start", "executing", "execution_success"])
def test_a_socket_that_is_cut_at_any_moment_costs_no_time(faulty: Faulty, moment: str) -> None:
    faulty.inject("drop_sockets", at=moment)
    assert late_s(faulty, graphs.sleep(0.3)) < AT_MOST_S


def test_a_socket_that_never_connects_costs_no_time(faulty: Faulty) -> None:
    faulty.inject("refuse_sockets")
    assert late_s(faulty, graphs.sleep(0.3)) < AT_MOST_S


def test_what_is_no_message_of_comfyui_is_ignored(faulty: Faulty) -> None:
    """Not JSON, no object, no data, unknown types, a preview of 20 MB, in the middle of a prompt."""
    injected: list[Any] = []

    def babble(message: Any) -> None:
        if message["type"] == "executing" and not injected:
            injected.append(message)
            faulty.inject("babble")

    assert late_s(faulty, graphs.sleep(1), babble) < AT_MOST_S
    assert injected
