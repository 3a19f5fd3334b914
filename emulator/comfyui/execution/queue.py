"""The queue of prompts and the history."""

import copy
import heapq
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Graph = dict[str, dict[str, Any]]
# (number, prompt_id, graph, extra_data, outputs_to_execute), as /queue and /history show it
Entry = tuple[float, str, Graph, dict[str, Any], list[str]]

MAX_HISTORY = 10_000
SECRETS = ("auth_token_comfy_org", "api_key_comfy_org")


@dataclass
class Outcome:
    """How a prompt ended."""

    status: str
    messages: list[tuple[str, dict[str, Any]]]
    outputs: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)


class PromptQueue:
    """Pending, running and finished prompts. All methods are thread-safe; `on_change` is called on each change."""

    def __init__(self) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self._heap: list[Entry] = []
        self._running: dict[int, Entry] = {}
        self._history: dict[str, dict[str, Any]] = {}
        self._count = 0
        self._flags: set[str] = set()
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)

    def put(self, entry: Entry) -> None:
        """Queue a prompt.

        Two entries with the same number and id make the heap compare their graphs. That raises TypeError after the entry
        was added: POST answers 500, but the prompt runs. Three such entries end the worker. ComfyUI has this bug, so
        clients must meet it here as well. Raises RecursionError for a graph that is too deep to be copied; in ComfyUI
        it ends the worker.
        """
        copy.deepcopy(entry)
        with self._lock:
            heapq.heappush(self._heap, entry)
            self.on_change()
            self._wake.notify()

    def take(self) -> tuple[int, Entry] | None:
        """Wait for the next prompt to run. None means that a flag was set instead."""
        with self._wake:
            while not self._heap and not self._flags:
                self._wake.wait()
            if self._flags:
                return None
            entry = heapq.heappop(self._heap)
            self._count += 1
            self._running[self._count] = copy.deepcopy(entry)
            self.on_change()
            return self._count, entry

    def finish(self, item_id: int, outcome: Outcome) -> None:
        with self._lock:
            entry = self._running.pop(item_id)
            if len(self._history) >= MAX_HISTORY:
                self._history.pop(next(iter(self._history)))
            for secret in SECRETS:
                entry[3].pop(secret, None)
            self._history[entry[1]] = {
                "prompt": entry,
                "outputs": outcome.outputs,
                "status": {
                    "status_str": outcome.status,
                    "completed": outcome.status == "success",
                    "messages": outcome.messages,
                },
                "meta": outcome.meta,
            }
            self.on_change()

    def set_flag(self, flag: str) -> None:
        """Set a flag that the worker reads after the current prompt."""
        with self._lock:
            self._flags.add(flag)
            self._wake.notify()

    def take_flags(self) -> set[str]:
        with self._lock:
            flags, self._flags = self._flags, set()
            return flags

    def remaining(self) -> dict[str, Any]:
        with self._lock:
            return {"exec_info": {"queue_remaining": len(self._heap) + len(self._running)}}

    def listing(self) -> tuple[list[Entry], list[Entry]]:
        """The running and the pending prompts; the pending ones are a heap, not in the order of execution."""
        with self._lock:
            return list(self._running.values()), list(self._heap)

    def delete(self, prompt_id: str) -> None:
        """Remove a pending prompt. Its client gets no message, except for the new queue size."""
        with self._lock:
            for index, entry in enumerate(self._heap):
                if entry[1] == prompt_id:
                    del self._heap[index]
                    heapq.heapify(self._heap)
                    self.on_change()
                    return

    def clear(self) -> None:
        with self._lock:
            self._heap.clear()
            self.on_change()

    def history(self, max_items: int | None = None, offset: int = -1) -> dict[str, Any]:
        """The newest `max_items` entries, or a page that starts at `offset`; oldest first."""
        with self._lock:
            entries = list(self._history.items())
        start = offset
        if offset < 0:
            start = len(entries) - max_items if max_items is not None else 0
        page = entries[max(start, 0) :]
        # ComfyUI stops after the entry that fills the page, so with an offset a limit below 1 gives one entry
        return dict(page if max_items is None or start < 0 else page[: max(max_items, 1)])

    def history_entry(self, prompt_id: str) -> dict[str, Any]:
        with self._lock:
            return {prompt_id: self._history[prompt_id]} if prompt_id in self._history else {}

    def forget(self, prompt_id: str) -> None:
        with self._lock:
            self._history.pop(prompt_id, None)

    def clear_history(self) -> None:
        with self._lock:
            self._history.clear()
