"""Whether a worker is fit to take jobs: RunPod replaces one that is not."""

import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path

from handler.errors import HandlerError
from handler.lifecycle import Lifecycle

_FREE_BYTES = 16 << 20


class Unfit(RuntimeError):
    """The worker must not take jobs. The message is one line that says why."""


def checks(lifecycle: Lifecycle) -> list[Callable[[], None]]:
    """What the SDK is to call before the first job. Each raises Unfit, with ComfyUI stopped: the SDK then ends the process."""
    return [_stop_if_unfit(check, lifecycle) for check in (comfyui_answers, comfyui_has_a_gpu, disk_has_room)]


def _stop_if_unfit(check: Callable[[Lifecycle], None], lifecycle: Lifecycle) -> Callable[[], None]:
    def check_or_stop() -> None:
        try:
            check(lifecycle)
        except (Unfit, HandlerError):
            lifecycle.stop()
            raise

    check_or_stop.__name__ = check.__name__
    return check_or_stop


def comfyui_answers(lifecycle: Lifecycle) -> None:
    """Raise Unfit when ComfyUI has ended since the start."""
    if not lifecycle.service.comfy.alive():
        raise Unfit(f"ComfyUI does not answer at {lifecycle.service.comfy.url}")


def comfyui_has_a_gpu(lifecycle: Lifecycle) -> None:
    """Raise Unfit when ComfyUI computes on the CPU without --cpu in CMD: a job would take hours there."""
    settings = lifecycle.service.settings
    if not settings.starts_comfyui or settings.cmd is None or "--cpu" in shlex.split(settings.cmd):
        return
    if all(device == "cpu" for device in lifecycle.service.comfy.devices()):
        raise Unfit("ComfyUI found no GPU; with --cpu in its command it may do without")


def disk_has_room(lifecycle: Lifecycle) -> None:
    """Raise Unfit when the folders of inputs and outputs cannot take a file of 16 MB."""
    settings = lifecycle.service.settings
    for folder in (settings.input_dir, settings.output_dir):
        if folder.is_dir():
            _write_test_file(folder)


def _write_test_file(folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_FREE_BYTES))
            file.flush()
    except OSError as exc:
        raise Unfit(f"{folder} cannot take a file of {_FREE_BYTES >> 20} MB: {exc.strerror}") from exc
