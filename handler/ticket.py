"""The way of a request through the handler, and how another thread ends it."""

import itertools
import threading
import time
from collections.abc import Callable
from uuid import uuid4

from handler.errors import HandlerError, PromptInterrupted

_numbers = itertools.count()


class Ticket:
    """A request's way through the handler: what another thread needs to end it, from the moment that it comes.

    `number` is its place in the order of arrival, and `received` the moment of it, in seconds of time.monotonic; an `urgent`
    one waits for nobody. `request_id` is known once the request has been read, `turn_came` once its prompt is in ComfyUI's
    queue or about to be.
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
        self._on_cancel: Callable[[], None] = lambda: None

    @property
    def cancelled(self) -> bool:
        return self._reason is not None

    def cancel(self, reason: HandlerError | None = None) -> bool:
        """Make the request end with an error, by default PromptInterrupted. False: nothing is left that could be ended."""
        with self._lock:
            if self._settled:
                return False
            self._reason = self._reason or reason or PromptInterrupted("The prompt was interrupted.")
        self._on_cancel()
        return True

    def when_cancelled(self, call: Callable[[], None]) -> None:
        """Have this called when it is cancelled, on whichever thread that is; at once if it is already. One call at a time."""
        with self._lock:
            self._on_cancel = call
        if self.cancelled:
            call()

    def check(self) -> None:
        """Raise what it was cancelled with, if it was."""
        if self._reason is not None:
            raise self._reason

    def settle(self) -> None:
        """From here on it cannot be cancelled. Raises what it was cancelled with, if it was."""
        with self._lock:
            self.check()
            self._settled = True

    def finish(self) -> None:
        """It has ended, however it did."""
        self._settled = True
