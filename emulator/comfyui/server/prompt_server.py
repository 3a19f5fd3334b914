"""One ComfyUI: its folders, nodes, queue, executor and websockets."""

import asyncio
import contextlib
import os
import platform
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from emulator.comfyui import Folders
from emulator.comfyui.execution import Executor, PromptQueue, Worker
from emulator.comfyui.nodes import NODE_CLASSES
from emulator.comfyui.server.sockets import Hub

VERSION = "0.3.64"


class PromptServer:
    """What ComfyUI's PromptServer is: the state behind the routes."""

    def __init__(self, base: Path, step_seconds: float, extra_model_paths: Iterable[Path] = ()) -> None:
        self.folders = Folders(base, extra_model_paths)
        self.nodes = NODE_CLASSES
        self.prompts = PromptQueue()
        self.hub = Hub(self.prompts.remaining)
        self.prompts.on_change = lambda: self.hub.post("status", {"status": self.prompts.remaining()})
        self.executor = Executor(self.nodes, self.folders, self.hub, step_seconds)
        self.count = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Prepare the folders, and run the worker until the context ends."""
        self.folders.prepare()
        publisher = asyncio.create_task(self.hub.publish())
        worker = Worker(self.prompts, self.executor, self.hub)
        worker.start()
        try:
            yield
        finally:
            await asyncio.to_thread(worker.stop)
            publisher.cancel()

    def next_number(self, *, front: bool) -> int:
        """The queue number of a prompt that has none of its own. A rejected prompt uses one up as well."""
        number = -self.count if front else self.count
        self.count += 1
        return number

    def system_stats(self) -> dict[str, Any]:
        """The answer of /system_stats: ComfyUI's keys, and `stand_in`."""
        total, free = _memory()
        memory = {"vram_total": total, "vram_free": free, "torch_vram_total": total, "torch_vram_free": free}
        system = {
            "os": os.name,
            "ram_total": total,
            "ram_free": free,
            "comfyui_version": VERSION,
            "required_frontend_version": "1.27.10",
            "installed_templates_version": "0.1.95",
            "required_templates_version": "0.1.95",
            "python_version": sys.version,
            "pytorch_version": "none",
            "embedded_python": False,
            "argv": [f"emulator.comfyui on {platform.system()}"],
            "stand_in": True,
        }
        device = {"name": "stand-in: draws pictures, runs no model", "type": "cpu", "index": None, **memory}
        return {"system": system, "devices": [device]}


def _memory() -> tuple[int, int]:
    page = os.sysconf("SC_PAGE_SIZE")
    return page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
