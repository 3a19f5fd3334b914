"""The deletion cost of an instance on Salad follows the queue."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from emulator.app import create_app
from emulator.salad import DeletionCost
from handler import Settings
from tests.support import graphs
from tests.support.api import api_with
from tests.support.comfyui import Comfyui
from tests.support.live import served
from tests.support.waiting import wait_until


@contextmanager
def metadata_service(*answers: int) -> Iterator[tuple[str, list[Any]]]:
    """Its URL, and the costs that it was told. `answers` are the statuses of the first answers; then 200."""
    costs: list[Any] = []

    async def put(request: Request) -> Response:
        assert request.headers["metadata"] == "true"
        costs.append((await request.json())["deletion_cost"])
        return Response(status_code=answers[len(costs) - 1] if len(costs) <= len(answers) else 200)

    with served(Starlette(routes=[Route("/v1/deletion-cost", put, methods=["PUT"])])) as url:
        yield url, costs


def test_the_cost_rises_and_falls_with_the_queue(settings: Settings, clean: Comfyui) -> None:
    with metadata_service() as (metadata, costs):
        update = {"system_meta": {"salad_machine_id": "m"}, "salad_metadata_url": metadata}
        with served(create_app(settings.model_copy(update=update))) as url:
            wait_until(lambda: costs == [0] and requests.get(f"{url}/ready", timeout=30).status_code == 200)
            answer = requests.post(f"{url}/prompt", json={"prompt": graphs.sleep(0.2)}, timeout=60)
            assert answer.status_code == 200
            wait_until(lambda: costs == [0, 1, 0])


def test_a_metadata_service_that_is_not_there_costs_nothing(settings: Settings, clean: Comfyui) -> None:
    update = {"system_meta": {"salad_machine_id": "m"}, "salad_metadata_url": "http://127.0.0.1:9"}
    with api_with(settings, **update) as url:
        assert requests.post(f"{url}/prompt", json={"prompt": graphs.empty()}, timeout=60).status_code == 200


def test_a_cost_that_did_not_arrive_is_sent_again_until_it_does(caplog: pytest.LogCaptureFixture) -> None:
    """It counted as sent: an idle node kept the cost of a busy one until its next request."""
    with metadata_service(200, 500, 503) as (metadata, costs):
        cost = DeletionCost(metadata, pause_s=0.05)
        cost.start()
        wait_until(lambda: costs == [0])
        cost.set(1)
        wait_until(lambda: costs == [0, 1, 1, 1])
        threading.Event().wait(0.2)
        cost.stop()
        assert costs == [0, 1, 1, 1]
    assert caplog.text.count("cannot be set") == 1


def test_the_last_cost_is_sent_although_it_was_before_the_one_that_failed() -> None:
    """A service may answer 500, or nothing, and have taken the cost all the same."""
    with metadata_service(200, 500) as (metadata, costs):
        cost = DeletionCost(metadata, pause_s=0.3)
        cost.start()
        wait_until(lambda: costs == [0])
        cost.set(1)
        wait_until(lambda: costs == [0, 1])
        cost.set(0)
        wait_until(lambda: len(costs) > 2 and costs[-1] == 0)
        cost.stop()


def test_tries_that_fail_are_paced_and_end_with_the_server(caplog: pytest.LogCaptureFixture) -> None:
    with metadata_service(*[500] * 1000) as (metadata, costs):
        cost = DeletionCost(metadata, pause_s=0.1)
        cost.start()
        for number in range(100):
            cost.set(number)
            threading.Event().wait(0.005)
        wait_until(lambda: len(costs) >= 3)
        cost.stop()
        assert len(costs) < 50
        threading.Event().wait(0.2)
        tried = len(costs)
        threading.Event().wait(0.3)
        assert len(costs) == tried
    assert caplog.text.count("cannot be set") == 1
