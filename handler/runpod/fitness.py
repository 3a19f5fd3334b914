"""Whether a worker is fit to take jobs: RunPod replaces one that is not."""

import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path

from handler.errors import HandlerError
from handler.lifecycle import Lifecycle

_ROOM = 16 << 20


class Unfit(RuntimeError):
    """The worker must not take jobs. The message is one line that says why."""


def checks(host: Lifecycle) -> list[Callable[[], None]]:
    """What the SDK is to call before the first job. Each raises Unfit, with ComfyUI stopped: the SDK then ends the process."""
    return [_stopping(check, host) for check in (comfyui_answers, comfyui_has_a_gpu, disk_has_room)]


def _stopping(check: Callable[[Lifecycle], None], host: Lifecycle) -> Callable[[], None]:
    def checked() -> None:
        try:
            check(host)
        except (Unfit, HandlerError):
            host.stop()
            raise

    checked.__name__ = check.__name__
    return checked


def comfyui_answers(host: Lifecycle) -> None:
    """Raise Unfit when ComfyUI went away since the start."""
    if not host.service.comfy.alive():
        raise Unfit(f"ComfyUI does not answer at {host.service.comfy.url}")


def comfyui_has_a_gpu(host: Lifecycle) -> None:
    """Raise Unfit when ComfyUI computes on the CPU though nobody told it to: a job would take hours there."""
    settings = host.service.settings
    if not settings.starts_comfyui or settings.cmd is None or "--cpu" in shlex.split(settings.cmd):
        return
    if all(device == "cpu" for device in host.service.comfy.devices()):
        raise Unfit("ComfyUI found no GPU; with --cpu in its command it may do without")


def disk_has_room(host: Lifecycle) -> None:
    """Raise Unfit when the folders of inputs and outputs cannot take a file of 16 MB."""
    settings = host.service.settings
    for folder in (settings.input_dir, settings.output_dir):
        if folder.is_dir():
            _write(folder)


def _write(folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_ROOM))
            file.flush()
    except OSError as exc:
        raise Unfit(f"{folder} cannot take a file of {_ROOM >> 20} MB: {exc.strerror}") from exc
