"""First come, first served: a bounded number of prompts is inside ComfyUI, the rest waits here."""

import itertools
import threading
import time
from bisect import insort
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal
from uuid import uuid4

from handler.errors import HandlerError, PromptInterrupted, PromptTimeout

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
        self.turn_came = False
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


class Line:
    """A queue before ComfyUI's own, which is kept short: a crash takes few prompts, and a waiting one can be cancelled.

    It is paused while there is no ComfyUI to run prompts: nobody's turn comes then but that of urgent ones. `breaks` counts how
    often that has happened: a prompt that began before the latest of them is in no ComfyUI any more.
    """

    def __init__(self, inside: int) -> None:
        self.breaks = 0
        self._room = inside
        self._changed = threading.Condition()
        # In order of arrival: one whose inputs took long is not behind those that came after it.
        self._waiting: list[Ticket] = []
        self._inside: list[Ticket] = []
        # Whose turn has come, but whose prompt ComfyUI does not have yet: the next one must not get there first.
        self._entering: Ticket | None = None
        self._paused = False
        self._over: Callable[[], HandlerError] | None = None

    def __len__(self) -> int:
        """How many prompts are waiting or inside."""
        return len(self._waiting) + len(self._inside)

    @property
    def is_open(self) -> bool:
        """Whether there is a ComfyUI that prompts are let into."""
        return not self._paused and self._over is None

    @property
    def is_over(self) -> bool:
        return self._over is not None

    @contextmanager
    def turn(self, ticket: Ticket, deadline: float) -> Iterator[int]:
        """Wait for this prompt's turn, and hold it. Gives what `breaks` was at its beginning.

        `deadline` is in seconds of time.monotonic. Raises PromptTimeout, or what the ticket is cancelled with while it waits.
        """
        with self._changed:
            insort(self._waiting, ticket, key=lambda each: each.number)
        try:
            yield self._wait(ticket, deadline)
        finally:
            self.entered(ticket)
            with self._changed:
                for tickets in (self._waiting, self._inside):
                    with suppress(ValueError):
                        tickets.remove(ticket)
                self._changed.notify_all()

    def _wait(self, ticket: Ticket, deadline: float) -> int:
        with self._changed:
            self._changed.wait_for(
                lambda: ticket.cancelled or self._over or self._may_enter(ticket),
                timeout=max(0.0, deadline - time.monotonic()),
            )
            ticket.check()
            if self._over:
                raise self._over()
            if time.monotonic() >= deadline:
                raise PromptTimeout("The prompt's time was over before its turn came.")
            self._waiting.remove(ticket)
            self._inside.append(ticket)
            ticket.turn_came = True
            self._entering = ticket
            return self.breaks

    def entered(self, ticket: Ticket) -> None:
        """Its prompt is in ComfyUI's queue: the next one may follow."""
        with self._changed:
            if self._entering is ticket:
                self._entering = None
                self._changed.notify_all()

    def _may_enter(self, ticket: Ticket) -> bool:
        if ticket.urgent:
            return True
        has_room = not self._paused and self._entering is None and len(self._inside) < self._room
        return has_room and self._waiting[0] is ticket

    def cancel(self, ticket: Ticket, reason: HandlerError | None = None) -> Literal["queued", "running"] | None:
        """Cancel a ticket wherever it is, and say where that was; None when nothing is left that could be ended."""
        with self._changed:
            if not ticket.cancel(reason):
                return None
            self._changed.notify_all()
            return "running" if ticket.turn_came else "queued"

    def pause(self) -> None:
        """ComfyUI is gone, and with it what was inside."""
        with self._changed:
            self.breaks += 1
            self._paused = True
            self._changed.notify_all()

    def resume(self, breaks: int) -> bool:
        """Go on, unless ComfyUI has gone once more since `breaks` was what it says here."""
        with self._changed:
            if self.breaks == breaks:
                self._paused = False
                self._changed.notify_all()
            return self.is_open

    def wait_open(self, timeout_s: float) -> bool:
        """Wait while it is paused, and say whether it is open."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_open or self.is_over, timeout_s)
            return self.is_open

    def end(self, reason: Callable[[], HandlerError]) -> None:
        """There will be no ComfyUI any more: all prompts end for this reason, also those that still come."""
        with self._changed:
            self._over = self._over or reason
            for ticket in (*self._waiting, *self._inside):
                ticket.cancel(reason())
            self._changed.notify_all()
