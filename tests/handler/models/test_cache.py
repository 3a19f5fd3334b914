import dataclasses
import hashlib
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from handler.errors import BadRequest, HandlerError, InputUnavailable
from handler.graphs.graph import ModelInput, model_inputs
from handler.graphs.node_classes import NodeClass, node_class
from handler.models.cache import ModelCache
from handler.models.index import Entry
from handler.schemas.credentials import BearerAuth
from handler.settings import Settings
from tests.support.live import served
from tests.support.model_server import Files
from tests.support.paths import ROOT

SAFETENSORS = (2).to_bytes(8, "little") + b"{}" + b"weights " * 20_000
OTHER = b"other" * 1000


@dataclasses.dataclass
class World:
    """A MODEL_DIR, a CACHE_DIR and a file server."""

    home: Path
    url: str
    files: Files
    events: list[tuple[str, dict[str, Any]]]

    def settings(self, **more: str) -> Settings:
        environ = {"COMFYUI_URL": "http://127.0.0.1:9", "COMFY_HOME": str(self.home), "ALLOW_PRIVATE_URLS": "true"}
        return Settings.from_environ({**environ, "CACHE_DIR": str(self.home / "cache"), **more})

    def models(self, **more: str) -> ModelCache:
        return ModelCache(self.settings(**more), lambda: {"upscale_models"}, lambda *event: self.events.append(event))

    def folder(self, name: str = "loras") -> set[str]:
        return {file.name for file in (self.home / "models" / name).iterdir()}


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Files]]:
    files = Files()
    with served(files.app()) as url:
        yield url, files


@pytest.fixture
def world(tmp_path: Path, server: tuple[str, Files]) -> World:
    for folder in ("checkpoints", "loras"):
        (tmp_path / "models" / folder).mkdir(parents=True)
    url, files = server
    files.renew({"/a/model.safetensors": SAFETENSORS, "/b/model.safetensors": OTHER, "/api/1287": SAFETENSORS})
    return World(tmp_path, url, files, [])


def bearer(token: str) -> BearerAuth:
    return BearerAuth(type="bearer", token=SecretStr(token))


def test_a_model_lands_in_its_folder_under_the_urls_name(world: World) -> None:
    path = world.models().download(f"{world.url}/a/model.safetensors?sig=secret", "loras")[0]
    assert path == world.home / "models/loras/model.safetensors"
    assert path.read_bytes() == SAFETENSORS
    assert world.folder() == {"model.safetensors"}
    ((event, facts),) = world.events
    assert event == "file_downloaded"
    assert (facts["url"], facts["local_path"]) == (f"{world.url}/a/model.safetensors", str(path))
    assert (facts["size"], facts["folder"], facts["filename"]) == (len(SAFETENSORS), "loras", "model.safetensors")
    assert "secret" not in (world.home / "cache/models.json").read_text()


def test_the_same_url_is_transferred_once_whatever_it_is_to_be_called(world: World) -> None:
    url = f"{world.url}/a/model.safetensors"
    first = world.models().download(url, "loras")[0]
    assert world.models().download(url, "loras")[0] == first
    again = world.models().download(url, "checkpoints", filename="mine.safetensors")[0]
    assert again.read_bytes() == SAFETENSORS
    assert len(world.files.asked) == 1


def test_a_file_of_another_url_or_of_the_operator_is_not_taken_for_it(world: World) -> None:
    models = world.models()
    models.download(f"{world.url}/a/model.safetensors", "loras")
    own = world.home / "models/loras/own.safetensors"
    own.write_bytes(b"own")
    for name in ("model.safetensors", "own.safetensors"):
        with pytest.raises(BadRequest, match=f"loras/{name} exists already") as caught:
            models.download(f"{world.url}/b/model.safetensors", "loras", filename=name)
        assert caught.value.location == "filename"
    assert own.read_bytes() == b"own"
    models.download(f"{world.url}/b/x", "loras", filename="own.safetensors", sha256=hashlib.sha256(b"own").hexdigest())


def test_what_breaks_off_goes_on_where_it_was(world: World) -> None:
    world.files.breaks["/a/model.safetensors"] = 2
    path = world.models().download(f"{world.url}/a/model.safetensors", "loras")[0]
    assert path.read_bytes() == SAFETENSORS
    assert [begin is None for _, begin in world.files.asked] == [True, False, False]
    assert world.files.sent["/a/model.safetensors"] < 1.2 * len(SAFETENSORS)


