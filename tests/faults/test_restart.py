"""ALWAYS_RESTART_COMFYUI: a ComfyUI that ends is started anew, and the probes tell the truth meanwhile."""

import os
import re
import signal
import sys
from pathlib import Path

import pytest
import requests

from tests.support import graphs
from tests.support.processes import WARMUP, comfyui_processes, environment, running
from tests.support.waiting import wait_until


def test_a_killed_comfyui_is_started_anew(tmp_path: Path) -> None:
    env = environment(tmp_path, ALWAYS_RESTART_COMFYUI="true", WARMUP_PROMPT_FILE=str(WARMUP))
    with running("emulator", env) as server:
        wait_until(lambda: "ready at" in server.text())
        url = re.findall(r"ready at (\S+),", server.text())[0]
        (first,) = comfyui_processes(tmp_path)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: requests.get(f"{url}/ready", timeout=30).status_code == 503)
        assert requests.get(f"{url}/health", timeout=30).status_code == 200
        answer = requests.post(f"{url}/prompt", json={"prompt": graphs.empty()}, timeout=60)
        assert (answer.status_code, answer.json()["code"]) == (503, "COMFYUI_UNREACHABLE")
        assert int(answer.headers["Retry-After"]) > 0
        wait_until(lambda: requests.get(f"{url}/ready", timeout=30).status_code == 200)
        assert comfyui_processes(tmp_path) != [first]
        answer = requests.post(f"{url}/prompt", json={"prompt": graphs.empty()}, timeout=60)
        assert answer.status_code == 200
        assert server.text().count("running the warm-up prompt") == 2
        server.child.send_signal(signal.SIGTERM)
        assert server.wait() == 0
    assert comfyui_processes(tmp_path) == []


@pytest.mark.parametrize("code", [0, 1])
def test_the_exit_code_does_not_matter(tmp_path: Path, code: int) -> None:
    """The reference never restarts a ComfyUI that exits with 0."""
    marker = tmp_path / "started-once"
    env = environment(tmp_path, ALWAYS_RESTART_COMFYUI="true")
    launch = f"{sys.executable} -m emulator.comfyui --port {env['COMFYUI_PORT_HOST']} --base-dir {tmp_path}"
    once = f"test -e {marker} && exec {launch}; touch {marker}; exit {code}"
    with running("emulator", {**env, "CMD": f"bash -c '{once}'"}) as server:
        wait_until(lambda: "ready at" in server.text())
        assert f"ComfyUI exited with code {code}" in server.text()
