"""ComfyUI as a child process: its group, its log, its environment."""

import sys
from pathlib import Path

import pytest

from handler import HandlerError, Lifecycle, Settings
from tests.support.processes import comfyui_processes, environment, lifecycle
from tests.support.waiting import wait_until


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
