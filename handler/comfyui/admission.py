"""The queue before ComfyUI's own: a bounded number of prompts is inside ComfyUI, the rest waits here, first come first served."""

import threading
import time
from bisect import insort
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from handler.errors import ComfyCrashed, HandlerError, PromptTimeout
from handler.ticket import Ticket


class Admission:
    """Keeps ComfyUI's own queue short: a crash takes few prompts with it, and a waiting prompt can be cancelled.

    It is paused while there is no ComfyUI to run prompts: only urgent ones are admitted then. `generation` counts the ends of
    ComfyUI: a prompt that was admitted in an earlier generation is in no ComfyUI any more. Safe to use from many threads.
    """

    def __init__(self, limit: int) -> None:
        self.generation = 0
        self._limit = limit
        self._changed = threading.Condition()
        # By order of arrival: a request whose inputs took long to fetch is not behind those that arrived after it.
        self._waiting: list[Ticket] = []
        self._inside: list[Ticket] = []
        # The one that is admitted and not yet in ComfyUI's queue: the next prompt must not get there first.
        self._submitting: Ticket | None = None
        self._paused = False
        self._closed: Callable[[], HandlerError] | None = None

    def __len__(self) -> int:
        """How many prompts wait or are inside ComfyUI."""
        return len(self._waiting) + len(self._inside)

    @property
    def is_open(self) -> bool:
        """Whether there is a ComfyUI that prompts are admitted to."""
        return not self._paused and self._closed is None

    @property
    def is_closed(self) -> bool:
        """Whether no prompt will be admitted any more."""
        return self._closed is not None

    @contextmanager
    def admit(self, ticket: Ticket, deadline: float) -> Iterator["Slot"]:
        """Wait until this prompt may enter ComfyUI, and hold its slot for the block.

        `deadline` is in seconds of time.monotonic. Raises PromptTimeout, or what the ticket is cancelled with while it waits.
        """
        with self._changed:
            insort(self._waiting, ticket, key=lambda each: each.number)
        try:
            with ticket.on_cancel(self._notify):
                slot = self._wait(ticket, deadline)
            yield slot
        finally:
            self.submitted(ticket)
            with self._changed:
                for tickets in (self._waiting, self._inside):
                    with suppress(ValueError):
                        tickets.remove(ticket)
                self._changed.notify_all()

    def _wait(self, ticket: Ticket, deadline: float) -> "Slot":
        with self._changed:
            self._changed.wait_for(
                lambda: ticket.cancelled or self._closed or self._may_enter(ticket),
                timeout=max(0.0, deadline - time.monotonic()),
            )
            ticket.check()
            if self._closed:
                raise self._closed()
            if time.monotonic() >= deadline:
                raise PromptTimeout("The prompt's time was over before its turn came.")
            self._waiting.remove(ticket)
            self._inside.append(ticket)
            ticket.admitted = True
            self._submitting = ticket
            return Slot(self, ticket, deadline, self.generation)

    def _may_enter(self, ticket: Ticket) -> bool:
        if ticket.urgent:
            return True
        has_room = not self._paused and self._submitting is None and len(self._inside) < self._limit
        return has_room and self._waiting[0] is ticket

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def submitted(self, ticket: Ticket) -> None:
        """The prompt is in ComfyUI's queue: the next one may follow."""
        with self._changed:
            if self._submitting is ticket:
                self._submitting = None
                self._changed.notify_all()

    def pause(self) -> None:
        """ComfyUI has ended, and with it all prompts that were inside."""
        with self._changed:
            self.generation += 1
            self._paused = True
            self._changed.notify_all()

    def resume(self, generation: int) -> bool:
        """Admit prompts again, unless ComfyUI has ended once more since that generation. Whether it is open now."""
        with self._changed:
            if self.generation == generation:
                self._paused = False
                self._changed.notify_all()
            return self.is_open

    def wait_open(self, timeout_s: float) -> bool:
        """Wait while it is paused. Whether it is open now."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_open or self.is_closed, timeout_s)
            return self.is_open

    def close(self, reason: Callable[[], HandlerError]) -> None:
        """There will be no ComfyUI any more: all prompts end for this reason, also those that still arrive."""
        with self._changed:
            self._closed = self._closed or reason
            for ticket in (*self._waiting, *self._inside):
                ticket.cancel(reason())
            self._changed.notify_all()


@dataclass(frozen=True)
class Slot:
    """The place of one prompt inside ComfyUI."""

    admission: Admission
    ticket: Ticket
    deadline: float
    generation: int

    @property
    def is_lost(self) -> bool:
        """Whether the ComfyUI that the prompt was admitted to has ended, or is about to for good."""
        return self.admission.generation != self.generation or self.admission.is_closed

    def submitted(self) -> None:
        """The prompt is in ComfyUI's queue: the next one may follow."""
        self.admission.submitted(self.ticket)

    def check(self) -> None:
        """Raise what ends the prompt from outside: a cancel, the end of ComfyUI, the deadline."""
        self.ticket.check()
        if self.admission.generation != self.generation:
            raise ComfyCrashed("ComfyUI ended while the prompt was in it.")
        if time.monotonic() > self.deadline:
            raise PromptTimeout("The prompt took longer than its time limit.")
