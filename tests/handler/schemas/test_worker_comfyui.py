"""worker-comfyui's dialect: its requests, and the shape of its answers."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from handler import Service
from handler.errors import BadRequest, ForbiddenUrl
from handler.pipeline import run
from handler.settings import BadSettings
from tests.support import graphs
from tests.support.comfyui import Comfyui
from tests.support.events import bucket_environ, refused, service_with
from tests.support.live import s3_store
from tests.support.paths import RECORDINGS

RECORDED = RECORDINGS / "runpod" / "request.json"


def answer(service: Service, workflow: Any, **given: Any) -> dict[str, Any]:
    return run({"id": "job-1", "input": {"workflow": workflow, **given}}, service)


def test_a_recorded_request_gets_an_answer_of_the_recorded_shape(service: Service, clean: Comfyui) -> None:
    event = json.loads(RECORDED.read_text())
    event["input"]["workflow"]["31"]["inputs"]["steps"] = 2
    found = run({"id": "sync-1", **event}, service)
    assert found.keys() == {"images"}
    assert [image.keys() for image in found["images"]] == [{"filename", "type", "data"}] * 2
    # Two save nodes that are alike: ComfyUI runs the first, and gives the second the same file.
    assert [image["filename"] for image in found["images"]] == ["ComfyUI_00001_.png"] * 2
    assert {image["type"] for image in found["images"]} == {"base64"}
    assert graphs.opened(found["images"][0]["data"]).size == (512, 512)


@pytest.mark.parametrize("form", ["{}", "data:image/png;base64,{}"])
@pytest.mark.parametrize("name", ["test.png", "test.png [input]"])
def test_the_graph_loads_images_by_their_names(service: Service, clean: Comfyui, form: str, name: str) -> None:
    image = form.format(graphs.as_base64(graphs.picture(color="lime")))
    other = {"name": "unused.png", "image": graphs.as_base64(graphs.picture())}
    found = answer(service, graphs.load(name), images=[{"name": "test.png", "image": image}, other])
    assert found["images"][0]["filename"] == "L_00001_.png"
    assert graphs.opened(found["images"][0]["data"]).getpixel((0, 0)) == (0, 255, 0)


def test_every_kind_of_output_is_in_the_answer(service: Service, clean: Comfyui) -> None:
    size = {"width": 64, "height": 64, "batch_size": 3, "color": 255}
    webp = {"filename_prefix": "anim", "fps": 6, "lossless": True, "quality": 80, "method": "default"}
    workflow = {
        "1": {"class_type": "EmptyImage", "inputs": size},
        "2": {"class_type": "SaveAnimatedWEBP", "inputs": {**webp, "images": ["1", 0]}},
        "3": {"class_type": "EmulatorText", "inputs": {"text": "a word"}},
    }
    found = answer(service, workflow)
    (image,) = found["images"]
    assert image["filename"] == "anim_00001_.webp"
    assert base64.b64decode(image["data"]).startswith(b"RIFF")
    assert [(text["node_id"], text["text"]) for text in found["texts"]] == [("3", "a word")]
    assert "status" not in found


def test_previews_alone_are_a_success_without_images(service: Service, clean: Comfyui) -> None:
    workflow = {**graphs.empty(), "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}
    assert answer(service, workflow) == {"images": [], "status": "success_no_images"}


def test_the_key_for_api_nodes_reaches_comfyui_and_nobody_else(
    service: Service, clean: Comfyui, comfyui: Comfyui
) -> None:
    answers: list[Any] = []
    keyed = service_with(service, COMFY_ORG_API_KEY="the-workers-key")
    for given, key in (({}, "the-workers-key"), ({"comfy_org_api_key": "the-callers-key"}, "the-callers-key")):

        def ask(given: Any = given) -> None:
            answers.append(answer(keyed, graphs.sleep(1, seed=len(given) + 500), **given))

        thread = threading.Thread(target=ask)
        thread.start()
        while not (running := queue(comfyui)) and thread.is_alive():
            time.sleep(0.02)
        assert running[0][3]["api_key_comfy_org"] == key
        thread.join(60)
    assert "key" not in json.dumps(answers)


def queue(comfyui: Comfyui) -> list[Any]:
    found: list[Any] = requests.get(f"{comfyui.url}/queue", timeout=30).json()["queue_running"]
    return found


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (None, "needs an `input` object"),
        ([], "needs an `input` object"),
        ("text", "needs an `input` object"),
        ({}, "`prompt`"),
        ({"workflow": graphs.empty(), "images": [1]}, "`images.0`"),
        ({"workflow": graphs.empty(), "images": [{"name": "x"}]}, "`images.0.image`"),
        ({"workflow": graphs.empty(), "images": "x"}, "`images`"),
        ({"workflow": {"nodes": [], "links": []}}, "Export (API)"),
        ({"workflow": {"1": {"inputs": {}}}}, "`workflow.1.class_type`"),
        ({"workflow": "nope", "input": {}}, "There is no workflow 'nope'"),
        ({"workflow": {}}, "ComfyUI refused the prompt"),
        ({"workflow": graphs.load("x.png"), "images": [{"name": "x.png", "image": "no!"}]}, "not a URL"),
    ],
)
def test_bad_input_gets_one_sentence(service: Service, clean: Comfyui, given: Any, says: str) -> None:
    error = refused(service, given)
    assert says in error.message
    assert "\n" not in error.message


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """An S3 store with the buckets `bkt` and this month's."""
    with s3_store("bkt", time.strftime("%m-%y")) as client:
        yield client


