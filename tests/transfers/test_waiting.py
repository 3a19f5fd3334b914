"""What waits for another server keeps nothing else waiting, ends in time, and ends when it is told to."""

import concurrent.futures
import shutil
import time
from collections.abc import Callable, Iterator

import pytest
import requests

from emulator.app import create_app
from handler import Settings
from tests.support import graphs
from tests.support.comfyui import Comfyui
from tests.support.live import served
from tests.support.raw import HEAD, dripping, scripted, silent
from tests.support.waiting import wait_until

Post = Callable[..., requests.Response]
# More than there are threads for any kind of work.
CROWD = 40


@pytest.fixture
def post(settings: Settings, comfyui: Comfyui) -> Iterator[Post]:
    with served(create_app(settings.model_copy(update={"model_dir": comfyui.home / "models"}))) as url:
        wait_until(lambda: requests.get(f"{url}/ready", timeout=30).status_code == 200)
        yield lambda path="/prompt", **body: requests.post(url + path, json=body, timeout=60)


@pytest.fixture
def pool() -> Iterator[concurrent.futures.Executor]:
    with concurrent.futures.ThreadPoolExecutor(CROWD) as executor:
        yield executor


@pytest.fixture
def slow() -> Iterator[str]:
    with scripted(dripping(HEAD + b"Content-Length: 1000000\r\n\r\n")) as url:
        yield url


def with_model(url: str) -> graphs.Graph:
    return graphs.changed(graphs.txt2img(), "30", ckpt_name=url)


def is_interrupted(post: Post, request_id: str) -> bool:
    return post("/interrupt", id=request_id).status_code == 200


@pytest.mark.parametrize("same", [True, False], ids=["one model", "many models"])
def test_slow_models_keep_no_other_prompt_waiting_and_can_be_ended(
    post: Post, clean: Comfyui, pool: concurrent.futures.Executor, slow: str, same: bool
) -> None:
    print(f"injected: {CROWD - 2} prompts with a model from a server that sends one byte at a time")
    crowd = [
        pool.submit(post, prompt=with_model(f"{slow}/{0 if same else n}.safetensors"), id="crowd")
        for n in range(CROWD - 2)
    ]
    late = pool.submit(post, prompt=with_model(f"{slow}/0.safetensors"), timeout_s=2)
    assert post(prompt=graphs.empty()).status_code == 200
    assert post(prompt=graphs.empty(), timeout_s=10).status_code == 200
    assert (late.result().status_code, late.result().json()["code"]) == (504, "TIMEOUT")
    assert not any(job.done() for job in crowd)
    wait_until(lambda: is_interrupted(post, "crowd"))
    wait_until(lambda: not is_interrupted(post, "crowd"))
    assert {(job.result().status_code, job.result().json()["code"]) for job in crowd} == {(499, "INTERRUPTED")}


def test_a_prompt_that_waits_for_another_s_download_ends_at_once(
    post: Post, clean: Comfyui, pool: concurrent.futures.Executor, slow: str
) -> None:
    print("injected: a model from a server that sends one byte at a time, for two prompts")
    first = pool.submit(post, prompt=with_model(f"{slow}/a.safetensors"), id="first")
    second = pool.submit(post, prompt=with_model(f"{slow}/a.safetensors"), id="second")
    wait_until(lambda: is_interrupted(post, "second"))
    assert second.result(30).json()["code"] == "INTERRUPTED"
    assert not first.done()
    wait_until(lambda: is_interrupted(post, "first"))
    assert first.result(30).json()["code"] == "INTERRUPTED"


def test_a_prompt_whose_input_is_being_fetched_ends_at_once(
    post: Post, clean: Comfyui, pool: concurrent.futures.Executor, slow: str
) -> None:
    print("injected: an input from a server that sends one byte at a time")
    job = pool.submit(post, prompt=graphs.load(f"{slow}/a.png"), id="fetching")
    wait_until(lambda: is_interrupted(post, "fetching"))
    began = time.monotonic()
    assert job.result().json()["code"] == "INTERRUPTED"
    # INPUT_TIMEOUT_S
    assert time.monotonic() - began < 5


def test_uploads_to_a_silent_store_keep_no_other_prompt_waiting(
    post: Post, comfyui: Comfyui, pool: concurrent.futures.Executor
) -> None:
    print(f"injected: {CROWD - 1} uploads to a store that says nothing")
    before = set((comfyui.home / "output").iterdir())
    with scripted(silent) as store:
        body = {"prompt": graphs.empty(), "http_upload": {"url_prefix": store}, "timeout_s": 6}
        crowd = [pool.submit(post, **body) for _ in range(CROWD - 1)]
        wait_until(lambda: len(set((comfyui.home / "output").iterdir()) - before) == CROWD - 1)
        assert post(prompt=graphs.empty(), timeout_s=10).status_code == 200
        assert not all(job.done() for job in crowd)
        # Those that wait for a thread end in time as well.
        assert {(job.result().status_code, job.result().json()["code"]) for job in crowd} == {(504, "TIMEOUT")}
    for folder in set((comfyui.home / "output").iterdir()) - before:
        shutil.rmtree(folder)


def test_the_time_of_a_job_ends_its_upload_and_the_outputs_stay(post: Post, comfyui: Comfyui) -> None:
    print("injected: a store that says nothing")
    with scripted(silent) as store:
        answer = post(prompt=graphs.empty(), id="cut", http_upload={"url_prefix": store}, timeout_s=1.5)
    error = answer.json()
    assert (answer.status_code, error["code"]) == (504, "TIMEOUT")
    assert error["error"].startswith(
        "The prompt's time was over before its outputs were uploaded. The outputs are kept"
    )
    folder = error["error"].partition(", in ")[2].partition(":")[0]
    (kept,) = (comfyui.home / "output" / folder).iterdir()
    assert kept.name == "cut_E_00001_.png"
    kept.unlink()
    kept.parent.rmdir()
