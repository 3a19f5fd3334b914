"""Faults that tests can cause: POST /emulator/<name>. One more fault is one more row."""

from collections.abc import Callable
from typing import Any

from emulator.comfyui.server import Server

Fault = Callable[[Server], dict[str, Any]]


def drop_sockets(server: Server) -> dict[str, Any]:
    """The network goes away: every websocket is cut without a close frame. Prompts run on."""
    return {"dropped": server.hub.drop_all()}


FAULTS: dict[str, Fault] = {"drop_sockets": drop_sockets}