def test_a_later_call_goes_on_with_what_was_left(world: World) -> None:
    world.files.breaks["/a/model.safetensors"] = 3
    with pytest.raises(InputUnavailable, match="broke off"):
        world.models().download(f"{world.url}/a/model.safetensors", "loras")
    part, version = sorted(world.folder())
    assert part.startswith(".model.safetensors.part-")
    assert version == f"{part}.version"
    path = world.models().download(f"{world.url}/a/model.safetensors", "loras")[0]
    assert path.read_bytes() == SAFETENSORS
    assert world.files.sent["/a/model.safetensors"] < 1.3 * len(SAFETENSORS)
    assert world.folder() == {"model.safetensors"}


def test_what_was_left_is_not_gone_on_with_when_the_file_has_changed(world: World) -> None:
    """The two halves of two versions made one file, which had the right size."""
    world.files.breaks["/a/model.safetensors"] = 3
    with pytest.raises(InputUnavailable, match="broke off"):
        world.models().download(f"{world.url}/a/model.safetensors", "loras")
    changed = world.files.content["/a/model.safetensors"] = SAFETENSORS.replace(b"weights", b"WEIGHTS")
    path = world.models().download(f"{world.url}/a/model.safetensors", "loras")[0]
    assert path.read_bytes() == changed
    assert world.folder() == {"model.safetensors"}


def test_what_broke_off_long_ago_is_removed(world: World) -> None:
    old = world.home / "models/loras/.old.safetensors.part-0123"
    old.write_bytes(b"half")
    os.utime(old, (1, 1))
    world.models().download(f"{world.url}/a/model.safetensors", "loras")
    assert world.folder() == {"model.safetensors"}


def test_what_does_not_exist_is_asked_for_once_and_leaves_nothing(world: World) -> None:
    with pytest.raises(InputUnavailable, match="404"):
        world.models().download(f"{world.url}/none.safetensors", "loras")
    assert len(world.files.asked) == 1
    assert world.folder() == set()


def test_a_wrong_sha256_is_named_and_leaves_nothing(world: World) -> None:
    found = hashlib.sha256(SAFETENSORS).hexdigest()
    with pytest.raises(InputUnavailable, match=f"has the sha256 {found}, not {'0' * 64}"):
        world.models().download(f"{world.url}/a/model.safetensors", "loras", sha256="0" * 64)
    assert world.folder() == set()
    path = world.models().download(f"{world.url}/a/model.safetensors", "loras", sha256=found.upper())[0]
    assert path.read_bytes() == SAFETENSORS


def test_a_file_with_another_sha256_than_is_wanted_now_is_fetched_anew(world: World) -> None:
    url = f"{world.url}/a/model.safetensors"
    world.models().download(url, "loras")
    world.files.content["/a/model.safetensors"] = OTHER
    path = world.models().download(url, "loras", sha256=hashlib.sha256(OTHER).hexdigest())[0]
    assert path.read_bytes() == OTHER


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("../trav.safetensors", "trav.safetensors"),
        ("a/b/c.safetensors", "c.safetensors"),
        ("..\\x.safetensors", "x.safetensors"),
        (".hidden", "hidden"),
        ("ünï 1.safetensors", "ünï 1.safetensors"),
        ("/etc/passwd", None),
        ("C:\\x", None),
        ("", None),
        ("..", None),
        ("a/", None),
        ("a\0b", None),
        ("x" * 300, None),
    ],
)
def test_a_name_stays_in_the_folder(world: World, given: str, name: str | None) -> None:
    if name is None:
        with pytest.raises(BadRequest, match="cannot be the name"):
            world.models().download(f"{world.url}/a/model.safetensors", "loras", filename=given)
        assert world.files.asked == []
    else:
        path = world.models().download(f"{world.url}/a/model.safetensors", "loras", filename=given)[0]
        assert path == world.home / "models/loras" / name


@pytest.mark.parametrize(
    "folder", ["nope", "", ".", "..", "loras/..", "/tmp", "../input", "custom_nodes", "loras//", "\u00fc" * 200]
)
def test_a_folder_is_one_of_comfyuis(world: World, folder: str) -> None:
    (world.home / "models/custom_nodes").mkdir()
    with pytest.raises(BadRequest, match="no model folder") as caught:
        world.models().download(f"{world.url}/a/model.safetensors", folder)
    assert caught.value.location == "model_type"


