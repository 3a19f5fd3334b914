"""ComfyUI as a child process: start, watch, restart, stop."""

import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from handler.comfyui import stale_process
from handler.comfyui.client import ComfyClient
from handler.errors import ComfyCrashed, ComfyError, ComfyUnreachable
from handler.models import folders
from handler.settings import Settings

logger = logging.getLogger(__name__)
comfyui_log = logging.getLogger("comfyui")

_STOP_GRACE_S = 5.0
_POLL_INTERVAL_S = 0.05
_RESTART_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_STABLE_S = 60.0


class ComfyProcess:
    """ComfyUI as a child with a process group of its own, so that its own children end with it.

    When it ends, `on_end` is called at once. Unless it was stopped it then restarts with ALWAYS_RESTART_COMFYUI, whatever its
    exit code, and `on_restart` is called; otherwise `on_exit` is called with the exit code, as a shell counts it.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_end: Callable[[], None] = lambda: None,
        on_exit: Callable[[int], None] = lambda _: None,
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._on_end = on_end
        self._on_exit = on_exit
        self._on_restart = on_restart
        self._child: subprocess.Popen[str] | None = None
        self._watcher: threading.Thread | None = None
        self._stopping = threading.Event()
        # `stop` must not miss a child that is about to be launched.
        self._launching = threading.Lock()

    def start(self) -> None:
        """Launch CMD, unless `stop` was called before. Raises ComfyError for a command that cannot be launched."""
        with self._launching:
            if self._stopping.is_set():
                return
            self._child = self._launch()
            self._watcher = threading.Thread(target=self._watch, name="comfyui", daemon=True)
            self._watcher.start()

    def _launch(self) -> "subprocess.Popen[str]":
        command = [*_command(self._settings), *folders.command_line(self._settings)]
        logger.info("starting ComfyUI: %s", shlex.join(command))
        try:
            child = subprocess.Popen(
                command,
                env=self._settings.env_for_comfyui(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as exc:
            raise ComfyError(f"CMD cannot be launched: {command[0]}: {exc.strerror}.") from exc
        stale_process.record_process(self._settings, child.pid)
        return child

    def wait(self, comfy: ComfyClient) -> None:
        """Return once the ComfyUI that has been launched last answers.

        Raises ComfyCrashed when it exits first, ComfyUnreachable when it takes too long.
        """
        child = self._child
        end = time.monotonic() + self._settings.startup_timeout_s
        while not comfy.alive():
            if child is not None and child.poll() is not None:
                raise ComfyCrashed(f"ComfyUI exited with code {_exit_code(child.returncode)} while it started.")
            if self._stopping.wait(_POLL_INTERVAL_S) or time.monotonic() > end:
                raise ComfyUnreachable(
                    f"ComfyUI did not answer at {comfy.url} within {self._settings.startup_timeout_s:g} s "
                    "(STARTUP_CHECK_INTERVAL_S times STARTUP_CHECK_MAX_TRIES)."
                )

    @property
    def exit_code(self) -> int | None:
        """None while it runs, or if it was never started."""
        return self._child.poll() if self._child else None

    def stop(self, grace_s: float = _STOP_GRACE_S) -> None:
        """End the process group: SIGTERM, and SIGKILL to what is left after the grace."""
        self._stopping.set()
        with self._launching:
            child = self._child
        if child is None:
            return
        _signal(child, signal.SIGTERM)
        try:
            child.wait(grace_s)
        except subprocess.TimeoutExpired:
            logger.warning("ComfyUI did not end within %g s and is killed", grace_s)
            _signal(child, signal.SIGKILL)
            child.wait()
        if self._watcher is not None and self._watcher is not threading.current_thread():
            self._watcher.join(_STOP_GRACE_S)
        stale_process.forget_process(self._settings)

    def _watch(self) -> None:
        """Wait for the end of one child after the other."""
        pause = _RESTART_PAUSE_S
        while (child := self._child) is not None:
            began = time.monotonic()
            log = threading.Thread(target=_forward, args=(child,), name="comfyui-log", daemon=True)
            log.start()
            code = _exit_code(child.wait())
            self._on_end()
            _signal(child, signal.SIGKILL)  # what is left of its process group would keep the port and the log open
            log.join(_STOP_GRACE_S)
            if self._stopping.is_set():
                return
            logger.error("ComfyUI exited with code %d", code)
            if not self._settings.always_restart_comfyui:
                self._on_exit(code)
                return
            # One that ran for a while restarts quickly; one that ends at once waits longer and longer.
            pause = _RESTART_PAUSE_S if time.monotonic() - began > _STABLE_S else min(pause * 2, _LONGEST_PAUSE_S)
            if self._stopping.wait(pause):
                return
            self._restart()

    def _restart(self) -> None:
        try:
            with self._launching:
                if self._stopping.is_set():
                    self._child = None
                    return
                self._child = self._launch()
        except ComfyError:
            logger.exception("ComfyUI cannot be restarted")
            self._child = None
            self._on_exit(1)
            return
        threading.Thread(target=self._on_restart, name="restart", daemon=True).start()

    def kill(self) -> None:
        """Kill a child that does not work any more; it restarts like one that has ended by itself."""
        child = self._child
        if child is not None and child.returncode is None:
            _signal(child, signal.SIGKILL)


def _forward(child: "subprocess.Popen[str]") -> None:
    """Pass a child's log on line by line."""
    assert child.stdout is not None
    with child.stdout as lines:
        for line in lines:
            comfyui_log.info("%s", line.rstrip())


def _command(settings: Settings) -> list[str]:
    if settings.cmd is not None:
        return shlex.split(settings.cmd)
    # The stand-in, by its module name only: the handler does not import the emulator.
    where = ["--host", settings.direct_address, "--port", str(settings.comfyui_port_host)]
    return [sys.executable, "-m", "emulator.comfyui", *where, "--base-dir", str(settings.comfy_home)]


def _exit_code(returncode: int) -> int:
    """As a shell counts it: 137 for a process ended by signal 9, where Python has -9."""
    return returncode if returncode >= 0 else 128 - returncode


def _signal(child: subprocess.Popen[str], number: signal.Signals) -> None:
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        logger.debug("the process group %d has ended already", child.pid)
