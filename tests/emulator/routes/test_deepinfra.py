"""DeepInfra's endpoint on the flux workflows."""

import base64
import io
from typing import Any

import pytest
import requests
from PIL import Image

from emulator.routes.deepinfra import ROUTE
from tests.support import graphs
from tests.support.api import Api
from tests.support.comfyui import Comfyui

SMALL = {"prompt": "A photo of an astronaut", "width": 128, "height": 128, "num_inference_steps": 2}


def shown(answer: requests.Response) -> Image.Image:
    (image,) = answer.json()["images"]
    assert image.startswith("data:image/png;base64,")
    return Image.open(io.BytesIO(base64.b64decode(image.partition(",")[2])))


def test_json_is_answered_in_deepinfra_s_shape(api: Api, clean: Comfyui) -> None:
    answer = api("POST", ROUTE, json={**SMALL, "seed": 42}, headers={"Authorization": "bearer token"})
    assert answer.status_code == 200
    assert shown(answer).size == (128, 128)
    body = answer.json()
    assert body.keys() == {"images", "nsfw_content_detected", "seed", "request_id", "inference_status"}
    assert (body["seed"], body["nsfw_content_detected"]) == (42, [False])
    status = body["inference_status"]
    assert status.keys() == {"status", "runtime_ms", "cost", "tokens_generated", "tokens_input"}
    assert status["runtime_ms"] > 0


def test_a_form_is_as_good(api: Api, clean: Comfyui) -> None:
    form = {name: (None, str(value)) for name, value in SMALL.items()}
    assert shown(api("POST", ROUTE, files=form)).size == (128, 128)


def test_the_same_seed_gives_the_same_picture(api: Api, clean: Comfyui) -> None:
    first, second, other = (api("POST", ROUTE, json={**SMALL, "seed": seed}).json()["images"] for seed in (1, 1, 2))
    # the pictures' metadata differs: it holds the folder that the run saved to
    pixels = [
        Image.open(io.BytesIO(base64.b64decode(one[0].partition(",")[2]))).tobytes() for one in (first, second, other)
    ]
    assert pixels[0] == pixels[1] != pixels[2]


@pytest.mark.parametrize("as_file", [True, False])
def test_an_image_makes_it_image_to_image(api: Api, clean: Comfyui, as_file: bool) -> None:
    picture = graphs.picture((128, 128), "red")
    if as_file:
        form: Any = {name: (None, str(value)) for name, value in {**SMALL, "strength": 0.0}.items()}
        answer = api("POST", ROUTE, files={**form, "image": ("in.png", picture, "image/png")})
    else:
        answer = api("POST", ROUTE, json={**SMALL, "strength": 0.0, "image": graphs.as_base64(picture)})
    red, green, blue = shown(answer).convert("RGB").getpixel((2, 2))  # type: ignore[misc]
    assert red > 150 > green + blue


@pytest.mark.parametrize(
    ("change", "location"),
    [
        ({"prompt": None}, "prompt"),
        ({"width": 129}, "width"),
        ({"width": 2048}, "width"),
        ({"height": "tall"}, "height"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"num_inference_steps": 513}, "num_inference_steps"),
        ({"guidance_scale": 21}, "guidance_scale"),
        ({"strength": 1.1}, "strength"),
        ({"seed": -1}, "seed"),
        ({"webhook": "nope"}, "webhook"),
        ({"image": "http://127.0.0.1:1/x.png"}, "prompt.37.inputs.image"),
    ],
)
def test_a_bad_field_is_named(api: Api, clean: Comfyui, change: dict[str, Any], location: str) -> None:
    answer = api("POST", ROUTE, json={**SMALL, **change})
    assert (answer.status_code, answer.json()["location"]) == (400, location)


def test_what_is_no_form_is_refused(api: Api) -> None:
    answer = api("POST", ROUTE, data=b"nonsense", headers={"Content-Type": "multipart/form-data"})
    assert answer.status_code == 400
    assert answer.json()["code"] == "BAD_REQUEST"
