"""Stores that take an upload so slowly, or never, that nothing but a deadline ends it: the outputs stay, and are named."""

import base64
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import requests

from emulator.app import create_app
from handler import Settings
from handler.errors import DeliveryError
from handler.jobs.delivery import upload_files
from handler.jobs.outputs import Output
from handler.schemas.uploads import S3Upload
from tests.support import graphs
from tests.support.comfyui import Comfyui
from tests.support.live import served
from tests.support.raw import HEAD, SLOW, Script, dripping, scripted, silent
from tests.support.waiting import wait_until

KEY = base64.b64encode(b"k" * 64).decode()
UPLOADS: dict[str, Callable[[str], dict[str, Any]]] = {
    "http": lambda url: {"http_upload": {"url_prefix": f"{url}/up"}},
    "s3": lambda _: {"s3": {"bucket": "bkt"}},
    "azure": lambda _: {"azure_blob_upload": {"container": "cont"}},
    "hf": lambda _: {"hf_upload": {"repo": "a/b"}},
}


def configured(settings: Settings, url: str) -> Settings:
    """Every store at one address, and a second for an upload."""
    account = f"AccountName=acc;AccountKey={KEY};BlobEndpoint={url}/acc"
    environ = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "HF_TOKEN": "t"}
    environ |= {"AZURE_STORAGE_CONNECTION_STRING": account, "HF_ENDPOINT": url, "UPLOAD_TIMEOUT_S": "0.3"}
    given = Settings.from_environ(environ)
    return settings.model_copy(update={name: getattr(given, name) for name in given.model_fields_set - {"system_meta"}})


def is_over() -> bool:
    """Whether no thread is busy with an upload any more: those of the pools that make parts are named ThreadPool."""
    return not [thread for thread in threading.enumerate() if thread.name.startswith(("upload", "ThreadPool"))]


@pytest.fixture(params=["silent", "dripping"])
def store(request: pytest.FixtureRequest, settings: Settings) -> Iterator[tuple[str, str]]:
    """A store, and the HTTP API that uploads to it."""
    script = silent if request.param == "silent" else dripping(HEAD + b"X-Slow: ")
    with ExitStack() as stack:
        url = stack.enter_context(scripted(script))
        api = stack.enter_context(served(create_app(configured(settings, url))))
        wait_until(lambda: requests.get(f"{api}/ready", timeout=30).status_code == 200)
        print(f"injected: a store that is {request.param}")
        yield url, api


def test_an_upload_ends_at_its_deadline_and_the_outputs_stay(store: tuple[str, str], comfyui: Comfyui) -> None:
    url, api = store
    folder = comfyui.home / "output"
    for upload in UPLOADS.values():
        before, began = set(folder.iterdir()), time.monotonic()
        body = {"prompt": graphs.empty(), "id": "slow", **upload(url)}
        answer = requests.post(f"{api}/prompt", json=body, timeout=30)
        assert time.monotonic() - began < 30
        assert (answer.status_code, answer.json()["code"]) == (502, "DELIVERY_FAILED")
        error = answer.json()["error"]
        assert "The upload took longer than 0.3 s (UPLOAD_TIMEOUT_S)." in error
        (kept,) = set(folder.iterdir()) - before
        assert f"{kept.name}: slow_E_00001_.png" in error
        assert (kept / "slow_E_00001_.png").is_file()
        shutil.rmtree(kept)
        wait_until(is_over)


@pytest.mark.parametrize("script", [silent, SLOW["one 100 Continue after the other"]], ids=["silent", "100 Continue"])
def test_a_file_in_parts_ends_at_the_same_deadline_and_leaves_no_thread(script: Script) -> None:
    print("injected: an S3 store that never answers, for a file that goes up in parts")
    big = Output("1", "big.bin", bytes(20 << 20), "application/octet-stream")
    began = time.monotonic()
    with scripted(script) as url:
        with pytest.raises(DeliveryError, match="UPLOAD_TIMEOUT_S"):
            upload_files([big], S3Upload(bucket="bkt"), configured(Settings(), url), lambda _url: None)
        wait_until(is_over)
    assert time.monotonic() - began < 30


def test_what_fails_at_once_is_not_waited_for(settings: Settings) -> None:
    print("injected: a store that refuses")
    small = Output("1", "a.png", b"content", "image/png")
    began = time.monotonic()
    with scripted(lambda connection: connection.close()) as url:
        patient = configured(settings, url).model_copy(update={"upload_timeout_s": 120})
        with pytest.raises(DeliveryError, match="failed"):
            upload_files([small], S3Upload(bucket="bkt"), patient, lambda _url: None)
    # botocore tries it three times, with some seconds between.
    assert time.monotonic() - began < 60
