"""Where model files lie: what an error says of a model that ComfyUI does not list, and what NETWORK_VOLUME_DEBUG logs."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette

from handler import HandlerError, Service
from handler.comfyui.client import ComfyClient
from handler.models.search import ModelSearch, describe_volumes, log_volumes, walk_files
from handler.pipeline import run
from tests.support import graphs
from tests.support.live import served
from tests.support.volumes import settings, started, touched


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Path]]:
    """A service with a ComfyUI that has a volume."""
    top = tmp_path_factory.mktemp("world")
    volume = touched(
        top / "volume",
        *("models/loras/misplaced.safetensors", "models/checkpoints/sdxl/deeper.safetensors"),
        *("downloads/new/unlisted.safetensors", "models/checkpoints/notes.txt", "models/loras/notes.txt"),
        *("downloads/.hidden/hidden.safetensors", "custom_nodes/x/node.safetensors"),
    )
    touched(top, "secret.safetensors")
    (volume / "link").symlink_to(top)
    host = started(top / "home", volume)
    host.start()
    yield host.service, volume
    host.stop()


def refusal(service: Service, name: str) -> str:
    with pytest.raises(HandlerError) as caught:
        run({"input": {"prompt": graphs.changed(graphs.txt2img(), "30", ckpt_name=name)}}, service)
    assert (caught.value.code, caught.value.location) == ("PROMPT_REJECTED", "prompt.30.inputs.ckpt_name")
    return caught.value.message


@pytest.mark.parametrize(
    ("name", "lies_in"),
    [
        ("misplaced.safetensors", "models/loras"),
        ("deeper.safetensors", "models/checkpoints/sdxl"),
        ("sd15/deeper.safetensors", "models/checkpoints/sdxl"),
        ("unlisted.safetensors", "downloads/new"),
    ],
)
def test_a_model_that_lies_elsewhere_is_named_with_its_folder(
    world: tuple[Service, Path], name: str, lies_in: str
) -> None:
    service, volume = world
    looked = f"ComfyUI looked in {service.settings.model_dir}/checkpoints and {volume}/models/checkpoints"
    said = refusal(service, name)
    assert f"{name!r} is not in the list; {looked}; a file of that name lies in {volume}/{lies_in}" in said
    assert "did you mean" in said or "; it has " in said


@pytest.mark.parametrize(
    "name", ["nowhere.safetensors", "hidden.safetensors", "node.safetensors", "secret.safetensors"]
)
def test_a_model_that_lies_nowhere_has_the_folders_that_were_looked_in(world: tuple[Service, Path], name: str) -> None:
    """Nor does what is hidden, what belongs to custom nodes, or what a link leads out to."""
    service, volume = world
    said = refusal(service, name)
    assert f"and {volume}/models/checkpoints; " in said
    assert "lies in" not in said


@pytest.mark.parametrize(
    "name",
    [
        *("../loras/misplaced.safetensors", "..\\loras\\misplaced.safetensors", "sub/../../x.safetensors"),
        *("/etc/misplaced.safetensors", "notes.txt", "misplaced", "", "a\0b/misplaced.png"),
    ],
)
def test_what_is_no_name_of_a_model_is_told_nothing(world: tuple[Service, Path], name: str) -> None:
    service, volume = world
    said = refusal(service, name)
    assert "ComfyUI looked in" not in said
    assert str(volume) not in said


def test_odd_names_of_models_are_harmless(tmp_path: Path) -> None:
    touched(tmp_path, "models/loras/x.safetensors")
    where = ModelSearch(settings(tmp_path, tmp_path))
    told = {"checkpoints": ["/nope/checkpoints"]}
    for folder in ("a\0b", "x" * 5000, ".", "ü\ud800"):
        said = where.describe("checkpoints", f"{folder}/x.safetensors", lambda: told)
        assert said.startswith("; ComfyUI looked in /nope/checkpoints; a file of that name lies in ")


def test_one_look_serves_many_models(tmp_path: Path) -> None:
    asked: list[None] = []

    def told() -> dict[str, list[str]]:
        asked.append(None)
        return {"loras": [str(tmp_path)]}

    where = ModelSearch(settings(tmp_path, tmp_path))
    assert [where.describe("loras", f"{n}.pt", told) for n in range(5)] == [f"; ComfyUI looked in {tmp_path}"] * 5
    assert len(asked) == 1


def test_a_comfyui_that_does_not_tell_its_folders_is_no_trouble(tmp_path: Path) -> None:
    with served(Starlette()) as url:
        told = ComfyClient(url).folder_paths
        assert told() == {}
        assert ModelSearch(settings(tmp_path, tmp_path)).describe("loras", "x.pt", told) == ""


def test_a_look_ends(tmp_path: Path) -> None:
    """In spite of links in a circle, endless depth, and no time."""
    deep = Path(*"abcdefghij")
    touched(tmp_path, "top.pt", "a/b/c/inner.pt", str(deep / "deepest.pt"))
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    found = [entry.name for entry in walk_files([tmp_path, tmp_path / "a"], time.monotonic() + 60)]
    assert found == ["top.pt", "inner.pt"]
    assert list(walk_files([tmp_path], time.monotonic() - 1)) == []


def test_what_was_found_is_logged_on_demand(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    volume = touched(tmp_path / "volume", "models/checkpoints/notes.txt", "models/configs/v1.yaml", "models/mine/any.x")
    (volume / "models" / "checkpoints" / "big.safetensors").write_bytes(bytes(20_000_000))
    given = settings(tmp_path, volume, tmp_path / "missing")
    with caplog.at_level("INFO"):
        log_volumes(given)
        assert caplog.messages == []
        log_volumes(given.model_copy(update={"network_volume_debug": True}))
    text = caplog.text
    assert f"{volume} is there, but nothing is mounted on it" in text
    assert f"{tmp_path / 'missing'} is not there" in text
    ignored = "1 file, 0.02 GB; ignored because of their ending: notes.txt"
    assert f"{volume}/models/checkpoints (checkpoints): {ignored}" in text
    assert f"{volume}/models/configs (configs): 1 file, 0.00 GB\n" in text
    assert f"{volume}/models/mine (mine): 1 file, 0.00 GB\n" in text
    assert '"checkpoints": |-' in text


def test_a_volume_without_folders_of_models_is_told_how_they_are_named(tmp_path: Path) -> None:
    messages = list(describe_volumes(settings(tmp_path, tmp_path)))
    assert messages[0] == f"{tmp_path} is there, but nothing is mounted on it"
    assert messages[1].startswith("no folder of models was found; they may be models/checkpoints, ")
    assert messages[-1] == "ComfyUI is told of no further folder"
