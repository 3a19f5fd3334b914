"""The way of one request through the handler, and how another thread ends it."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal
from uuid import uuid4

from handler.errors import HandlerError, PromptInterrupted

_numbers = itertools.count()


class Ticket:
    """What another thread needs to end a request, from the moment that it arrives. Safe to use from many threads.

    `number` is its place in the order of arrival, `received` the moment of it in seconds of time.monotonic, `prompt_id` the id
    of its prompt in ComfyUI. An `urgent` one (the warm-up) waits for no other. `request_id` is None until the request has been
    parsed. `admitted` says that its prompt is in ComfyUI's queue or about to be.
    """

    def __init__(self, *, urgent: bool = False) -> None:
        self.number = next(_numbers)
        self.received = time.monotonic()
        self.prompt_id = str(uuid4())
        self.urgent = urgent
        self.request_id: str | None = None
        self.admitted = False
        self._lock = threading.Lock()
        self._reason: HandlerError | None = None
        self._settled = False
        self._callbacks: list[Callable[[], object]] = []

    @property
    def cancelled(self) -> bool:
        return self._reason is not None

    @property
    def state(self) -> Literal["queued", "running"]:
        """Where the request is, in the words of POST /interrupt."""
        return "running" if self.admitted else "queued"

    def cancel(self, reason: HandlerError | None = None) -> bool:
        """Make the request end with an error, by default PromptInterrupted. False: it is too late to end it."""
        with self._lock:
            if self._settled:
                return False
            self._reason = self._reason or reason or PromptInterrupted("The prompt was interrupted.")
            callbacks = tuple(self._callbacks)
        for callback in callbacks:
            callback()
        return True

    @contextmanager
    def on_cancel(self, callback: Callable[[], object]) -> Iterator[None]:
        """Call this if the request is cancelled while the block runs, on the thread that cancels it; at once if it is already."""
        with self._lock:
            self._callbacks.append(callback)
            cancelled = self.cancelled
        if cancelled:
            callback()
        try:
            yield
        finally:
            with self._lock:
                self._callbacks.remove(callback)

    def check(self) -> None:
        """Raise what the request was cancelled with, if it was."""
        if self._reason is not None:
            raise self._reason

    def settle(self) -> None:
        """From here on the request cannot be cancelled. Raises what it was cancelled with, if it was."""
        with self._lock:
            self.check()
            self._settled = True

    def finish(self) -> None:
        """The request has ended, however it did."""
        self._settled = True
