"""What most tests share: one ComfyUI, one Service in front of it, one HTTP server in front of that."""

import gc
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from handler import Service, Settings
from tests.support.api import Api, api_with
from tests.support.comfyui import Comfyui
from tests.support.live import stand_in
from tests.support.waiting import wait_until

pytest_plugins = ["tests.support.receiver_fixtures", "tests.support.standin_fixtures"]

# What all the imports make stays: to look for garbage in it, at the end last of all, took each worker of the suite a second.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def comfyui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comfyui]:
    if url := os.environ.get("COMFYUI_URL"):
        yield Comfyui(url, Path(os.environ["COMFY_HOME"]))
        return
    home = tmp_path_factory.mktemp("comfyui")
    with stand_in(home, "--step-ms", "2") as url:
        yield Comfyui(url, home)


@pytest.fixture(scope="session")
def settings(comfyui: Comfyui, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    limits = {"MAX_INPUT_SIZE_MB": "2", "INPUT_TIMEOUT_S": "5", "MAX_BODY_SIZE_MB": "8"}
    return comfyui.settings(tmp_path_factory.mktemp("cache"), **limits)


@pytest.fixture(scope="session")
def service(settings: Settings) -> Service:
    return Service.load(settings)


@pytest.fixture
def clean(comfyui: Comfyui) -> Iterator[Comfyui]:
    """The ComfyUI, with the check that the test leaves nothing in its folders and its history."""
    files, history = comfyui.files(), set(comfyui.history())
    yield comfyui
    # A webhook can arrive a moment before its job's files are gone.
    with suppress(AssertionError):
        wait_until(lambda: comfyui.files() == files and set(comfyui.history()) == history, 10)
    assert comfyui.files() == files
    assert set(comfyui.history()) == history


@pytest.fixture(scope="session")
def api(settings: Settings) -> Iterator[Api]:
    """A client of the live HTTP API: api("POST", "/prompt", json={...})."""
    with api_with(settings) as url, requests.Session() as session:
        session.trust_env = False

        def call(method: str, path: str, **options: Any) -> requests.Response:
            return session.request(method, url + path, timeout=60, **options)

        yield call