def test_a_folder_that_only_comfyui_knows_is_made(world: World) -> None:
    world.models().download(f"{world.url}/a/model.safetensors", "upscale_models")
    assert world.folder("upscale_models") == {"model.safetensors"}


def test_a_link_inside_a_model_folder_does_not_lead_out(world: World) -> None:
    (world.home / "models/loras/out").symlink_to(world.home)
    with pytest.raises(BadRequest, match="leads out"):
        world.models().folder("loras/out")


def test_a_model_folder_may_be_a_link_to_a_volume(world: World) -> None:
    (world.home / "volume").mkdir()
    (world.home / "models/vae").symlink_to(world.home / "volume")
    world.models().download(f"{world.url}/a/model.safetensors", "vae")
    assert {file.name for file in (world.home / "volume").iterdir()} == {"model.safetensors"}


def test_without_a_model_dir_the_error_names_it(world: World) -> None:
    with pytest.raises(BadRequest, match="MODEL_DIR='/nowhere/models'"):
        world.models(MODEL_DIR="/nowhere/models").download(f"{world.url}/a/model.safetensors", "loras")


def test_what_credentials_opened_is_not_given_to_others(world: World) -> None:
    url = f"{world.url}/a/model.safetensors"
    world.files.tokens["/a/model.safetensors"] = "right"
    models = world.models()
    path = models.download(url, "loras", auth=bearer("right"))[0]
    inode = path.stat().st_ino
    for auth in (None, bearer("wrong")):
        for filename in (None, "mine.safetensors"):
            with pytest.raises(InputUnavailable, match="401"):
                models.download(url, "loras", filename=filename, auth=auth)
    assert models.download(url, "loras", auth=bearer("right"))[0] == path
    assert world.folder() == {"model.safetensors"}
    assert path.stat().st_ino == inode


