"""First come, first served: a bounded number of prompts is inside ComfyUI, the rest waits here."""

import threading
import time
from bisect import insort
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from handler.errors import HandlerError, PromptTimeout
from handler.ticket import Ticket


class Admission:
    """A queue before ComfyUI's own, which is kept short: a crash takes few prompts, and a waiting one can be cancelled.

    It is paused while there is no ComfyUI to run prompts: nobody's turn comes then but that of urgent ones. `breaks` counts how
    often that has happened: a prompt that began before the latest of them is in no ComfyUI any more.
    """

    def __init__(self, inside: int) -> None:
        self.generation = 0
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
            ticket.admitted = True
            self._entering = ticket
            return self.generation

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
            return "running" if ticket.admitted else "queued"

    def pause(self) -> None:
        """ComfyUI is gone, and with it what was inside."""
        with self._changed:
            self.generation += 1
            self._paused = True
            self._changed.notify_all()

    def resume(self, breaks: int) -> bool:
        """Go on, unless ComfyUI has gone once more since `breaks` was what it says here."""
        with self._changed:
            if self.generation == breaks:
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
