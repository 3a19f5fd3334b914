"""A ComfyUI whose server was killed: its process id is in a file in CACHE_DIR, and the next start ends it."""

import json
import logging
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from handler.settings import Settings

logger = logging.getLogger(__name__)

# A process that holds a GPU takes its time to end.
_END_S = 20.0
_POLL_INTERVAL_S = 0.05


class _Process(NamedTuple):
    """A process id, with the start time that tells the process from a later one of the same id."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> "_Process | None":
        """None for one that does not run, and on systems without /proc."""
        try:
            status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            return None
        # The name, in parentheses, may hold anything. Behind it: the state is field 3, the start time field 22.
        state, *fields = status.rpartition(")")[2].split()
        return None if state in "ZX" else cls(pid, f"{boot} {fields[18]}")

    def runs(self) -> bool:
        return self.of(self.pid) == self


def record_process(settings: Settings, pid: int) -> None:
    """Write down which ComfyUI belongs to this server."""
    comfyui, server = _Process.of(pid), _Process.of(os.getpid())
    try:
        file = _file(settings)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"comfyui": comfyui, "server": server}))
    except OSError as exc:
        logger.warning("if this server is killed its ComfyUI stays: CACHE_DIR cannot be written: %s", exc.strerror)


def forget_process(settings: Settings) -> None:
    """The ComfyUI of this server has ended."""
    with suppress(OSError):
        _file(settings).unlink(missing_ok=True)


def end_stale_process(settings: Settings) -> None:
    """Kill the process group of a ComfyUI whose server does not run any more. That of a running server is left alone."""
    try:
        recorded = json.loads(_file(settings).read_text())
        comfyui, server = _Process(*recorded["comfyui"]), _Process(*recorded["server"])
    except (OSError, ValueError, TypeError, KeyError):
        return
    if server.runs() or not comfyui.runs():
        return
    logger.warning("ending the ComfyUI (process %d) that a killed server has left behind", comfyui.pid)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(comfyui.pid, signal.SIGKILL)
    deadline = time.monotonic() + _END_S
    while comfyui.runs() and time.monotonic() < deadline:
        time.sleep(_POLL_INTERVAL_S)
    forget_process(settings)


def _file(settings: Settings) -> Path:
    """One for each port that a ComfyUI of ours listens on."""
    return settings.cache_dir / f"comfyui-{settings.comfyui_port_host}.json"
