"""The HTTP API as a process: `python -m emulator`."""

import os
import re
import signal
import socket
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from tests.support import graphs
from tests.support.comfyui import Comfyui
from tests.support.processes import WARMUP, comfyui_processes, environment, running
from tests.support.raw import answered
from tests.support.waiting import wait_until


def test_the_http_api_starts_answers_and_ends_on_sigterm(tmp_path: Path) -> None:
    with running("emulator", environment(tmp_path, WARMUP_PROMPT_FILE=str(WARMUP))) as server:
        wait_until(lambda: "curl -s" in server.text())
        url = re.findall(r"ready at (\S+),", server.text())[0]
        assert f"{url}/docs" in server.text()
        for address in (url, url.replace("localhost", "127.0.0.1"), url.replace("localhost", "[::1]")):
            assert requests.get(f"{address}/ready", timeout=30).status_code == 200
        body = {"input": {"prompt": "a fox", "width": 256, "height": 256}}
        answer = requests.post(f"{url}/workflow/flux/txt2img", json=body, timeout=30)
        assert graphs.opened(answer.json()["images"][0]).size == (256, 256)
        server.child.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "Traceback" not in server.text()
    assert comfyui_processes(tmp_path) == []


def test_an_idle_connection_is_kept_as_long_as_load_balancers_keep_it(tmp_path: Path, comfyui: Comfyui) -> None:
    with running("emulator", environment(tmp_path, COMFYUI_URL=comfyui.url)) as server:
        wait_until(lambda: "curl -s" in server.text())
        url = urlsplit(re.findall(r"ready at (\S+),", server.text())[0])
        with socket.create_connection((str(url.hostname), int(url.port or 0)), timeout=30) as kept:
            for pause_s in (0, 7):  # uvicorn's own limit is 5
                time.sleep(pause_s)
                kept.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                assert answered(kept)[0] == 200


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"PORT": "http"}, "cannot start: PORT='http'"),
        ({"HOST": "192.0.2.1"}, "cannot start: HOST='192.0.2.1'"),
        ({"WORKFLOW_DIR": "/nope"}, "cannot start: WORKFLOW_DIR='/nope'"),
        ({"WARMUP_PROMPT_FILE": "/nope.json"}, "cannot start: WARMUP_PROMPT_FILE='/nope.json'"),
        ({"CMD": "/nope/x"}, "cannot start: CMD cannot be launched: /nope/x"),
    ],
)
def test_a_bad_configuration_ends_the_start_with_one_line(tmp_path: Path, changes: dict[str, str], says: str) -> None:
    with running("emulator", environment(tmp_path, **changes)) as server:
        assert server.wait() == 1
        assert says in server.text()
        assert "Traceback" not in server.text()


def test_the_server_ends_with_comfyui_s_exit_code(tmp_path: Path) -> None:
    env = environment(tmp_path)
    launch = f"{sys.executable} -m emulator.comfyui --port {env['COMFYUI_PORT_HOST']} --base-dir {tmp_path}"
    with running("emulator", {**env, "CMD": f"bash -c '{launch} & wait; exit 7'"}) as server:
        wait_until(lambda: "ready at" in server.text())
        for pid in comfyui_processes(tmp_path):
            if b"bash" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        assert server.wait() == 7
        assert "ComfyUI exited with code 7" in server.text()
    assert comfyui_processes(tmp_path) == []
