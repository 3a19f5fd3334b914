"""A manifest at the start of the server."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support.live import served
from tests.support.processes import environment, running
from tests.support.waiting import wait_until


@pytest.fixture
def files() -> Iterator[str]:
    async def model(_request: Request) -> Response:
        return Response(b"weights")

    with served(Starlette(routes=[Route("/model.safetensors", model)])) as url:
        yield url


def manifest(when: str, url: str) -> str:
    return json.dumps({"models": {when: [{"url": url, "local_path": "models/checkpoints/mine.safetensors"}]}})


@pytest.mark.parametrize("when", ["before_start", "after_start"])
def test_its_models_are_there(tmp_path: Path, files: str, when: str) -> None:
    given = manifest(when, f"{files}/model.safetensors")
    env = environment(tmp_path, MANIFEST_JSON=given, ALLOW_PRIVATE_URLS="true")
    with running("emulator", env) as server:
        wait_until(lambda: "ready at" in server.text())
        url = re.findall(r"ready at (\S+),", server.text())[0]
        wait_until(lambda: "mine.safetensors" in requests.get(f"{url}/models", timeout=30).json()["checkpoints"])
    assert (tmp_path / "models/checkpoints/mine.safetensors").read_bytes() == b"weights"


def test_a_model_that_cannot_be_had_before_the_start_stops_it(tmp_path: Path, files: str) -> None:
    env = environment(tmp_path, MANIFEST_JSON=manifest("before_start", f"{files}/none"), ALLOW_PRIVATE_URLS="true")
    with running("emulator", env) as server:
        assert server.wait() == 1
        assert "cannot start: " in server.text()
        assert "answered 404" in server.text()
        assert "Traceback" not in server.text()


def test_a_model_that_cannot_be_had_after_the_start_is_an_error_in_the_log(tmp_path: Path, files: str) -> None:
    env = environment(tmp_path, MANIFEST_JSON=manifest("after_start", f"{files}/none"), ALLOW_PRIVATE_URLS="true")
    with running("emulator", env) as server:
        wait_until(lambda: "answered 404" in server.text())
        wait_until(lambda: "ready at" in server.text())
        url = re.findall(r"ready at (\S+),", server.text())[0]
        assert requests.get(f"{url}/ready", timeout=30).status_code == 200


def test_a_manifest_that_is_none_stops_the_start_with_one_line(tmp_path: Path) -> None:
    with running("emulator", environment(tmp_path, MANIFEST_JSON='{"modles": {}}')) as server:
        assert server.wait() == 1
        assert "cannot start: MANIFEST_JSON" in server.text()
        assert "models" in server.text()


def test_a_model_that_a_volume_holds_is_not_fetched(tmp_path: Path, files: str) -> None:
    volume = tmp_path / "volume"
    kept = volume / "models" / "checkpoints" / "mine.safetensors"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"weights of the volume")
    env = environment(tmp_path, MANIFEST_JSON=manifest("before_start", f"{files}/none"), NETWORK_VOLUMES=str(volume))
    with running("emulator", env) as server:
        wait_until(lambda: "ready at" in server.text())
        assert f"is not fetched: a volume has {kept}" in server.text()
        url = re.findall(r"ready at (\S+),", server.text())[0]
        assert "mine.safetensors" in requests.get(f"{url}/models", timeout=30).json()["checkpoints"]
    assert not (tmp_path / "models/checkpoints/mine.safetensors").exists()
