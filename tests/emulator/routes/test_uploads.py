"""Outputs that go to a store, through the HTTP API."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support import graphs
from tests.support.api import Api, api_with
from tests.support.comfyui import Comfyui
from tests.support.live import s3_store, served
from tests.support.waiting import wait_until

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "s3cr3t"}


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """An S3 store with a bucket `bkt`."""
    with s3_store("bkt") as client:
        yield client


def posting(url: str) -> Api:
    return lambda **body: requests.post(f"{url}/prompt", json=body, timeout=30)


@pytest.fixture(scope="module")
def post(comfyui: Comfyui, s3: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    store = {**KEYS, "AWS_ENDPOINT_URL": s3.meta.endpoint_url}
    with api_with(comfyui.settings(tmp_path_factory.mktemp("cache"), **store)) as url:
        yield posting(url)


class WebServer:
    """Takes PUTs."""

    def __init__(self) -> None:
        self.got: dict[str, tuple[str, bytes]] = {}

    def app(self) -> Starlette:
        async def put(request: Request) -> Response:
            self.got[request.url.path] = (request.headers["content-type"], await request.body())
            return Response(status_code=403 if "/no/" in request.url.path else 201)

        return Starlette(routes=[Route("/{path:path}", put, methods=["PUT"])])


@pytest.fixture
def web() -> Iterator[tuple[WebServer, str]]:
    server = WebServer()
    with served(server.app()) as url:
        yield server, url


def body(s3: Any, key: str) -> bytes:
    content: bytes = s3.get_object(Bucket="bkt", Key=key)["Body"].read()
    return content


@pytest.mark.parametrize("prefix", ["p1/", "", "/lead/", "a b#c?d=é%20/"])
def test_outputs_go_to_s3_under_the_very_key(post: Api, s3: Any, clean: Comfyui, prefix: str) -> None:
    upload = {"bucket": "bkt", "prefix": prefix}
    answer = post(prompt=graphs.txt2img(seed=41, batch=2), id="s", s3=upload)
    assert answer.status_code == 200
    keys = [f"{prefix}s_Flux_0000{n}_.png" for n in (1, 2)]
    assert answer.json()["images"] == [f"s3://bkt/{key}" for key in keys]
    assert answer.json()["s3"] == {**upload, "async": False}
    assert body(s3, keys[0]).startswith(b"\x89PNG")
    assert s3.head_object(Bucket="bkt", Key=keys[1])["ContentType"] == "image/png"


def test_converted_outputs_go_up_converted(post: Api, s3: Any, clean: Comfyui) -> None:
    answer = post(prompt=graphs.empty(), id="c", s3={"bucket": "bkt", "prefix": "c/"}, convert_output={"format": "jpg"})
    assert answer.json()["images"] == ["s3://bkt/c/c_E_00001_.jpg"]
    assert s3.head_object(Bucket="bkt", Key="c/c_E_00001_.jpg")["ContentType"] == "image/jpeg"


def test_an_asynchronous_upload_answers_at_once(post: Api, s3: Any, clean: Comfyui) -> None:
    answer = post(prompt=graphs.empty(), id="later", s3={"bucket": "bkt", "prefix": "async/", "async": True})
    assert answer.status_code == 202
    assert answer.json().keys() == {"id", "prompt", "s3", "status"}
    wait_until(lambda: s3.list_objects_v2(Bucket="bkt", Prefix="async/")["KeyCount"] == 1)


def test_an_upload_that_fails_is_a_502_and_keeps_the_outputs(post: Api, s3: Any, comfyui: Comfyui) -> None:
    """The reference answers 200, and the output is gone."""
    before = set((comfyui.home / "output").iterdir())
    answer = post(prompt=graphs.empty(), id="lost", s3={"bucket": "nope-nope", "prefix": "x/"})
    error = answer.json()
    assert (answer.status_code, error["code"]) == (502, "DELIVERY_FAILED")
    assert "lost_E_00001_.png" in error["error"]
    (kept,) = set((comfyui.home / "output").iterdir()) - before
    assert kept.name in error["error"]
    assert [file.name for file in kept.iterdir()] == ["lost_E_00001_.png"]
    assert "s3cr3t" not in answer.text
    shutil.rmtree(kept)


@pytest.fixture
def keyless(comfyui: Comfyui, s3: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Api]:
    """Without keys of the operator's."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.aws
    with api_with(comfyui.settings(tmp_path / "cache", AWS_ENDPOINT_URL=s3.meta.endpoint_url)) as url:
        yield posting(url)


def with_keys(pattern: str) -> dict[str, Any]:
    auth = {"type": "s3", "access_key_id": "key", "secret_access_key": "s3cr3t"}
    return {"credentials": [{"url_pattern": "https://other/*", "auth": auth}, {"url_pattern": pattern, "auth": auth}]}