@pytest.mark.parametrize("name", ["bkt", None])
def test_with_a_bucket_the_answer_has_urls_that_can_be_read(
    service: Service, clean: Comfyui, s3: Any, name: str | None
) -> None:
    own = service_with(
        service, **bucket_environ(s3, **({"BUCKET_NAME": name} if name else {})), ALLOW_PRIVATE_URLS="false"
    )
    (image,) = answer(own, graphs.empty())["images"]
    assert (image["filename"], image["type"]) == ("E_00001_.png", "s3_url")
    path = f"/{name or time.strftime('%m-%y')}/job-1/E_00001_.png?"
    assert image["data"].startswith(s3.meta.endpoint_url + path)
    assert "X-Amz-Expires=604800" in image["data"]
    assert requests.get(image["data"], timeout=30).content.startswith(b"\x89PNG")


def test_a_job_brings_its_own_bucket(service: Service, clean: Comfyui, s3: Any) -> None:
    config = {
        "accessId": "key",
        "accessSecret": "s3cr3t",
        "bucketName": "bkt",
        "endpointUrl": s3.meta.endpoint_url,
    }
    found = run({"id": "own", "input": {"workflow": graphs.empty()}, "s3Config": config}, service)
    assert "/bkt/own/E_00001_.png?" in found["images"][0]["data"]
    assert "s3cr3t" not in json.dumps(found)


@pytest.mark.parametrize(
    ("given", "kind", "location", "says"),
    [
        ({"bucketName": ""}, BadRequest, "bucketName", "at least 1 character"),
        ({"endpointUrl": "s3.amazonaws.com"}, BadRequest, "endpointUrl", "pattern"),
        ({"endpointUrl": "https://[::1"}, BadRequest, "endpointUrl", "not a valid URL"),
        ({"endpointUrl": "http://a:b:c"}, BadRequest, "endpointUrl", "not a valid URL"),
        ({"endpointUrl": "http://10.0.0.1:9000"}, ForbiddenUrl, "endpointUrl", "10.0.0.1 is not a public address"),
        ({"endpointUrl": "http://localhost:9000"}, ForbiddenUrl, "endpointUrl", "localhost is not a public address"),
    ],
)
def test_a_bucket_that_cannot_be_is_refused_before_the_run(
    service: Service, clean: Comfyui, given: dict[str, str], kind: type[Exception], location: str, says: str
) -> None:
    config = {"accessId": "k", "accessSecret": "s", "bucketName": "bkt", "endpointUrl": "https://1.1.1.1", **given}
    error = refused(service_with(service, ALLOW_PRIVATE_URLS="false"), {"workflow": graphs.empty()}, s3Config=config)
    assert (type(error), error.location) == (kind, f"s3Config.{location}")
    assert says in error.message


def test_the_operator_s_own_private_bucket_may_be_named(service: Service, clean: Comfyui, s3: Any) -> None:
    own = service_with(service, **bucket_environ(s3), ALLOW_PRIVATE_URLS="false")
    config = {"accessId": "key", "accessSecret": "s3cr3t", "bucketName": "bkt", "endpointUrl": s3.meta.endpoint_url}
    (image,) = run({"id": "same", "input": {"workflow": graphs.empty()}, "s3Config": config}, own)["images"]
    assert image["type"] == "s3_url"


def test_outputs_that_the_bucket_does_not_take_are_in_the_answer(service: Service, clean: Comfyui, s3: Any) -> None:
    own = service_with(service, **bucket_environ(s3, BUCKET_NAME="missing"))
    found = answer(own, graphs.empty())
    assert found["images"][0]["type"] == "base64"
    assert "the bucket does not exist" in found["errors"][0]
    assert graphs.opened(found["images"][0]["data"]).size == (64, 64)


def test_a_bucket_without_its_keys_stops_the_start(service: Service) -> None:
    with pytest.raises(BadSettings, match="BUCKET_ENDPOINT_URL needs BUCKET_ACCESS_KEY_ID"):
        service_with(service, BUCKET_ENDPOINT_URL="http://127.0.0.1:1")
