"""The queue of prompts and the history of those that ran: all that the server remembers."""

import copy
import heapq
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Graph = dict[str, dict[str, Any]]
# (number, prompt_id, graph, extra_data, outputs_to_execute): the shape that /queue and /history show
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
    """Waiting, running and finished prompts; safe to use from any thread."""

    def __init__(self) -> None:
        self.announce: Callable[[], None] = lambda: None
        self._heap: list[Entry] = []
        self._running: dict[int, Entry] = {}
        self._history: dict[str, dict[str, Any]] = {}
        self._count = 0
        self._flags: set[str] = set()
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)

    def put(self, entry: Entry) -> None:
        """Queue a prompt.

        Entries of one number and one id make the heap compare graphs, which raises TypeError with the entry already
        inside. The real server has the same fault: the POST answers 500, yet the prompt runs; with three such entries
        its worker dies. Clients must be able to meet that here, too. Raises RecursionError for what is nested too deep to be
        copied; the real one's worker dies of that.
        """
        copy.deepcopy(entry)
        with self._lock:
            heapq.heappush(self._heap, entry)
            self.announce()
            self._wake.notify()

    def take(self) -> tuple[int, Entry] | None:
        """The next prompt to run; None when there is a flag to look at instead."""
        with self._wake:
            while not self._heap and not self._flags:
                self._wake.wait()
            if self._flags:
                return None
            entry = heapq.heappop(self._heap)
            self._count += 1
            self._running[self._count] = copy.deepcopy(entry)
            self.announce()
            return self._count, entry

    def done(self, ticket: int, outcome: Outcome) -> None:
        with self._lock:
            entry = self._running.pop(ticket)
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
            self.announce()

    def raise_flag(self, flag: str) -> None:
        """Leave a word for the worker, which looks after the current prompt."""
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
        """The running and the waiting prompts; the latter as a heap, so not in the order of execution."""
        with self._lock:
            return list(self._running.values()), list(self._heap)

    def delete(self, prompt_id: str) -> None:
        """Take one waiting prompt out; nobody but the queue counter hears of it."""
        with self._lock:
            for index, entry in enumerate(self._heap):
                if entry[1] == prompt_id:
                    del self._heap[index]
                    heapq.heapify(self._heap)
                    self.announce()
                    return

    def clear(self) -> None:
        with self._lock:
            self._heap.clear()
            self.announce()

    def history(self, max_items: int | None = None, offset: int = -1) -> dict[str, Any]:
        """The newest `max_items`, or a page counted from the oldest; oldest first."""
        with self._lock:
            entries = list(self._history.items())
        start = offset
        if offset < 0:
            start = len(entries) - max_items if max_items is not None else 0
        page = entries[max(start, 0) :]
        # ComfyUI stops after the entry that fills the page, so a negative or zero limit only works without an offset
        return dict(page if max_items is None or start < 0 else page[: max(max_items, 1)])

    def finished(self, prompt_id: str) -> dict[str, Any]:
        with self._lock:
            return {prompt_id: self._history[prompt_id]} if prompt_id in self._history else {}

    def forget(self, prompt_id: str) -> None:
        with self._lock:
            self._history.pop(prompt_id, None)

    def forget_all(self) -> None:
        with self._lock:
            self._history.clear()
