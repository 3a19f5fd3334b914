"""Jobs whose caller does not wait: 202 first, then exactly one terminal webhook, through the HTTP API."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from standardwebhooks import Webhook

from tests.support import graphs
from tests.support.api import Api, api_with
from tests.support.comfyui import Comfyui
from tests.support.receivers import Receiver
from tests.support.waiting import wait_until

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def post(comfyui: Comfyui, tmp_path: Path) -> Iterator[Api]:
    with api_with(comfyui.settings(tmp_path / "cache", WEBHOOK_SECRET=SECRET)) as url:

        def call(path: str = "/prompt", **body: Any) -> requests.Response:
            return requests.post(url + path, json=body, timeout=30)

        yield call


def test_a_legacy_webhook_gets_one_call_per_output(post: Api, hook: Receiver, clean: Comfyui) -> None:
    answer = post(prompt=graphs.txt2img(batch=2, seed=31), id="w", webhook=hook.url)
    assert answer.status_code == 202
    assert answer.json().keys() == {"id", "prompt", "webhook", "status"}
    assert answer.json()["status"] == "ok"
    bodies = sorted(hook.bodies(2), key=lambda body: str(body["filename"]))
    assert [body["filename"] for body in bodies] == ["w_Flux_00001_.png", "w_Flux_00002_.png"]
    assert {body["event"] for body in bodies} == {"output.complete"}
    assert graphs.opened(bodies[0]["image"]).size == (64, 64)
    assert bodies[0]["id"] == "w"
    assert bodies[0]["prompt"] == answer.json()["prompt"]


def test_a_standard_webhook_gets_everything_signed(post: Api, hook: Receiver, clean: Comfyui) -> None:
    answer = post(
        "/workflow/flux/txt2img", input={"prompt": "a", "width": 256, "height": 256}, webhook_v2=hook.url, id="v"
    )
    assert answer.status_code == 202
    assert answer.json()["input"]["width"] == 256
    (body,) = hook.bodies(1)
    assert (body["type"], body["id"]) == ("prompt.complete", "v")
    assert body["filenames"] == ["v_Flux_00001_.png"]
    assert body["input"]["width"] == 256
    assert {"timestamp", "prompt", "images", "outputs", "stats"} < body.keys()
    got = hook.got[0]
    assert Webhook(SECRET).verify(got.body, got.headers)


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        (graphs.changed(graphs.empty(), "1", width=0), "PROMPT_REJECTED"),
        (
            {
                **graphs.empty(),
                "3": {"class_type": "EmulatorFail", "inputs": {"message": "broken", "image": ["1", 0]}},
                "4": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x", "images": ["3", 0]}},
            },
            "PROMPT_FAILED",
        ),
    ],
)
def test_a_failure_after_the_202_is_announced_once_to_each(
    post: Api, hook: Receiver, clean: Comfyui, prompt: Any, code: str
) -> None:
    assert post(prompt=prompt, webhook=hook.url, webhook_v2=hook.url, id="f").status_code == 202
    bodies = hook.bodies(2)
    assert {body.get("event") or body["type"] for body in bodies} == {"prompt.failed"}
    assert {body["code"] for body in bodies} == {code}
    assert all(body["id"] == "f" and body["error"] and body["prompt"] for body in bodies)


def test_what_is_the_caller_s_fault_is_a_400_and_no_webhook(post: Api, hook: Receiver, clean: Comfyui) -> None:
    assert post(prompt={}, webhook=hook.url).status_code == 400
    assert post(prompt=graphs.load("http://127.0.0.1:1/x.png"), webhook_v2=hook.url).status_code == 400
    for url in ("ftp://x", "http://", "http://[", "http://host:port/"):
        assert post(prompt=graphs.empty(), webhook=url).status_code == 400
        assert post(prompt=graphs.empty(), webhook_v2=url).status_code == 400
    assert hook.got == []


def test_an_empty_webhook_counts_as_absent(post: Api, clean: Comfyui) -> None:
    answer = post(prompt=graphs.empty(), webhook="", webhook_v2="")
    assert answer.status_code == 200
    assert len(answer.json()["images"]) == 1


def test_an_interrupted_job_is_announced(post: Api, hook: Receiver, clean: Comfyui) -> None:
    assert post(prompt=graphs.long(), webhook_v2=hook.url, id="i").status_code == 202
    wait_until(lambda: post("/interrupt", id="i").status_code == 200)
    (body,) = hook.bodies(1)
    assert (body["type"], body["code"]) == ("prompt.failed", "INTERRUPTED")


def test_credentials_are_in_no_answer_and_no_webhook(post: Api, hook: Receiver, clean: Comfyui) -> None:
    secret = {"url_pattern": "https://x/**", "auth": {"type": "bearer", "token": "s3cr3t-t0ken"}}
    answer = post(prompt=graphs.empty(), webhook=hook.url, webhook_v2=hook.url, credentials=[secret])
    hook.bodies(2)
    assert b"s3cr3t" not in answer.content + b"".join(got.body for got in hook.got)


def test_a_shutdown_announces_what_it_interrupts(hook: Receiver, comfyui: Comfyui, tmp_path: Path) -> None:
    with api_with(comfyui.settings(tmp_path, SHUTDOWN_GRACE_S="0.2")) as url:
        body = {"prompt": graphs.long(), "webhook_v2": hook.url, "id": "cut"}
        assert requests.post(f"{url}/prompt", json=body, timeout=30).status_code == 202
        wait_until(lambda: comfyui.queue_remaining() == 1)
    (body,) = hook.bodies(1)
    assert (body["type"], body["id"], body["code"]) == ("prompt.failed", "cut", "SERVER_STOPPED")
