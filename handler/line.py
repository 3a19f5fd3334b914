"""First come, first served: a bounded number of prompts is inside ComfyUI, the rest waits here."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal
from uuid import uuid4

from handler.errors import HandlerError, PromptInterrupted, PromptTimeout


class Ticket:
    """A request's way through the handler: what another thread needs to end it, from the moment that it comes.

    `request_id` is known once the request has been read, `turn_came` once its prompt is in ComfyUI's queue or about to be.
    """

    def __init__(self) -> None:
        self.prompt_id = str(uuid4())
        self.request_id: str | None = None
        self.turn_came = False
        self._lock = threading.Lock()
        self._reason: HandlerError | None = None
        self._settled = False

    @property
    def cancelled(self) -> bool:
        return self._reason is not None

    def cancel(self, reason: HandlerError | None = None) -> bool:
        """Make the request end with an error, by default PromptInterrupted. False: nothing is left that could be ended."""
        with self._lock:
            if not self._settled and self._reason is None:
                self._reason = reason or PromptInterrupted("The prompt was interrupted.")
            return not self._settled

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


class Line:
    """A queue before ComfyUI's own, which is kept short: a crash takes few prompts, and a waiting one can be cancelled."""

    def __init__(self, inside: int) -> None:
        self._inside = inside
        self._changed = threading.Condition()
        self._tickets: list[Ticket] = []

    def __len__(self) -> int:
        """How many prompts are waiting or inside."""
        return len(self._tickets)

    @contextmanager
    def turn(self, ticket: Ticket, deadline: float) -> Iterator[None]:
        """Wait for this prompt's turn, and hold it.

        `deadline` is in seconds of time.monotonic. Raises PromptTimeout, or what the ticket is cancelled with while it waits.
        """
        with self._changed:
            self._tickets.append(ticket)
        try:
            self._wait(ticket, deadline)
            yield
        finally:
            with self._changed:
                self._tickets.remove(ticket)
                self._changed.notify_all()

    def _wait(self, ticket: Ticket, deadline: float) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: ticket.cancelled or ticket in self._tickets[: self._inside],
                timeout=max(0.0, deadline - time.monotonic()),
            )
            ticket.check()
            if ticket not in self._tickets[: self._inside]:
                raise PromptTimeout("The prompt's time was over before its turn came.")
            ticket.turn_came = True

    def cancel(self, ticket: Ticket, reason: HandlerError | None = None) -> Literal["queued", "running"] | None:
        """Cancel a ticket wherever it is, and say where that was; None when nothing is left that could be ended."""
        with self._changed:
            if not ticket.cancel(reason):
                return None
            self._changed.notify_all()
            return "running" if ticket.turn_came else "queued"
