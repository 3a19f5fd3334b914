"""A disk without room: said in one sentence, nothing half-written is used, and all is well when there is room again.

What stands for the disk is the limit that a process has for its files: no privilege is needed, and it can be switched while the
server runs. A full disk gives another number of error, of which the code knows as well.
"""

import errno
import re
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from handler import HandlerError, Service, Settings
from handler.disk import writing
from handler.errors import DiskFull, PromptFailed
from handler.pipeline import run
from tests.support import graphs
from tests.support.comfyui import Comfyui
from tests.support.live import served
from tests.support.processes import environment, running
from tests.support.standin import Standin
from tests.support.waiting import wait_until

Post = Callable[..., requests.Response]
Disk = Callable[..., None]


class Outside:
    """A file server and a receiver of webhooks."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    def app(self) -> Starlette:
        async def file(_request: Request) -> Response:
            return Response(graphs.picture(color="lime"))

        async def hook(request: Request) -> Response:
            self.got.append(await request.json())
            return Response()

        async def model(_request: Request) -> Response:
            return Response(bytes(10_000))

        return Starlette(routes=[Route("/file", file), Route("/model", model), Route("/hook", hook, methods=["POST"])])


@pytest.fixture(scope="module")
def outside() -> Iterator[tuple[str, Outside]]:
    made = Outside()
    with served(made.app()) as url:
        yield url, made


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "loras").mkdir()
    return folder


@pytest.fixture(scope="module")
def server(
    comfyui: Comfyui, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Post, Disk, Callable[[], str]]]:
    """The HTTP API as a process, and the switch that takes its disk away or gives it back."""
    env = environment(comfyui.home, COMFYUI_URL=comfyui.url, ALLOW_PRIVATE_URLS="true")
    env |= {"CACHE_DIR": str(tmp_path_factory.mktemp("cache")), "MODEL_DIR": str(models)}
    with running("emulator", env) as process:
        wait_until(lambda: "ready at" in process.text())
        url = re.findall(r"ready at (\S+),", process.text())[0]

        def full(is_full: bool, room: int = 0) -> None:
            _, most = resource.prlimit(process.child.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(process.child.pid, resource.RLIMIT_FSIZE, (room if is_full else most, most))

        def post(path: str, **body: Any) -> requests.Response:
            return requests.post(url + path, json=body, timeout=30)

        yield post, full, process.text


@pytest.fixture
def post(server: tuple[Post, Disk, Callable[[], str]]) -> Post:
    return server[0]


@pytest.fixture
def disk(server: tuple[Post, Disk, Callable[[], str]]) -> Iterator[Disk]:
    yield server[1]
    server[1](False)
    assert "Traceback" not in server[2]()


@pytest.mark.parametrize("given", ["base64", "url"])
def test_an_input_that_finds_no_room_is_said_so(
    post: Post, disk: Disk, clean: Comfyui, outside: tuple[str, Outside], given: str
) -> None:
    print("injected: no room for the inputs")
    value = f"{outside[0]}/file" if given == "url" else graphs.as_base64(graphs.picture(color="lime"))
    disk(True)
    answer = post("/prompt", prompt=graphs.load(value))
    assert (answer.status_code, answer.json()["code"]) == (507, "DISK_FULL")
    assert answer.json()["location"] == "prompt.1.inputs.image"
    assert answer.json()["error"].startswith("There is no room on the disk for ")
    disk(False)
    assert post("/prompt", prompt=graphs.load(value)).status_code == 200


def test_a_model_that_finds_no_room_is_said_so_and_leaves_nothing(
    post: Post, disk: Disk, outside: tuple[str, Outside], models: Path
) -> None:
    print("injected: no room for a model")
    body = {"url": f"{outside[0]}/model", "model_type": "loras", "filename": "m.safetensors", "wait": True}
    disk(True, room=5000)  # the half of it fits
    answer = post("/download", **body)
    assert (answer.status_code, answer.json()["code"]) == (507, "DISK_FULL")
    assert list((models / "loras").iterdir()) == []
    disk(False)
    assert post("/download", **body).status_code == 200
    assert [file.name for file in (models / "loras").iterdir()] == ["m.safetensors"]


def test_what_needs_no_room_runs_and_its_webhook_arrives(
    post: Post, disk: Disk, clean: Comfyui, outside: tuple[str, Outside]
) -> None:
    print("injected: no room for webhooks")
    disk(True)
    assert post("/prompt", prompt=graphs.empty()).status_code == 200
    assert post("/prompt", prompt=graphs.empty(), webhook_v2=f"{outside[0]}/hook").status_code == 202
    wait_until(lambda: len(outside[1].got) == 1)
    assert outside[1].got[0]["type"] == "prompt.complete"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Standin]:
    """A ComfyUI whose disk may be taken away."""
    made = Standin(tmp_path)
    yield made
    made.stop()


def test_outputs_that_find_no_room_fail_at_the_node_that_saves(own: Standin) -> None:
    print("injected: no room for the outputs")
    settings = Settings.from_environ({"COMFYUI_URL": own.url, "COMFY_HOME": str(own.base)})
    service = Service.load(settings.model_copy(update={"cache_dir": own.base / "cache"}))
    _, most = resource.prlimit(own.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    with pytest.raises(PromptFailed, match=r"Node 2 \(SaveImage\) failed: OSError: .*File too large"):
        run({"input": {"prompt": graphs.empty()}}, service)
    assert list((own.base / "output").iterdir()) == []
    resource.prlimit(own.process.pid, resource.RLIMIT_FSIZE, (most, most))
    assert len(run({"input": {"prompt": graphs.empty()}}, service)["images"]) == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_the_ways_in_which_a_disk_is_full(number: int) -> None:
    with pytest.raises(DiskFull, match=r"^There is no room on the disk for the inputs\.$"), writing("the inputs"):
        raise OSError(number, "full")


def test_a_disk_that_cannot_be_written_otherwise_is_not_full() -> None:
    with pytest.raises(HandlerError, match=r"^x cannot be written: Read-only\.$") as failure, writing("x"):
        raise OSError(errno.EROFS, "Read-only")
    assert failure.value.code == "INTERNAL"
