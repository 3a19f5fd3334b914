"""The processes: ComfyUI as a child, the HTTP API, and what is left of them at the end."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from handler import HandlerError, Lifecycle, Settings
from tests.support import graphs
from tests.support.comfyui import Comfyui
from tests.support.paths import ROOT
from tests.support.processes import WARMUP, comfyui_processes, environment, lifecycle, running
from tests.support.raw import answered
from tests.support.waiting import wait_until


def test_a_host_starts_the_stand_in_warms_it_up_and_stops_it(tmp_path: Path) -> None:
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


def test_stopping_ends_the_whole_process_group(tmp_path: Path) -> None:
    """A launch script that has started ComfyUI must not leave it behind."""
    env = environment(tmp_path)
    launch = f"{sys.executable} -m emulator.comfyui --port {env['COMFYUI_PORT_HOST']} --base-dir {tmp_path}"
    started = Lifecycle(Settings.from_environ({**env, "CMD": f"bash -c '{launch} & wait'"}))
    started.start()
    assert len(comfyui_processes(tmp_path)) >= 1
    started.stop()
    wait_until(lambda: comfyui_processes(tmp_path) == [])


def test_comfyui_s_log_lines_are_forwarded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    started = lifecycle(tmp_path, CMD="echo a line of the child")
    with caplog.at_level("INFO"), pytest.raises(HandlerError):
        started.start()
    assert ("comfyui", "a line of the child") in [(record.name, record.getMessage()) for record in caplog.records]


def test_comfyui_gets_none_of_our_secrets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Custom nodes see ComfyUI's environment. The hub's token is theirs as well."""
    for name in ("AWS_SECRET_ACCESS_KEY", "WEBHOOK_SECRET", "API_KEYS", "HF_TOKEN", "ANYTHING_ELSE"):
        monkeypatch.setenv(name, "s3cr3t")
    with caplog.at_level("INFO"), pytest.raises(HandlerError):
        lifecycle(tmp_path, CMD="env").start()
    seen = {record.getMessage().partition("=")[0] for record in caplog.records if "=s3cr3t" in record.getMessage()}
    assert seen == {"HF_TOKEN", "ANYTHING_ELSE"}


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
