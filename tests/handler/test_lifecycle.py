"""ComfyUI and its service: started, warmed up, stopped."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from handler import HandlerError
from tests.support import graphs
from tests.support.paths import ROOT
from tests.support.processes import WARMUP, comfyui_processes, environment, lifecycle


def test_the_stand_in_is_started_warmed_up_and_stopped(tmp_path: Path) -> None:
    started = lifecycle(tmp_path, WARMUP_PROMPT_FILE=str(WARMUP))
    started.start()
    try:
        assert started.warm
        assert started.service.comfy.alive()
        assert list((tmp_path / "output").iterdir()) == []
    finally:
        started.stop()
    assert not started.service.comfy.alive()
    assert comfyui_processes(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"CMD": "/nope/x"}, "CMD cannot be launched: /nope/x: No such file or directory."),
        ({"CMD": "false"}, "ComfyUI exited with code 1 while it started."),
        ({"CMD": "true"}, "ComfyUI exited with code 0 while it started."),
        ({"CMD": "sleep 60", "STARTUP_CHECK_MAX_TRIES": "1"}, "did not answer at"),
        ({"CMD": "", "STARTUP_CHECK_MAX_TRIES": "1"}, "STARTUP_CHECK_MAX_TRIES"),
    ],
)
def test_a_comfyui_that_does_not_come_up_stops_the_start(tmp_path: Path, changes: dict[str, str], says: str) -> None:
    started = lifecycle(tmp_path, **changes)
    with pytest.raises(HandlerError, match=re.escape(says)):
        started.start()
    assert not started.warm
    assert (started.process.exit_code is None) == (changes["CMD"] in ("", "/nope/x"))


def test_a_warm_up_that_fails_stops_the_start(tmp_path: Path) -> None:
    file = tmp_path / "warmup.json"
    file.write_text(json.dumps(graphs.changed(graphs.txt2img(), "30", ckpt_name="none")))
    started = lifecycle(tmp_path, WARMUP_PROMPT_FILE=str(file))
    with pytest.raises(HandlerError, match="warm-up prompt failed: Node 30"):
        started.start()
    assert comfyui_processes(tmp_path) == []


def test_the_handler_works_from_a_bare_python(tmp_path: Path) -> None:
    event = {
        "input": {"workflow": "flux/txt2img", "input": {"prompt": "a fox", "width": 256, "height": 256}, "id": "x"}
    }
    code = f"from handler import handler; print(handler({event!r})['filenames'])"
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert shown.stdout == "['x_Flux_00001_.png']\n"
    assert comfyui_processes(tmp_path) == []