def test_threads_that_ask_at_once_share_one_transfer(world: World) -> None:
    world.files.delay_s = 0.02
    models, found = world.models(), []
    url = f"{world.url}/a/model.safetensors"
    threads = [
        threading.Thread(target=lambda: found.append(models.download(url, "loras")[0].read_bytes())) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == [SAFETENSORS] * 8
    assert len(world.files.asked) == 1


def test_processes_that_ask_at_once_share_one_transfer(world: World) -> None:
    world.files.delay_s = 0.15
    code = f"""
from handler.models.cache import ModelCache
from handler.settings import Settings
from tests.support.paths import ROOT
settings = Settings.from_environ({{"COMFYUI_URL": "http://127.0.0.1:9", "COMFY_HOME": {str(world.home)!r},
    "CACHE_DIR": {str(world.home / "cache")!r}, "ALLOW_PRIVATE_URLS": "true"}})
print(ModelCache(settings).download({world.url + "/a/model.safetensors"!r}, "loras")[1])
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(3)
    ]
    assert [process.communicate(timeout=30)[0] for process in processes] == [f"{len(SAFETENSORS)}\n"] * 3
    assert len(world.files.asked) == 1


def place(value: str, folder: str = "checkpoints") -> ModelInput:
    return ModelInput("4", "ckpt_name", value, folder)


GRAPH: Any = {"4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "?"}}}


def test_a_url_in_a_graph_becomes_a_name_that_is_the_urls_own(world: World) -> None:
    models = world.models()
    (world.home / "models/checkpoints/model.safetensors").write_bytes(b"own")
    done = {}
    for path in ("a", "b"):
        graph, hold = models.fetch(GRAPH, [place(f"{world.url}/{path}/model.safetensors")], lambda _: None)
        hold.close()
        done[path] = graph["4"]["inputs"]["ckpt_name"]
    assert len(set(done.values())) == 2
    assert all(name.endswith("-model.safetensors") for name in done.values())
    assert (world.home / "models/checkpoints" / done["b"]).read_bytes() == OTHER
    models.fetch(GRAPH, [place(f"{world.url}/a/model.safetensors")], lambda _: None)[1].close()
    assert len(world.files.asked) == 2
    assert GRAPH["4"]["inputs"]["ckpt_name"] == "?"


def test_a_graph_uses_what_was_downloaded_before_under_its_name(world: World) -> None:
    models = world.models()
    models.download(f"{world.url}/a/model.safetensors", "checkpoints")
    graph, hold = models.fetch(GRAPH, [place(f"{world.url}/a/model.safetensors")], lambda _: None)
    hold.close()
    assert graph["4"]["inputs"]["ckpt_name"] == "model.safetensors"


def test_a_name_without_an_ending_gets_the_one_of_its_content(world: World) -> None:
    """Civitai's URLs end with a number, and ComfyUI does not list a file of that name."""
    graph, hold = world.models().fetch(GRAPH, [place(f"{world.url}/api/1287?type=Model")], lambda _: None)
    hold.close()
    assert graph["4"]["inputs"]["ckpt_name"].endswith("-1287.safetensors")
    assert world.models().download(f"{world.url}/api/1287", "loras")[0].name == "1287.safetensors"
    assert world.models().download(f"{world.url}/api/1287", "loras")[0].name == "1287.safetensors"
    assert len(world.files.asked) == 2


def test_a_graphs_failure_names_the_input(world: World) -> None:
    world.files.tokens["/a/model.safetensors"] = "right"
    asked = []

    def auth_for(url: str) -> BearerAuth:
        asked.append(url)
        return bearer("wrong")

    with pytest.raises(InputUnavailable) as caught:
        world.models().fetch(GRAPH, [place(f"{world.url}/a/model.safetensors")], auth_for)
    assert caught.value.location == "prompt.4.inputs.ckpt_name"
    assert asked == [f"{world.url}/a/model.safetensors"]


def test_model_inputs_are_the_lists_that_comfyui_declares() -> None:
    names: list[Any] = [["a.safetensors"]]
    loader = node_class("CLIPVisionLoader", {"input": {"required": {"clip_name": names}}})
    assert loader.models == {"clip_name": "clip_vision"}
    combo = {"input": {"required": {"clip_name1": ["COMBO", {"options": []}], "text": ["STRING", {}]}}}
    assert node_class("TripleCLIPLoader", combo).models == {"clip_name1": "text_encoders"}
    assert node_class("Custom", {"input": {"required": {"ckpt_name": ["STRING", {}]}}}).models == {}
    graph: Any = {
        "1": {"class_type": "A", "inputs": {"unet_name": "http://x/y", "other": "http://x/z"}},
        "2": {"class_type": "A", "inputs": {"unet_name": ["1", 0]}},
        "3": {"class_type": "Unknown", "inputs": {"unet_name": "http://x/y"}},
    }
    found = model_inputs(graph, {"A": NodeClass(models={"unet_name": "diffusion_models"}), "Unknown": None})
    assert found == [ModelInput("1", "unet_name", "http://x/y", "diffusion_models")]


def limited(world: World, *, files: float) -> ModelCache:
    """Models with room for so many files of SAFETENSORS's size."""
    return world.models(LRU_CACHE_SIZE_GB=str(files * len(SAFETENSORS) / (1 << 30)))


def fill(world: World, models: ModelCache, *names: str) -> None:
    for name in names:
        world.files.content[f"/{name}.safetensors"] = SAFETENSORS
        models.download(f"{world.url}/{name}.safetensors", "loras")
        time.sleep(0.01)


def test_the_least_recently_used_goes_first_and_only_what_was_downloaded(world: World) -> None:
    own = world.home / "models/loras/own.safetensors"
    own.write_bytes(SAFETENSORS * 5)
    models = limited(world, files=2.5)
    fill(world, models, "one", "two")
    models.download(f"{world.url}/one.safetensors", "loras")
    fill(world, models, "three")
    assert world.folder() == {"own.safetensors", "one.safetensors", "three.safetensors"}
    deleted = [facts for event, facts in world.events if event == "file_deleted"]
    assert [facts["local_path"] for facts in deleted] == [str(world.home / "models/loras/two.safetensors")]
    models.download(f"{world.url}/two.safetensors", "loras")
    assert len(world.files.asked) == 4


def test_what_a_job_uses_stays_even_for_another_process(world: World) -> None:
    models = limited(world, files=1.5)
    fill(world, models, "one")
    _, by_name = models.fetch(GRAPH, [place("one.safetensors", "loras")], lambda _: None)
    # Another Models is what another process has: they share nothing but the disk.
    other = limited(world, files=1.5)
    fill(world, other, "two", "three")
    assert world.folder() == {"one.safetensors", "three.safetensors"}
    by_name.close()
    fill(world, other, "four")
    assert world.folder() == {"four.safetensors"}


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("unet", "diffusion_models"), ("diffusion_models", "diffusion_models"), ("clip", "text_encoders")],
)
def test_what_a_job_uses_stays_in_whichever_folder_comfyui_finds_it(world: World, folder: str, kind: str) -> None:
    """ComfyUI looks for a diffusion model in models/unet, too: such a file was removed under the job that used it."""
    (world.home / "models" / folder).mkdir()
    models = limited(world, files=1.5)
    world.files.content["/one.safetensors"] = SAFETENSORS
    used = models.download(f"{world.url}/one.safetensors", folder)[0]
    _, hold = models.fetch(GRAPH, [place("one.safetensors", kind)], lambda _: None)
    fill(world, models, "two", "three")
    assert used.exists()
    hold.close()
    fill(world, models, "four")
    assert not used.exists()


