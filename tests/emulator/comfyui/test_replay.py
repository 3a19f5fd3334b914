"""The stand-in answers recorded traffic of a real ComfyUI 0.3.64 as that one did."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import RECORDINGS
from tests.support.replay import Replay
from tests.support.standin import Standin

COMFYUI = RECORDINGS / "comfyui"
LEFT_OUT = {
    "cache_none_identical": "recorded with --cache-none, which the stand-in has not",
    "previews_no_client_id": "recorded with --preview-method, which the stand-in has not",
    "previews_plain": "recorded with --preview-method, which the stand-in has not",
    "previews_with_metadata": "recorded with --preview-method, which the stand-in has not",
    "prompt_other_outputs": "needs video and latent files; the animated WebP is tested in test_nodes.py",
    "zz_server_sigterm": "ends the server; tested in test_server.py",
}
# single requests of the front end that the stand-in does not answer
SKIPPED = {
    "information": {
        "/extensions": "lists the front end's files",
        "/userdata?dir=workflows": "no users",
        "/view_metadata/checkpoints?filename=dreamshaper_8.safetensors": "placeholders have no metadata",
        "/view_metadata/checkpoints?filename=x.txt": "placeholders have no metadata",
        "/view_metadata/checkpoints?filename=nope.safetensors": "placeholders have no metadata",
        "/experiment/models": "not used by clients",
        "/experiment/models/checkpoints": "not used by clients",
        "/internal/logs/raw": "not used by clients",
        "/internal/files/output": "not used by clients",
        "/": "the stand-in has its own page",
        "/index.html": "the stand-in has its own page",
    }
}
# a prompt is interrupted, or its client comes late: the number of reported steps is random
UNCOUNTED = {
    "interrupt_by_id",
    "interrupt_bystander",
    "interrupt_global",
    "ws_client_gone",
    "ws_reconnect_while_running",
}
# requests arrive while a prompt runs
UNORDERED = {
    "interrupt_by_id",
    "interrupt_global",
    "prompt_own_id",
    "prompt_same_twice_queued",
    "queue_five",
    "queue_delete_clear",
}
# what the recording client did to the server's disk, and before which event
DELETED = {"prompt_cached_file_gone": {41: "output/gone_00001_.png"}}


@pytest.fixture
def slow_standin(tmp_path: Path) -> Iterator[Standin]:
    server = Standin(tmp_path, "--step-ms", "30")
    yield server
    server.stop()


def names() -> list[str]:
    return sorted(file.stem for file in COMFYUI.glob("*.json") if file.stem != "object_info")


def load(name: str) -> Any:
    return json.loads((COMFYUI / f"{name}.json").read_text())


def replay(name: str, server: Standin) -> None:
    conversation = Replay(load(name), server, DELETED.get(name, {}), SKIPPED.get(name, {}))
    conversation.run(exactly=name not in UNCOUNTED, in_order=name not in UNORDERED)


REPLAYED = [name for name in names() if name not in LEFT_OUT and not name.startswith("zz_")]


@pytest.mark.parametrize("name", [name for name in REPLAYED if name not in UNCOUNTED])
def test_recorded_conversation_comes_out_the_same(name: str, standin: Standin) -> None:
    replay(name, standin)


@pytest.mark.parametrize("name", sorted(UNCOUNTED))
def test_what_happens_while_a_prompt_runs_comes_out_the_same(name: str, slow_standin: Standin) -> None:
    """The client's next request has to arrive while the sampler runs, on a busy machine as well."""
    replay(name, slow_standin)


def test_three_equal_entries_wedge_the_queue_as_in_the_real_one(own_standin: Standin) -> None:
    replay("zz_twin_prompts_wedge_server", own_standin)


def test_every_table_of_exceptions_names_existing_recordings() -> None:
    assert LEFT_OUT.keys() | SKIPPED.keys() | DELETED.keys() | UNCOUNTED | UNORDERED <= set(names())


def test_every_skipped_request_is_in_its_recording() -> None:
    for name, paths in SKIPPED.items():
        recorded = {event["request"]["path"] for event in load(name)["events"] if event["kind"] == "http"}
        assert paths.keys() <= recorded


def test_object_info_declares_the_nodes_as_the_real_one_does(standin: Standin) -> None:
    recorded, live = load("object_info"), standin.get("/object_info").json()

    shared = recorded.keys() & live.keys()

    assert {name for name in live.keys() - shared if not name.startswith("Emulator")} == set()
    # the recorded server had this one in a pack of stubs
    recorded["ImageResize+"]["python_module"] = live["ImageResize+"]["python_module"]
    # file lists are those of the disk
    for declaration in (recorded["LoadImage"], live["LoadImage"]):
        declaration["input"]["required"]["image"][0] = []
    assert {name: live[name] for name in shared} == {name: recorded[name] for name in shared}
