"""Start, watch and stop the ComfyUI child process."""

import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from handler.comfy import Comfy
from handler.errors import ComfyCrashed, ComfyError, ComfyUnreachable
from handler.settings import Settings

logger = logging.getLogger(__name__)
comfyui_log = logging.getLogger("comfyui")

_STOP_GRACE_S = 5.0
_POLL_INTERVAL_S = 0.05


class ComfyProcess:
    """ComfyUI as a child with a process group of its own, so that its own children end with it.

    `on_exit` is called with the exit code when it ends without having been told to. It is the place of a restart.
    """

    def __init__(self, settings: Settings, on_exit: Callable[[int], None] = lambda _: None) -> None:
        self._settings = settings
        self._on_exit = on_exit
        self._child: subprocess.Popen[str] | None = None
        self._watcher: threading.Thread | None = None
        self._stopping = threading.Event()

    def start(self) -> None:
        """Launch CMD. Raises ComfyError for a command that cannot be launched."""
        command = _command(self._settings)
        logger.info("starting ComfyUI: %s", shlex.join(command))
        try:
            self._child = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as exc:
            raise ComfyError(f"CMD cannot be launched: {command[0]}: {exc.strerror}.") from exc
        self._watcher = threading.Thread(target=self._watch, args=(self._child,), name="comfyui", daemon=True)
        self._watcher.start()

    def wait(self, comfy: Comfy) -> None:
        """Return once ComfyUI answers. Raises ComfyCrashed when it exits first, ComfyUnreachable when it takes too long."""
        end = time.monotonic() + self._settings.startup_timeout_s
        while not comfy.alive():
            if self._child is not None and self._child.poll() is not None:
                raise ComfyCrashed(f"ComfyUI exited with code {self._child.returncode} while it started.")
            if self._stopping.wait(_POLL_INTERVAL_S) or time.monotonic() > end:
                raise ComfyUnreachable(
                    f"ComfyUI did not answer at {comfy.url} within {self._settings.startup_timeout_s:g} s "
                    "(STARTUP_CHECK_INTERVAL_S times STARTUP_CHECK_MAX_TRIES)."
                )

    @property
    def exit_code(self) -> int | None:
        """None while it runs, and where none was started."""
        return self._child.poll() if self._child else None

    def stop(self) -> None:
        """End the process group: SIGTERM, and SIGKILL to what is left after a few seconds."""
        self._stopping.set()
        child = self._child
        if child is None:
            return
        _signal(child, signal.SIGTERM)
        try:
            child.wait(_STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            logger.warning("ComfyUI did not end within %g s and is killed", _STOP_GRACE_S)
        _signal(child, signal.SIGKILL)  # also what it left behind in its group
        child.wait()
        if self._watcher is not None and self._watcher is not threading.current_thread():
            self._watcher.join(_STOP_GRACE_S)

    def _watch(self, child: subprocess.Popen[str]) -> None:
        """Forward the child's log line by line, and report its end."""
        assert child.stdout is not None
        with child.stdout as lines:
            for line in lines:
                comfyui_log.info("%s", line.rstrip())
        code = child.wait()
        if not self._stopping.is_set():
            logger.error("ComfyUI exited with code %d", code)
            self._on_exit(code)


def _command(settings: Settings) -> list[str]:
    if settings.cmd is not None:
        return shlex.split(settings.cmd)
    # The stand-in, by its name only: the handler does not know the emulator.
    where = ["--host", settings.direct_address, "--port", str(settings.comfyui_port_host)]
    return [sys.executable, "-m", "emulator.comfyui", *where, "--base-dir", str(settings.comfy_home)]


def _signal(child: subprocess.Popen[str], number: signal.Signals) -> None:
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        logger.debug("the process group %d has ended already", child.pid)
