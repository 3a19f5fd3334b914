"""Installs Debian and Python packages for ComfyUI and its custom nodes, with apt-get and with uv or pip."""

import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from handler.errors import HandlerError
from handler.settings import Settings

logger = logging.getLogger(__name__)

_TIMEOUT_S = 3600
_MAX_REASON = 300


class InstallFailed(HandlerError):
    """Something that the manifest asks for could not be installed. The message is one line that names it."""


def install_apt(packages: Sequence[str]) -> None:
    """Install those Debian packages that are missing. Raises InstallFailed."""
    packages = [name for name in packages if not _is_installed(name)]
    if not packages:
        return
    names = " ".join(packages)
    if os.geteuid() != 0:
        raise InstallFailed(f"apt packages {names}: only root can install them; put them into the image.")
    quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    run_command([*quiet, "update"], "apt-get update")
    run_command([*quiet, "install", "-y", "--no-install-recommends", "--", *packages], f"apt packages {names}")


def _is_installed(package: str) -> bool:
    """Whether dpkg has the package. Then a start in an image that contains it does not need root."""
    try:
        return (
            run_command(["dpkg-query", "--show", "--showformat=${db:Status-Status}", "--", package], package)
            == "installed"
        )
    except InstallFailed:
        return False


def install_pip(arguments: Sequence[str], what: str, settings: Settings, *, cwd: Path | None = None) -> None:
    """Install Python packages for ComfyUI with uv, or with pip where there is no uv. Raises InstallFailed with `what`."""
    python, uv = comfyui_python(settings), shutil.which("uv")
    pip = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install", "--no-input"]
    run_command([*pip, *arguments], what, cwd=cwd)


def comfyui_python(settings: Settings) -> str:
    """The Python that runs ComfyUI, where CMD names one; otherwise ours."""
    words = shlex.split(settings.cmd or "")
    command = next((word for word in words if re.fullmatch(r"python[\d.]*", Path(word).name)), None)
    return (command and shutil.which(command)) or sys.executable


def run_command(command: Sequence[str], what: str, *, cwd: Path | None = None, timeout_s: float = _TIMEOUT_S) -> str:
    """Run a command; returns its output. Raises InstallFailed with `what` and the end of its error output."""
    logger.debug("running %s", mask_urls(shlex.join(command)))
    try:
        with subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            output, errors = _communicate(process, timeout_s)
    except subprocess.TimeoutExpired as exc:
        raise InstallFailed(f"{what}: {command[0]} took longer than {timeout_s:g} s.") from exc
    except OSError as exc:
        raise InstallFailed(f"{what}: {command[0]} cannot be run: {exc.strerror}.") from exc
    if process.returncode != 0:
        raise InstallFailed(f"{what}: {_reason(errors or output) or f'exit code {process.returncode}'}")
    return output


def _communicate(process: "subprocess.Popen[str]", timeout_s: float) -> tuple[str, str]:
    try:
        return process.communicate(timeout=timeout_s)
    except BaseException:
        # With its children: git and pip have some, which keep the pipes open.
        os.killpg(process.pid, signal.SIGKILL)
        raise


def _reason(text: str) -> str:
    """The end of a command's error output, in one line."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    return mask_urls(" ".join(lines[-3:]))[-_MAX_REASON:]


def mask_urls(text: str) -> str:
    """A text without the users and passwords of the URLs in it."""
    return re.sub(r"://[^/\s]+@", "://", text)
