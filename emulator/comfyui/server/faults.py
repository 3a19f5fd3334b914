"""Faults that tests can inject: POST /emulator/<name>, with the arguments as JSON."""

import json
import os
import time
from collections.abc import Callable
from typing import Any

from emulator.comfyui.server.prompt_server import PromptServer

Fault = Callable[..., dict[str, Any]]

PREVIEW_MB = 20


def drop_sockets(server: PromptServer, at: str = "") -> dict[str, Any]:
    """Cut every websocket without a close frame. Prompts run on.

    `at` delays it until a prompt is about to be queued ("post"), has been queued ("queued"), or a message of that type is
    about to be sent.
    """
    if at:
        server.hub.drop_at = at
        return {"at": at}
    return {"dropped": server.hub.drop_all()}


def refuse_sockets(server: PromptServer, *, refuse: bool = True) -> dict[str, Any]:
    """Refuse new websockets."""
    server.hub.refuse = refuse
    return {"refuse": refuse}


def babble(server: PromptServer) -> dict[str, Any]:
    """Send all clients messages that are invalid, unknown or about other prompts."""
    odd: list[Any] = [[1, 2], "text", None, 5, {}, {"type": "executing"}, {"type": "news", "data": {"node": "1"}}]
    odd += [{"type": kind, "data": None} for kind in ("status", "executing", "progress", "execution_success")]
    odd += [{"type": "executing", "data": [None]}, {"type": "status", "data": "none"}, {"type": ["x"], "data": {}}]
    running, _ = server.prompts.listing()
    for entry in running:
        odd += [{"type": "executing", "data": {"prompt_id": entry[1], "node": {"odd": 1}}}]
        odd += [{"type": "news", "data": {"prompt_id": entry[1], "node": None}}]
    texts = ["no JSON", "", "{", "[" * 100_000, *map(json.dumps, odd)]
    frames = [bytes(PREVIEW_MB << 20), b"", b"\0\0\0\x01"]
    messages: list[str | bytes] = [*texts, *frames]
    for message in messages:
        server.hub.post_raw(message)
    return {"messages": len(messages)}


def hang(_server: PromptServer, seconds: float = 3600) -> dict[str, Any]:
    """Accept connections but answer nothing, as when a node blocks the event loop. Prompts run on."""
    time.sleep(seconds)
    return {"hung": seconds}


def end(_server: PromptServer, code: int = 0) -> dict[str, Any]:
    """Exit the process."""
    os._exit(code)


FAULTS: dict[str, Fault] = {
    "drop_sockets": drop_sockets,
    "refuse_sockets": refuse_sockets,
    "babble": babble,
    "hang": hang,
    "end": end,
}
