"""POST /interrupt, for prompts in every state."""

import concurrent.futures
import threading
from typing import Any

import pytest
import requests
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support import graphs
from tests.support.api import Api
from tests.support.comfyui import Comfyui
from tests.support.live import served
from tests.support.waiting import wait_until

Pending = concurrent.futures.Future[requests.Response]


@pytest.fixture
def pool() -> Any:
    with concurrent.futures.ThreadPoolExecutor(64) as executor:
        yield executor


def interrupt(api: Api, request_id: Any) -> tuple[int, Any]:
    answer = api("POST", "/interrupt", json={"id": request_id})
    return answer.status_code, answer.json()


def test_a_running_prompt_ends_and_says_so(
    api: Api, clean: Comfyui, comfyui: Comfyui, pool: concurrent.futures.Executor
) -> None:
    job = pool.submit(api, "POST", "/prompt", json={"prompt": graphs.long(), "id": "run/ning é"})
    wait_until(lambda: comfyui.queue_remaining() == 1)
    assert interrupt(api, "run/ning é") == (200, {"id": "run/ning é", "interrupted": "success", "was": "running"})
    answer = job.result(60)
    assert (answer.status_code, answer.json()["code"]) == (499, "INTERRUPTED")


def test_a_queued_prompt_never_runs(
    api: Api, clean: Comfyui, comfyui: Comfyui, pool: concurrent.futures.Executor
) -> None:
    """The reference answers success for a queued prompt, which then runs."""
    running = [pool.submit(api, "POST", "/prompt", json={"prompt": graphs.long(seed=n), "id": "first"}) for n in (1, 2)]
    wait_until(lambda: comfyui.queue_remaining() == 2)
    queued = pool.submit(api, "POST", "/prompt", json={"prompt": graphs.empty(), "id": "queued"})
    wait_until(lambda: interrupt(api, "queued")[0] == 200)
    assert queued.result(60).json()["code"] == "INTERRUPTED"
    assert interrupt(api, "first")[1]["was"] == "running"
    assert [future.result(60).status_code for future in running] == [499, 499]


def test_a_prompt_that_has_no_thread_yet_never_runs(
    api: Api, clean: Comfyui, comfyui: Comfyui, pool: concurrent.futures.Executor
) -> None:
    crowd = [
        pool.submit(api, "POST", "/prompt", json={"prompt": graphs.long(seed=n), "id": "crowd"}) for n in range(40)
    ]
    wait_until(lambda: comfyui.queue_remaining() == 2)
    last = pool.submit(api, "POST", "/prompt", json={"prompt": graphs.empty(), "id": "last"})
    wait_until(lambda: interrupt(api, "last") == (200, {"id": "last", "interrupted": "success", "was": "queued"}))
    wait_until(lambda: interrupt(api, "crowd")[0] == 404, seconds=60)
    assert last.result(60).json()["code"] == "INTERRUPTED"
    assert {future.result(60).json()["code"] for future in crowd} == {"INTERRUPTED"}


def test_an_unknown_and_a_finished_id_are_not_found(api: Api, clean: Comfyui) -> None:
    api("POST", "/prompt", json={"prompt": graphs.empty(), "id": "done"})
    for request_id in ("nope", "done"):
        assert interrupt(api, request_id) == (404, {"id": request_id, "interrupted": "failed"})


@pytest.mark.parametrize("body", [{}, {"id": 5}, {"id": ""}, {"id": None}, {"id": ["x"]}])
def test_a_body_without_an_id_is_refused(api: Api, body: Any) -> None:
    answer = api("POST", "/interrupt", json=body)
    assert (answer.status_code, answer.json()["location"]) == (400, "id")


def test_a_request_whose_input_is_still_fetched_never_runs(
    api: Api, clean: Comfyui, pool: concurrent.futures.Executor
) -> None:
    asked, released = threading.Event(), threading.Event()

    def picture(_request: Request) -> Response:
        asked.set()
        released.wait(60)
        return Response(graphs.picture())

    with served(Starlette(routes=[Route("/x.png", picture)])) as url:
        body = {"prompt": graphs.load(f"{url}/x.png"), "id": "early"}
        answer = pool.submit(api, "POST", "/prompt", json=body)
        assert asked.wait(60)
        assert interrupt(api, "early") == (200, {"id": "early", "interrupted": "success", "was": "queued"})
        released.set()
        assert (answer.result(60).status_code, answer.result().json()["code"]) == (499, "INTERRUPTED")