def test_to_be_used_counts_in_whichever_folder_comfyui_finds_it(world: World) -> None:
    (world.home / "models/unet").mkdir()
    models = limited(world, files=2.5)
    world.files.content["/one.safetensors"] = SAFETENSORS
    used = models.download(f"{world.url}/one.safetensors", "unet")[0]
    fill(world, models, "two")
    models.fetch(GRAPH, [place("one.safetensors", "diffusion_models")], lambda _: None)[1].close()
    fill(world, models, "three")
    assert used.exists()
    assert world.folder() == {"three.safetensors"}


def test_what_the_manifest_asked_for_stays_and_does_not_count(world: World) -> None:
    models = limited(world, files=1.5)
    pinned = world.home / "models/loras/pinned.safetensors"
    models.install(f"{world.url}/a/model.safetensors", pinned)
    fill(world, models, "one", "two")
    assert world.folder() == {"pinned.safetensors", "two.safetensors"}


def test_a_folder_is_not_taken_for_the_model(world: World) -> None:
    """It was "there already", and the model was missing."""
    with pytest.raises(BadRequest, match="models/loras exists already"):
        world.models().install(f"{world.url}/a/model.safetensors", world.home / "models/loras")
    (world.home / "models/loras/sub").mkdir()
    for sha256 in (None, "0" * 64):
        with pytest.raises(BadRequest, match="loras/sub exists already"):
            world.models().download(f"{world.url}/a/model.safetensors", "loras", filename="sub", sha256=sha256)
    assert world.files.asked == []


def test_a_file_that_is_removed_while_it_is_looked_at_is_not_there(tmp_path: Path) -> None:
    """Between the question whether it is a file and the one for its size it was gone: FileNotFoundError."""
    file, stop = tmp_path / "file", threading.Event()
    entry = Entry(url="", key="", size=1, private=False, pinned=False, used=0)

    def come_and_go() -> None:
        while not stop.is_set():
            file.write_bytes(b"x")
            file.unlink()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            entry.is_at(file)
    finally:
        stop.set()
        thread.join(20)


def test_the_files_of_locks_do_not_grow_in_number_for_ever(world: World) -> None:
    """There was one for every URL that was ever asked for, and each signature makes another URL."""
    for number in range(5):
        world.models().download(f"{world.url}/a/model.safetensors?signature={number}", "loras", filename=f"{number}")
    names = [file.name for file in (world.home / "cache/locks").iterdir()]
    assert [name for name in names if not re.fullmatch(r"([0-9a-f]{4}|index)\.lock", name)] == []


def test_a_url_that_is_none_is_the_callers_fault(world: World) -> None:
    for url in ("http://[x/y.safetensors", "http://", "hf://"):
        with pytest.raises(BadRequest) as caught:
            world.models().fetch(GRAPH, [place(url)], lambda _: None)
        assert caught.value.location == "prompt.4.inputs.ckpt_name"
    assert world.folder("checkpoints") == set()


def test_a_broken_index_starts_empty(world: World, caplog: pytest.LogCaptureFixture) -> None:
    models = world.models()
    models.download(f"{world.url}/a/model.safetensors", "loras")
    (world.home / "cache/models.json").write_text("{")
    with caplog.at_level(logging.WARNING), pytest.raises(BadRequest, match="exists already"):
        models.download(f"{world.url}/a/model.safetensors", "loras")
    assert "cannot be read" in caplog.text


def test_a_cache_dir_that_cannot_be_written_is_named(world: World) -> None:
    (world.home / "cache").write_text("a file")
    with pytest.raises(HandlerError, match="CACHE_DIR="):
        world.models().download(f"{world.url}/a/model.safetensors", "loras")
