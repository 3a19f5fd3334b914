"""POST /download. The requests and the answers are those that were recorded from the reference, where it has them."""

import hashlib
import logging
from collections.abc import Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from starlette.applications import Starlette
from starlette.routing import Route

from emulator.http import errors
from emulator.routes.downloads import Downloads
from handler import HandlerError
from handler.models.cache import ModelCache
from handler.settings import Settings
from tests.support.api import Api
from tests.support.live import served
from tests.support.model_server import Files
from tests.support.waiting import wait_until

MODEL = b"m" * 1000


class FakeAdapter:
    """As much of the adapter as the endpoint uses."""

    def __init__(self) -> None:
        self.service: Any = None

    async def while_open(self, work: Coroutine[Any, Any, Any]) -> Any:
        return await work


@pytest.fixture(scope="module")
def files() -> Iterator[tuple[str, Files]]:
    made = Files()
    with served(made.app()) as url:
        yield url, made


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, FakeAdapter]]:
    adapter = FakeAdapter()
    app = Starlette(
        routes=[Route("/download", Downloads().download, methods=["POST"])],
        exception_handlers={HandlerError: errors.handler_error, Exception: errors.bug},
    )
    app.state.adapter = adapter
    with served(app) as url:
        yield url, adapter


@pytest.fixture
def loras(tmp_path: Path) -> Path:
    (tmp_path / "models/loras").mkdir(parents=True)
    return tmp_path / "models/loras"


@pytest.fixture
def events() -> list[tuple[str, Any]]:
    return []


@pytest.fixture
def post(
    server: tuple[str, FakeAdapter],
    files: tuple[str, Files],
    tmp_path: Path,
    loras: Path,
    events: list[tuple[str, Any]],
) -> Api:
    """POST /download with a path of the file server as url, or a whole one."""
    environ = {"COMFY_HOME": str(tmp_path), "CACHE_DIR": str(tmp_path / "cache"), "ALLOW_PRIVATE_URLS": "true"}
    settings = Settings.from_environ({"COMFYUI_URL": "http://127.0.0.1:9", **environ})
    models = ModelCache(settings, on_event=lambda *event: events.append(event))
    server[1].service = SimpleNamespace(settings=settings, models=models)
    content = {f"/{name}.safetensors": MODEL for name in ("model", "need-bearer-2", "need-bearer-3")}
    files[1].renew(content)
    files[1].tokens.update({path: "tok" for path in content if "bearer" in path})

    def call(path: str, **body: Any) -> requests.Response:
        url = path if "://" in path or not path.startswith("/") else files[0] + path
        return requests.post(f"{server[0]}/download", json={"url": url, "model_type": "loras", **body}, timeout=60)

    return call


def test_with_wait_the_answer_comes_when_it_is_there(post: Api, files: tuple[str, Files], loras: Path) -> None:
    answer = post("/model.safetensors", filename="a2.safetensors", wait=True)
    body = answer.json()
    assert answer.status_code == 200
    assert 0 <= body.pop("duration") < 5
    assert body == {
        "url": f"{files[0]}/model.safetensors",
        "model_type": "loras",
        "filename": "a2.safetensors",
        "status": "completed",
        "size": 1000,
    }
    assert (loras / "a2.safetensors").read_bytes() == MODEL


def test_without_wait_the_answer_comes_at_once(post: Api, files: tuple[str, Files], loras: Path) -> None:
    answer = post("/model.safetensors?sig=secret")
    assert answer.status_code == 202
    assert answer.json() == {
        "url": f"{files[0]}/model.safetensors",
        "model_type": "loras",
        "filename": "model.safetensors",
        "status": "started",
    }
    wait_until(lambda: (loras / "model.safetensors").exists())


