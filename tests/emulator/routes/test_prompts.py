"""POST /prompt: pictures, failures, limits."""

import base64
import concurrent.futures
from typing import Any

import pytest
import requests

from handler import Settings
from tests.support import graphs
from tests.support.api import Api, api_with
from tests.support.comfyui import Comfyui
from tests.support.waiting import wait_until


def test_over_the_queue_limit_a_request_is_refused(settings: Settings, clean: Comfyui) -> None:
    queue = f"{clean.url}/prompt"
    with api_with(settings, queue_limit=1) as url:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            long = {"prompt": graphs.long(), "id": "long"}
            running = pool.submit(requests.post, f"{url}/prompt", json=long, timeout=60)
            wait_until(lambda: requests.get(queue, timeout=30).json() == {"exec_info": {"queue_remaining": 1}})
            body = {"prompt": graphs.empty()}
            refused = requests.post(f"{url}/prompt", json=body, timeout=60)
            assert (refused.status_code, refused.json()["code"]) == (429, "QUEUE_FULL")
            assert refused.headers["retry-after"] == "5"
            requests.post(f"{url}/interrupt", json={"id": "long"}, timeout=30)
            assert running.result().status_code == 499
        assert requests.post(f"{url}/prompt", json=body, timeout=60).status_code == 200


def test_a_prompt_gives_its_picture(api: Api, clean: Comfyui) -> None:
    answer = api("POST", "/prompt", json={"prompt": graphs.txt2img(seed=21), "id": "http"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body.keys() == {"id", "prompt", "images", "filenames", "outputs", "stats"}
    assert body["filenames"] == ["http_Flux_00001_.png"]
    assert base64.b64decode(body["images"][0]).startswith(b"\x89PNG")


def test_the_field_of_another_dialect_is_an_unknown_field(api: Api) -> None:
    assert api("POST", "/prompt", json={"prompt": graphs.empty(), "workflow": "x"}).status_code == 200
    assert api("POST", "/prompt", json={"workflow": "flux/txt2img", "input": {}}).json()["location"] == "prompt"
    body = {"input": {"prompt": "a", "width": 256, "height": 256}, "prompt": "x", "workflow": "nope"}
    assert api("POST", "/workflow/flux/txt2img", json=body).status_code == 200


@pytest.mark.parametrize(
    ("prompt", "status", "code"),
    [
        (graphs.changed(graphs.empty(), "1", width=0), 400, "PROMPT_REJECTED"),
        ({**graphs.empty(), "7": {"class_type": "NoSuchNode", "inputs": {}}}, 400, "PROMPT_REJECTED"),
        (graphs.load("http://127.0.0.1:1/x.png"), 400, "INPUT_UNAVAILABLE"),
        (graphs.load("AAAA" * (1 << 20)), 413, "TOO_LARGE"),
        (
            {
                **graphs.empty(),
                "3": {"class_type": "EmulatorFail", "inputs": {"message": "broken", "image": ["1", 0]}},
                "4": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x", "images": ["3", 0]}},
            },
            500,
            "PROMPT_FAILED",
        ),
    ],
)
def test_failures_have_their_status_and_one_shape(
    api: Api, clean: Comfyui, prompt: Any, status: int, code: str
) -> None:
    answer = api("POST", "/prompt", json={"prompt": prompt})
    body = answer.json()
    assert (answer.status_code, body["statusCode"], body["code"]) == (status, status, code)
    assert body["error"].endswith((".", "?", "broken"))
    assert body["location"].startswith("prompt.")
    assert body.keys() <= {"statusCode", "code", "error", "location", "node_errors"}


@pytest.mark.parametrize("seed", [10**40, 1e300])
def test_a_number_beyond_64_bits_is_refused_like_any_other(api: Api, clean: Comfyui, seed: float) -> None:
    """ComfyUI's answer repeats it as an integer that the JSON encoder does not take: it was an internal error."""
    answer = api("POST", "/prompt", json={"prompt": graphs.changed(graphs.txt2img(), "31", seed=seed)})
    assert (answer.status_code, answer.json()["location"]) == (400, "prompt.31.inputs.seed")


def test_a_class_without_a_name_is_an_unknown_one(api: Api, clean: Comfyui) -> None:
    answer = api("POST", "/prompt", json={"prompt": {**graphs.empty(), "7": {"class_type": "", "inputs": {}}}})
    assert (answer.status_code, answer.json()["code"]) == (400, "PROMPT_REJECTED")


def test_a_deadline_is_a_504(api: Api, clean: Comfyui) -> None:
    answer = api("POST", "/prompt", json={"prompt": graphs.sleep(30), "timeout_s": 0.3})
    assert (answer.status_code, answer.json()["code"]) == (504, "TIMEOUT")


def test_many_at_once_all_succeed_while_health_answers(api: Api, clean: Comfyui) -> None:
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        calls = [
            pool.submit(api, "POST", "/prompt", json={"prompt": graphs.empty(color=n), "id": f"many-{n}"})
            for n in range(64)
        ]
        assert api("GET", "/health").status_code == 200
        answers = [call.result().json() for call in calls]
    assert [answer["filenames"] for answer in answers] == [[f"many-{n}_E_00001_.png"] for n in range(64)]
    shown = [graphs.opened(answer["images"][0]).getpixel((0, 0)) for answer in answers]
    assert shown == [(0, 0, n) for n in range(64)]
