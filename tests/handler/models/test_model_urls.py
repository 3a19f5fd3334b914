"""Model URLs in graphs, all the way: fetched, seen by ComfyUI, run."""

import os
from collections.abc import Callable, Iterator

import pytest
import requests

from tests.support.comfyui import Comfyui
from tests.support.graphs import changed, txt2img
from tests.support.live import served
from tests.support.model_server import Files

Api = Callable[..., requests.Response]


@pytest.fixture(scope="module")
def files() -> Iterator[tuple[str, Files]]:
    made = Files()
    with served(made.app()) as url:
        yield url, made


@pytest.fixture
def _models_as_before(comfyui: Comfyui) -> Iterator[None]:
    folder = comfyui.home / "models/checkpoints"
    before = set(folder.iterdir())
    yield
    for file in set(folder.iterdir()) - before:
        file.unlink()


@pytest.mark.usefixtures("_models_as_before")
def test_a_graph_with_a_url_for_a_checkpoint_runs(api: Api, clean: Comfyui, files: tuple[str, Files]) -> None:
    url, served_files = files
    served_files.renew({"/m.safetensors": b"m" * 1000})
    graph = changed(txt2img(), "30", ckpt_name=f"{url}/m.safetensors")
    for _ in range(2):
        answer = api("POST", "/prompt", json={"prompt": graph})
        assert answer.status_code == 200, answer.text
        name = answer.json()["prompt"]["30"]["inputs"]["ckpt_name"]
        assert name.endswith("-m.safetensors")
        assert name in api("GET", "/models").json()["checkpoints"]
    assert len(served_files.asked) == 1


@pytest.mark.usefixtures("_models_as_before")
def test_what_credentials_opened_is_not_for_those_without(api: Api, clean: Comfyui, files: tuple[str, Files]) -> None:
    """As the reference: 400 with the sentence of a refusal, and here with the input as location."""
    url, served_files = files
    served_files.renew({"/private.safetensors": b"m" * 1000})
    served_files.tokens["/private.safetensors"] = "tok"
    graph = changed(txt2img(), "30", ckpt_name=f"{url}/private.safetensors")
    credentials = [{"url_pattern": f"{url}/**", "auth": {"type": "bearer", "token": "tok"}}]
    for body, status in [({}, 400), ({"credentials": credentials}, 200), ({}, 400)]:
        answer = api("POST", "/prompt", json={"prompt": graph, **body})
        assert answer.status_code == status, answer.text
        assert answer.json().get("location") == (None if status == 200 else "prompt.30.inputs.ckpt_name")


@pytest.mark.usefixtures("_models_as_before")
def test_a_model_whose_name_is_no_text_breaks_no_answer(api: Api, clean: Comfyui) -> None:
    """One in Latin-1, for example: Python reads half of a character for each byte of it that is no UTF-8."""
    name = os.fsdecode(b"caf\xe9.safetensors")
    (clean.home / "models/checkpoints" / name).touch()
    assert name in api("GET", "/models").json()["checkpoints"]
    assert "\\udce9.safetensors" in api("GET", "/docs/json").text
    assert api("GET", "/docs/yaml").status_code == 200
    refused = api("POST", "/prompt", json={"prompt": changed(txt2img(), "30", ckpt_name="caf.safetensors")})
    assert (refused.status_code, refused.json()["code"]) == (400, "PROMPT_REJECTED")
    assert name in refused.json()["node_errors"]["30"]["errors"][0]["extra_info"]["input_config"][0]
