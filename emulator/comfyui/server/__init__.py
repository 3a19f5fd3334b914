"""ComfyUI's HTTP routes and websockets. Imported by `python -m emulator.comfyui` alone."""

from emulator.comfyui.server.app import create_app

__all__ = [
    "create_app",
]
