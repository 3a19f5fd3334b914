"""Programs of ours as processes, each with its own stand-in ComfyUI, and what is left of them."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from handler import Lifecycle, Settings
from tests.support.paths import ROOT
from tests.support.ports import free_port

WARMUP = ROOT / "workflows" / "warmup" / "flux-schnell.json"


def environment(home: Path, **changes: str) -> dict[str, str]:
    """What a process of ours needs: the stand-in on a port and in a folder of its own."""
    inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "VIRTUAL_ENV", "LANG")}
    own = {"COMFYUI_PORT_HOST": str(free_port()), "COMFY_HOME": str(home), "PORT": "0", "PYTHONUNBUFFERED": "1"}
    own["CACHE_DIR"] = str(home / "cache")
    return {**inherited, **own, **changes}


def lifecycle(home: Path, **changes: str) -> Lifecycle:
    return Lifecycle(Settings.from_environ(environment(home, **changes)))


def comfyui_processes(home: Path) -> list[int]:
    """The processes whose command line names this test's folder."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and str(home).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


class Server:
    """A process of ours; `lines` grows while it runs."""

    def __init__(self, module: str, env: dict[str, str], *arguments: str) -> None:
        self.lines: list[str] = []
        command = [sys.executable, "-m", module, *arguments]
        self.child = subprocess.Popen(
            command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.child.stdout is not None
        with self.child.stdout as lines:
            self.lines.extend(lines)

    def text(self) -> str:
        return "".join(self.lines)

    def wait(self) -> int:
        code = self.child.wait(60)
        self._reader.join(60)
        return code

    def end(self) -> None:
        """Told, not killed: it would leave its ComfyUI behind."""
        self.child.terminate()
        try:
            self.wait()
        except subprocess.TimeoutExpired:
            self.child.kill()
            raise


@contextlib.contextmanager
def running(module: str, env: dict[str, str], *arguments: str) -> Iterator[Server]:
    server = Server(module, env, *arguments)
    try:
        yield server
    finally:
        server.end()
