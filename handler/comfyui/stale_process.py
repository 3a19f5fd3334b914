"""A ComfyUI that outlived its server, which was killed: noted at each launch, found and ended at the next start."""

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

# A process that holds a GPU takes its time to die.
_GONE_S = 20.0
_POLL_INTERVAL_S = 0.05


class _Process(NamedTuple):
    """A process, told apart from later ones of its number by when it was started."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> "_Process | None":
        """None for one that is not there, and where the system does not tell (it does on Linux)."""
        try:
            status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            return None
        # The name, in parentheses, may hold anything. Behind it: the state is field 3, the start time field 22.
        state, *fields = status.rpartition(")")[2].split()
        return None if state in "ZX" else cls(pid, f"{boot} {fields[18]}")

    def lives(self) -> bool:
        return self.of(self.pid) == self


def record_process(settings: Settings, pid: int) -> None:
    """Remember which ComfyUI is this server's, as long as it runs."""
    comfyui, server = _Process.of(pid), _Process.of(os.getpid())
    try:
        file = _file(settings)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"comfyui": comfyui, "server": server}))
    except OSError as exc:
        logger.warning("if this server is killed its ComfyUI stays: CACHE_DIR cannot be written: %s", exc.strerror)


def forget_process(settings: Settings) -> None:
    """It has been ended."""
    with suppress(OSError):
        _file(settings).unlink(missing_ok=True)


def end_stale_process(settings: Settings) -> None:
    """End the ComfyUI of a server that is no more, with all of its process group. Another's is left alone."""
    try:
        noted = json.loads(_file(settings).read_text())
        comfyui, server = _Process(*noted["comfyui"]), _Process(*noted["server"])
    except (OSError, ValueError, TypeError, KeyError):
        return
    if server.lives() or not comfyui.lives():
        return
    logger.warning("ending the ComfyUI (process %d) that a killed server has left behind", comfyui.pid)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(comfyui.pid, signal.SIGKILL)
    deadline = time.monotonic() + _GONE_S
    while comfyui.lives() and time.monotonic() < deadline:
        time.sleep(_POLL_INTERVAL_S)
    forget_process(settings)


def _file(settings: Settings) -> Path:
    """One for each port that a ComfyUI of ours listens on."""
    return settings.cache_dir / f"comfyui-{settings.comfyui_port_host}.json"
