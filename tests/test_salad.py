"""The deletion cost of an instance on Salad follows the queue."""

from collections.abc import Callable
from typing import Any

import requests
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from emulator.app import create_app
from handler import Settings
from tests import graphs
from tests.conftest import Comfyui, wait_until
from tests.live import served

Api = Callable[..., requests.Response]


def test_the_cost_rises_and_falls_with_the_queue(settings: Settings, clean: Comfyui) -> None:
    costs: list[Any] = []

    async def put(request: Request) -> Response:
        assert request.headers["metadata"] == "true"
        costs.append((await request.json())["deletion_cost"])
        return Response()

    with served(Starlette(routes=[Route("/v1/deletion-cost", put, methods=["PUT"])])) as metadata:
        update = {"system_meta": {"salad_machine_id": "m"}, "salad_metadata_url": metadata}
        with served(create_app(settings.model_copy(update=update))) as url:
            wait_until(lambda: costs == [0] and requests.get(f"{url}/ready", timeout=30).status_code == 200)
            answer = requests.post(f"{url}/prompt", json={"prompt": graphs.sleep(0.2)}, timeout=20)
            assert answer.status_code == 200
            wait_until(lambda: costs == [0, 1, 0])


def test_a_metadata_service_that_is_not_there_costs_nothing(settings: Settings, clean: Comfyui) -> None:
    update = {"system_meta": {"salad_machine_id": "m"}, "salad_metadata_url": "http://127.0.0.1:9"}
    with served(create_app(settings.model_copy(update=update))) as url:
        wait_until(lambda: requests.get(f"{url}/ready", timeout=30).status_code == 200)
        assert requests.post(f"{url}/prompt", json={"prompt": graphs.empty()}, timeout=20).status_code == 200
