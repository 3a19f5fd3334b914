"""Clients that leave, time limits in every phase, and the same request again and again: over the HTTP API."""

import concurrent.futures
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from emulator.routes import deepinfra
from handler import Settings
from tests.support import graphs
from tests.support.api import Api, api_with
from tests.support.comfyui import Comfyui
from tests.support.live import stand_in
from tests.support.receivers import Receiver
from tests.support.waiting import wait_until


@pytest.fixture
def pool() -> Iterator[concurrent.futures.Executor]:
    with concurrent.futures.ThreadPoolExecutor(64) as executor:
        yield executor


def begun(url: str, path: str = "/prompt", **body: Any) -> socket.socket:
    """A request whose client can go away."""
    content = json.dumps(body)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    client = socket.create_connection((str(urlsplit(url).hostname), int(urlsplit(url).port or 80)))
    client.sendall((head + content).encode())
    return client


def leave(client: socket.socket) -> None:
    print("injected: the client closes its connection")
    client.close()


@pytest.mark.parametrize("cancel", [True, False])
def test_a_prompt_whose_client_leaves_ends_only_if_it_is_set_to(
    settings: Settings, clean: Comfyui, comfyui: Comfyui, cancel: bool
) -> None:
    with api_with(settings, cancel_on_disconnect=cancel) as url:
        began = time.monotonic()
        client = begun(url, prompt=graphs.long() if cancel else graphs.sleep(1))
        wait_until(lambda: comfyui.queue_remaining() == 1)
        leave(client)
        wait_until(lambda: comfyui.queue_remaining() == 0)
        # What is cancelled does not last as long as it would have.
        assert cancel or time.monotonic() - began > 1


def test_a_client_of_deepinfra_s_endpoint_may_leave_as_well(tmp_path: Path) -> None:
    with stand_in(tmp_path, "--step-ms", "200") as comfy_url:
        slow = Comfyui(comfy_url, tmp_path)
        with api_with(slow.settings(tmp_path / "cache"), cancel_on_disconnect=True) as url:
            client = begun(url, deepinfra.ROUTE, prompt="a fox", num_inference_steps=512, width=128, height=128)
            wait_until(lambda: slow.queue_remaining() == 1)
            leave(client)
            wait_until(lambda: slow.queue_remaining() == 0)


def test_a_job_with_a_webhook_does_not_need_its_client(settings: Settings, clean: Comfyui, hook: Receiver) -> None:
    with api_with(settings, cancel_on_disconnect=True) as url:
        leave(begun(url, prompt=graphs.sleep(0.3), webhook_v2=hook.url))
        (body,) = hook.bodies(1)
        assert body["type"] == "prompt.complete"


def test_time_is_up_in_every_phase(
    api: Api, clean: Comfyui, comfyui: Comfyui, pool: concurrent.futures.Executor
) -> None:
    """Running, waiting for a turn, waiting for a thread: the caller is told in time, and the GPU is free."""

    def begin(name: str, count: int, **limit: float) -> list[concurrent.futures.Future[requests.Response]]:
        bodies = [{"prompt": graphs.long(seed=n), "id": name, **limit} for n in range(count)]
        return [pool.submit(api, "POST", "/prompt", json=body) for body in bodies]

    print("injected: prompts of 30 s with less time than that, inside ComfyUI and behind a crowd that never ends")
    inside = begin("inside", 2, timeout_s=4)
    wait_until(lambda: comfyui.queue_remaining() == 2)
    behind = begin("first behind", 1, timeout_s=1)
    crowd = begin("crowd", 40)
    behind += begin("behind all", 4, timeout_s=1)
    answers = [job.result(60) for job in behind + inside]
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(504, "TIMEOUT")}
    wait_until(lambda: api("POST", "/interrupt", json={"id": "crowd"}).status_code == 404)
    assert {job.result(60).json()["code"] for job in crowd} == {"INTERRUPTED"}
    assert comfyui.queue_remaining() == 0


def test_the_same_event_again_and_again_gets_complete_answers(
    api: Api, clean: Comfyui, pool: concurrent.futures.Executor
) -> None:
    body = {"prompt": graphs.txt2img(seed=77), "id": "same"}
    print("injected: one event six times, three of them at once")
    answers = [api("POST", "/prompt", json=body) for _ in range(3)]
    answers += pool.map(lambda _: api("POST", "/prompt", json=body), range(3))
    assert [answer.json()["filenames"] for answer in answers] == [["same_Flux_00001_.png"]] * 6
    # The files differ by the graph in them, whose outputs go to another folder each time.
    assert len({graphs.opened(answer.json()["images"][0]).tobytes() for answer in answers}) == 1


def test_one_id_for_several_prompts_at_once_mixes_nothing(
    api: Api, clean: Comfyui, pool: concurrent.futures.Executor
) -> None:
    print("injected: 8 prompts under one id, at once")

    def color(number: int) -> Any:
        body = {"prompt": graphs.empty(color=number), "id": "shared"}
        return graphs.opened(api("POST", "/prompt", json=body).json()["images"][0]).getpixel((0, 0))

    numbers = [n * 0x101010 for n in range(8)]
    assert list(pool.map(color, numbers)) == [(n * 16,) * 3 for n in range(8)]


def test_many_cached_prompts_at_once_all_have_their_outputs(
    api: Api, clean: Comfyui, pool: concurrent.futures.Executor
) -> None:
    """What ComfyUI has cached is finished before POST /prompt answers: who listens only then waits for ever."""
    text = {"1": {"class_type": "EmulatorText", "inputs": {"text": "cached"}}}
    bodies = [{"prompt": text} if n % 2 else {"prompt": graphs.empty()} for n in range(200)]
    print("injected: 200 instant prompts at once, half of them taken from the cache as a whole")
    answers = list(pool.map(lambda body: api("POST", "/prompt", json=body), bodies))
    assert {answer.status_code for answer in answers} == {200}
    outputs = [answer.json()["outputs"] for answer in answers]
    assert all(len(found) == 1 for found in outputs)
    assert all(found[0]["text"] == "cached" for found in outputs[1::2])
    assert all(answer.json()["images"] for answer in answers[0::2])
