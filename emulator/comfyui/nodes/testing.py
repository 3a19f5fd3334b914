"""Nodes for testing clients, which only the stand-in has: one sleeps, one fails, one outputs text."""

# ruff: noqa: ARG003, RUF012 - a node declares its inputs as class attributes

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from emulator.comfyui import Folders
from emulator.comfyui.nodes.node import Node

Images = Sequence[Image.Image]

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 23.99 GiB."


class OutOfMemoryError(RuntimeError):
    """For clients the same as torch's."""


OutOfMemoryError.__module__ = "torch"


class TestingNode(Node):
    """Base class of the nodes of this file."""

    python_module = "emulator.comfyui.nodes.testing"


class EmulatorSleep(TestingNode):
    """Waits. It is never cached."""

    function = "execute"
    required = {"seconds": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 3600.0, "step": 0.01})}
    optional = {"image": ("IMAGE",)}
    outputs = ("IMAGE",)
    category = "emulator"

    @classmethod
    def is_changed(cls, folders: Folders, values: Mapping[str, Any]) -> str | None:
        return uuid.uuid4().hex

    def execute(self, seconds: float, image: Images | None = None) -> tuple[Images]:
        self.context.pause(seconds)
        return (image or (Image.new("RGB", (64, 64)),),)


class Memory:
    """Whether POST /free has freed the memory since the start."""

    freed = False


def free_memory() -> None:
    """Let "out of memory until freed" succeed from now on."""
    Memory.freed = True


KINDS = ["error", "out of memory", "out of memory until freed", "gpu lost", "none"]


class EmulatorFail(TestingNode):
    function = "execute"
    required = {"message": ("STRING", {"default": "this node fails"})}
    optional = {
        "image": ("IMAGE",),
        "kind": (KINDS, {"default": "error", "tooltip": "none passes the image on."}),
    }
    outputs = ("IMAGE",)
    category = "emulator"

    def execute(self, message: str, image: Images | None = None, kind: str = "error") -> tuple[Images]:
        if kind == "error":
            raise RuntimeError(message)
        if kind == "out of memory" or (kind == "out of memory until freed" and not Memory.freed):
            raise OutOfMemoryError(OUT_OF_MEMORY)
        if kind == "gpu lost":
            raise RuntimeError("CUDA error: unspecified launch failure")
        return (image or (Image.new("RGB", (64, 64)),),)


class EmulatorText(TestingNode):
    function = "execute"
    required = {"text": ("STRING", {"default": "", "multiline": True})}
    category = "emulator"
    output_node = True

    def execute(self, text: str) -> dict[str, Any]:
        return {"ui": {"text": [text]}}
