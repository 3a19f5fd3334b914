"""One ComfyUI: its process, client, websocket and queue, and the admission of prompts. For service, jobs and what is above."""

from handler.comfyui import stale_process
from handler.comfyui.admission import Admission
from handler.comfyui.client import ComfyClient, Execution
from handler.comfyui.process import ComfyProcess
from handler.comfyui.websocket import Message

__all__ = [
    "Admission",
    "ComfyClient",
    "ComfyProcess",
    "Execution",
    "Message",
    "stale_process",
]