def test_a_failure_that_nobody_waits_for_is_logged_and_announced(
    post: Api, events: list[tuple[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "handler.models.cache"):
        assert post("/none2.safetensors?sig=secret").status_code == 202
        wait_until(lambda: bool(events))
    assert events[0][0] == "file_failed"
    assert "404" in events[0][1]["error"]
    assert "none2.safetensors could not be downloaded" in caplog.text
    assert "secret" not in caplog.text + str(events)


def test_a_filename_stays_in_the_folder(post: Api, loras: Path) -> None:
    assert (
        post("/model.safetensors", filename="../trav.safetensors", wait=True).json()["filename"] == "trav.safetensors"
    )
    assert (loras / "trav.safetensors").exists()


def test_credentials_open_what_they_open(post: Api) -> None:
    auth = {"type": "bearer", "token": "tok"}
    answer = post("/need-bearer-2.safetensors", wait=True, auth=auth)
    assert (answer.status_code, answer.json()["size"]) == (200, 1000)
    assert "tok" not in answer.text.replace("token", "")
    refused = post("/need-bearer-3.safetensors", wait=True)
    assert (refused.status_code, refused.json()["code"]) == (400, "INPUT_UNAVAILABLE")


@pytest.mark.parametrize(
    ("path", "body", "code", "location"),
    [
        ("/model.safetensors", {"model_type": "nope", "wait": True}, "BAD_REQUEST", "model_type"),
        ("/model.safetensors", {"model_type": None}, "BAD_REQUEST", "model_type"),
        ("nope", {}, "BAD_REQUEST", "url"),
        ("ftp://host/x", {}, "INPUT_UNAVAILABLE", None),
        *(
            (url, {"wait": wait}, "INPUT_UNAVAILABLE", None)
            for url in (
                "http://127.0.0.1:99999/x",
                "http://[::1/f/a.safetensors",
                "http:// bad host/x",
                "s3://b",
                "hf://a",
            )
            for wait in (False, True)
        ),
        ("/none.safetensors", {"wait": True}, "INPUT_UNAVAILABLE", None),
        ("http://127.0.0.1:1/x", {"wait": True}, "INPUT_UNAVAILABLE", None),
        ("/model.safetensors", {"filename": "/etc/passwd"}, "BAD_REQUEST", "filename"),
        ("/model.safetensors", {"filename": ""}, "BAD_REQUEST", "filename"),
        ("/model.safetensors", {"wait": "yes"}, "BAD_REQUEST", "wait"),
        ("/model.safetensors", {"auth": {"type": "wat"}}, "BAD_REQUEST", "auth"),
        ("/model.safetensors", {"auth": {"type": "bearer"}}, "BAD_REQUEST", "auth.token"),
        ("/model.safetensors", {"sha256": "12"}, "BAD_REQUEST", "sha256"),
        (
            "/model.safetensors",
            {"sha256": hashlib.sha256(b"other").hexdigest(), "wait": True},
            "INPUT_UNAVAILABLE",
            "sha256",
        ),
    ],
)
def test_what_is_wrong_is_named(
    post: Api, loras: Path, path: str, body: dict[str, Any], code: str, location: str | None
) -> None:
    answer = post(path, **body)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert answer.json().get("location") == location
    assert list(loras.iterdir()) == []


class Crowded(ModelCache):
    """Models of which there is room for one, and for which others ask at the worst moment."""

    def download(self, url: str, *given: Any, **more: Any) -> tuple[Path, int]:
        found = super().download(url, *given, **more)
        ModelCache(self._settings).download(f"{url}?another", "loras", filename="another.safetensors")
        return found


def test_what_is_removed_at_once_was_there(post: Api, server: tuple[str, FakeAdapter], loras: Path) -> None:
    """The file was asked for its size when another download could have removed it already: 500, with a traceback."""
    settings = server[1].service.settings.model_copy(update={"lru_cache_size_gb": 1.5 * len(MODEL) / (1 << 30)})
    server[1].service.models = Crowded(settings)
    answer = post("/model.safetensors", wait=True)
    assert [file.name for file in loras.iterdir()] == ["another.safetensors"]
    assert (answer.status_code, answer.json()["size"]) == (200, len(MODEL))


def test_more_than_can_run_at_once_wait_their_turn(post: Api, files: tuple[str, Files], loras: Path) -> None:
    names = [f"{number}.safetensors" for number in range(12)]
    files[1].content.update({f"/{name}": MODEL for name in names})
    files[1].delay_s = 0.05
    assert {post(f"/{name}").status_code for name in names} == {202}
    assert post("/model.safetensors", wait=True).status_code == 200
    wait_until(lambda: {file.name for file in loras.glob("[!.]*")} == {*names, "model.safetensors"})