@pytest.mark.parametrize("pattern", ["s3://bkt/**", "s3://bkt/p/*.png", "**.png", "s3://bkt/p/own_E_00001_.png"])
def test_the_caller_s_keys_are_those_of_the_file_s_url(keyless: Api, s3: Any, clean: Comfyui, pattern: str) -> None:
    answer = keyless(prompt=graphs.empty(), id="own", s3={"bucket": "bkt", "prefix": "p/"}, **with_keys(pattern))
    assert (answer.status_code, answer.json().get("images")) == (200, ["s3://bkt/p/own_E_00001_.png"])


def test_keys_that_turn_out_to_be_for_other_files_lose_no_outputs(keyless: Api, s3: Any, comfyui: Comfyui) -> None:
    before = set((comfyui.home / "output").iterdir())
    answer = keyless(prompt=graphs.empty(), id="x", s3={"bucket": "bkt", "prefix": "q/"}, **with_keys("s3://bkt/*"))
    assert (answer.status_code, answer.json()["code"]) == (502, "DELIVERY_FAILED")
    assert "There are no credentials for S3" in answer.json()["error"]
    (kept,) = set((comfyui.home / "output").iterdir()) - before
    assert f"{kept.name}: x_E_00001_.png" in answer.json()["error"]
    shutil.rmtree(kept)


def test_outputs_are_put_to_a_web_server(post: Api, web: tuple[WebServer, str], clean: Comfyui) -> None:
    server, url = web
    answer = post(prompt=graphs.empty(), id="h", http_upload={"url_prefix": f"{url}/up/"})
    assert answer.json()["images"] == [f"{url}/up/h_E_00001_.png"]
    media_type, content = server.got["/up/h_E_00001_.png"]
    assert (media_type, content[:4]) == ("image/png", b"\x89PNG")


def test_a_web_server_that_refuses_is_a_502(post: Api, web: tuple[WebServer, str], comfyui: Comfyui) -> None:
    before = set((comfyui.home / "output").iterdir())
    answer = post(prompt=graphs.empty(), http_upload={"url_prefix": f"{web[1]}/no?sig=s3cr3t"})
    assert (answer.status_code, answer.json()["code"]) == (502, "DELIVERY_FAILED")
    assert "s3cr3t" not in answer.json()["error"]
    for kept in set((comfyui.home / "output").iterdir()) - before:
        shutil.rmtree(kept)


def test_an_input_may_lie_in_s3(post: Api, s3: Any, clean: Comfyui) -> None:
    s3.put_object(Bucket="bkt", Key="in/my pic.png", Body=graphs.picture(color="lime"))
    answer = post(prompt=graphs.load("s3://bkt/in/my pic.png"))
    assert graphs.opened(answer.json()["images"][0]).getpixel((0, 0)) == (0, 255, 0)


@pytest.mark.parametrize("url", ["s3://bkt/none.png", "s3://nobucket/none.png"])
def test_a_missing_object_is_a_400(post: Api, clean: Comfyui, url: str) -> None:
    answer = post(prompt=graphs.load(url))
    assert (answer.status_code, answer.json()["code"]) == (400, "INPUT_UNAVAILABLE")
    assert answer.json()["location"] == "prompt.1.inputs.image"


@pytest.mark.parametrize(
    ("upload", "location"),
    [
        ({"s3": {"prefix": "x"}}, "s3.bucket"),
        ({"s3": {"bucket": ""}}, "s3.bucket"),
        ({"s3": {"bucket": "b", "async": "yes"}}, "s3.async"),
        ({"s3": []}, "s3"),
        ({"s3": None}, "s3"),
        ({"http_upload": {}}, "http_upload.url_prefix"),
        ({"http_upload": {"url_prefix": "not a url"}}, "http_upload.url_prefix"),
        ({"azure_blob_upload": {}}, "azure_blob_upload.container"),
        ({"s3": {"bucket": "no bucket!", "async": True}}, "s3.bucket"),
        ({"hf_upload": {"repo": "no-slash"}}, "hf_upload.repo"),
        ({"s3": {"bucket": "b"}, "http_upload": {"url_prefix": "http://x"}}, None),
    ],
)
def test_a_bad_upload_is_named(post: Api, clean: Comfyui, upload: Any, location: str | None) -> None:
    answer = post(prompt=graphs.empty(), **upload)
    assert answer.status_code == 400
    assert answer.json().get("location") == location


@pytest.mark.parametrize(
    ("upload", "says"),
    [
        ({"s3": {"bucket": "b"}}, "AWS_ACCESS_KEY_ID"),
        ({"azure_blob_upload": {"container": "c"}}, "AZURE_STORAGE_CONNECTION_STRING"),
        ({"hf_upload": {"repo": "a/b"}}, "HF_TOKEN"),
    ],
)
def test_a_store_that_is_not_configured_is_a_400_that_names_the_variable(
    keyless: Api, clean: Comfyui, upload: Any, says: str
) -> None:
    answer = keyless(prompt=graphs.empty(), **upload)
    assert answer.status_code == 400
    assert says in answer.json()["error"]
