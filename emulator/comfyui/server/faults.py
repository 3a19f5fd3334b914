"""Faults that tests can cause: POST /emulator/<name>, with their arguments as JSON. One more fault is one more row."""

import json
import os
import time
from collections.abc import Callable
from typing import Any

from emulator.comfyui.server.server import Server

Fault = Callable[..., dict[str, Any]]

PREVIEW_MB = 20


def drop_sockets(server: Server, at: str = "") -> dict[str, Any]:
    """The network goes away: every websocket is cut without a close frame. Prompts run on.

    `at` puts it off until a prompt is about to be taken ("post") or has been ("queued"), or until a message of this type is
    about to be sent.
    """
    if at:
        server.hub.drop_at = at
        return {"at": at}
    return {"dropped": server.hub.drop_all()}


def refuse_sockets(server: Server, *, refuse: bool = True) -> dict[str, Any]:
    """Nobody gets a websocket any more."""
    server.hub.refuses = refuse
    return {"refuse": refuse}


def babble(server: Server) -> dict[str, Any]:
    """Everybody gets messages that ComfyUI does not send, or that nobody waits for."""
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


def hang(_server: Server, seconds: float = 3600) -> dict[str, Any]:
    """It accepts connections and answers nothing, as long as a node that loads a model may make it. Prompts run on."""
    time.sleep(seconds)
    return {"hung": seconds}


def end(_server: Server, code: int = 0) -> dict[str, Any]:
    """The process exits."""
    os._exit(code)


FAULTS: dict[str, Fault] = {
    "drop_sockets": drop_sockets,
    "refuse_sockets": refuse_sockets,
    "babble": babble,
    "hang": hang,
    "end": end,
}
