"""Validates, queues and runs prompts. Imported by the server; knows the nodes and the folders, but no HTTP."""

from emulator.comfyui.execution.errors import validation_error
from emulator.comfyui.execution.executor import Executor
from emulator.comfyui.execution.queue import PromptQueue
from emulator.comfyui.execution.validate import validate
from emulator.comfyui.execution.worker import FREE_MEMORY, Worker

__all__ = [
    "FREE_MEMORY",
    "Executor",
    "PromptQueue",
    "Worker",
    "validate",
    "validation_error",
]
