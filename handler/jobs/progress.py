"""How far a job is, from ComfyUI's websocket messages."""

import time
from collections.abc import Callable
from typing import Any

from handler.comfyui import Message
from handler.graphs import Graph

Send = Callable[[dict[str, Any]], None]
"""Gets the progress of a job as plain JSON values."""

_INTERVAL_S = 0.5


class Progress:
    """Sends `{phase, percent, node, step, of}` twice a second at most. For one job, from one thread.

    The phases are preparing, queued, running and delivering. `percent` counts the nodes of the graph that are done, and the
    steps of the one that runs; `node` is its id. `step` and `of` are there while that node reports steps.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._sent_at = -_INTERVAL_S
        self._nodes = 0
        self._done: set[str] = set()
        self._node: str | None = None
        self._step = self._of = 0

    def preparing(self) -> None:
        self._report("preparing")

    def queued(self, graph: Graph) -> None:
        self._nodes = len(graph)
        self._report("queued")

    def message(self, message: Message) -> None:
        """One of ComfyUI's messages about the job's prompt, or about its queue."""
        data = message["data"]
        match message["type"]:
            case "execution_start":
                self._report("running")
            case "execution_cached":
                self._done.update(map(str, data.get("nodes") or ()))
            case "executing":
                self._executing(data.get("node"))
            case "progress":
                self._step, self._of = int(data.get("value") or 0), int(data.get("max") or 0)
                self._report("running")
            case "execution_success":
                self._node = None
                self._report("delivering")

    def _executing(self, node: str | None) -> None:
        if self._node is not None:
            self._done.add(self._node)
        self._node, self._step, self._of = node, 0, 0
        if node is not None:
            self._report("running")

    def _report(self, phase: str) -> None:
        now = time.monotonic()
        if now - self._sent_at < _INTERVAL_S:
            return
        self._sent_at = now
        self._send({"phase": phase, "percent": self._percent(phase)} | self._step_of_node())

    def _percent(self, phase: str) -> int:
        if phase == "delivering":
            return 100
        part = self._step / self._of if self._of else 0
        return int(100 * min(1, (len(self._done) + part) / self._nodes)) if self._nodes else 0

    def _step_of_node(self) -> dict[str, Any]:
        if self._node is None:
            return {}
        return {"node": self._node} | ({"step": self._step, "of": self._of} if self._of else {})
