"""Names that lead out of a folder: nothing is read or written outside of the job's folders and the model folders."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from handler import Settings
from handler.errors import OutputError
from handler.jobs import outputs
from tests.support import graphs
from tests.support.api import Api, api_with
from tests.support.comfyui import Comfyui
from tests.support.raw import saying, scripted

NAMES = {
    "up": "../evil",
    "far up": "../../../../../../../../../../tmp/evil",
    "absolute": "/tmp/evil",
    "home": "~/evil",
    "a drive": "C:\\evil",
    "backslashes": "..\\..\\evil",
    "mixed": "a/..\\../..//evil",
    "dots only": "..",
    "dots and spaces": ".. /. ./evil",
    "NUL": "evil\0.png",
    "new lines": "evil\r\nX: y",
    "very long": "evil" * 20_000,
    "a long part": "a/" * 60 + "evil" * 100,
    "long in bytes": "evil" + "\N{FOX FACE}" * 60,
    "two dots in other letters": "\N{TWO DOT LEADER}/\N{ONE DOT LEADER}./evil",
    "a slash in another letter": "..\N{FRACTION SLASH}..\N{DIVISION SLASH}\N{FULLWIDTH SOLIDUS}evil",
    "percent": "%2e%2e%2fevil",
    "percent twice": "..%252f..%252fevil",
    "overlong": "..%c0%af..%c0%afevil",
    "ComfyUI's own": "%year%/%2.inputs.filename_prefix%/evil",
    "right to left": "\N{RIGHT-TO-LEFT OVERRIDE}gnp.live",
    "a device": "/dev/null",
    "a process": "/proc/self/environ",
    "hidden": ".evil",
    "an option": "-rf evil",
    "a variable": "${HOME}/evil",
    "a command": "$(touch /tmp/evil)`touch /tmp/evil`;evil",
    "a bracket of ComfyUI's": "evil [output]",
}


@pytest.fixture(scope="module")
def inside(comfyui: Comfyui, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The HTTP API, all of whose folders are known."""
    models, cache = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("cache")
    (models / "loras").mkdir()
    (models / "loras/out").symlink_to(tmp_path_factory.mktemp("outside"))
    with api_with(settings, model_dir=models, cache_dir=cache) as url:
        yield lambda path, **body: requests.post(url + path, json=body, timeout=30)


def everything(comfyui: Comfyui) -> set[str]:
    """What lies around the folders of ComfyUI, and where names like these could lead."""
    around = (comfyui.home, comfyui.home.parent, comfyui.home.parent.parent, Path("/tmp"), Path("/"), Path.home())
    return {str(path) for folder in around for path in folder.iterdir() if "pytest" not in path.name} | comfyui.files()


@pytest.fixture
def nothing_else(comfyui: Comfyui) -> Iterator[None]:
    """The check that nothing is left anywhere, and that nothing was named `evil`."""
    before = everything(comfyui)
    yield
    assert {name for name in everything(comfyui) - before if "evil" in name or str(comfyui.home) in name} == set()


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_an_id_and_a_prefix_stay_in_the_job_s_folder(
    inside: Api, clean: Comfyui, nothing_else: None, name: str
) -> None:
    graph = graphs.changed(graphs.empty(), "2", filename_prefix=name)
    for body in ({"prompt": graph}, {"prompt": graphs.empty(), "id": name[:255]}):
        answer = inside("/prompt", **body)
        assert answer.status_code == 200, answer.text
        (filename,) = answer.json()["filenames"]
        assert ".." not in Path(filename).parts
        assert not filename.startswith("/")
        assert all(len(part.encode()) <= 255 for part in Path(filename).parts)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_an_input_s_name_reads_nothing_outside(inside: Api, clean: Comfyui, nothing_else: None, name: str) -> None:
    outside = clean.home / "evil"
    outside.write_bytes(graphs.picture(color="red"))
    try:
        for value in (name, str(outside), os.path.relpath(outside, clean.home / "input"), f"x/../../{outside.name}"):
            answer = inside("/prompt", prompt=graphs.load(value))
            assert answer.status_code in (400, 413), answer.text
            assert answer.json()["location"] == "prompt.1.inputs.image"
    finally:
        outside.unlink()


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_model_s_name_and_folder_stay_in_the_model_folders(
    inside: Api, nothing_else: None, tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    with scripted(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")) as url:
        for wanted in (
            {"filename": name},
            {"model_type": name},
            {"model_type": f"loras/{name}"},
            {"model_type": "loras/out"},
        ):
            answer = inside("/download", **{"url": f"{url}/evil.pt", "model_type": "loras", "wait": True, **wanted})
            if "filename" in wanted and answer.status_code == 200:
                filename = answer.json()["filename"]
                assert filename == Path(filename).name
                assert not filename.startswith(".")
            else:
                assert answer.status_code == 400, answer.text
        named = inside("/download", url=f"{url}/{quote(name, safe='')}", model_type="loras", wait=True)
        assert named.status_code in (200, 400)
    root = tmp_path_factory.getbasetemp()
    assert [path for path in root.glob("outside*/*") if path.exists()] == []


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_in_a_graph_s_model_list_is_not_in_the_list(inside: Api, clean: Comfyui, name: str) -> None:
    answer = inside("/prompt", prompt=graphs.changed(graphs.txt2img(), "30", ckpt_name=name))
    assert answer.status_code == 400
    assert answer.json()["location"] == "prompt.30.inputs.ckpt_name"
    assert len(answer.text) < 2000


def test_a_link_among_the_outputs_does_not_lead_out(inside: Api, clean: Comfyui, tmp_path: Path) -> None:
    """A node's word, or a link that it left, is no reason to read a file from elsewhere on this disk."""
    (tmp_path / "secret.png").write_bytes(graphs.picture())
    folder = tmp_path / "output"
    (folder / "job").mkdir(parents=True)
    (folder / "job" / "link.png").symlink_to(tmp_path / "secret.png")

    class Nowhere:
        def view(self, **_names: Any) -> None:
            return None

    for name in ("link.png", "../../secret.png", str(tmp_path / "secret.png"), "../job/link.png"):
        ui = {"2": {"images": [{"filename": name, "subfolder": "job", "type": "output"}]}}
        with pytest.raises(OutputError, match="cannot be read"):
            outputs.read_outputs(ui, graphs.empty(), Nowhere(), output_dir=folder, folder="job")  # type: ignore[arg-type]
