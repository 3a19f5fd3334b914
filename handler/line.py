"""First come, first served: a bounded number of prompts is inside ComfyUI, the rest waits here."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from handler.errors import PromptInterrupted, PromptTimeout


class Ticket:
    """One prompt's place in the line. Once cancelled it stays so."""

    def __init__(self, prompt_id: str) -> None:
        self.prompt_id = prompt_id
        self.cancelled = False


class Line:
    """A queue before ComfyUI's own, which is kept short: a crash takes few prompts, and a waiting one can be cancelled."""

    def __init__(self, inside: int) -> None:
        self._inside = inside
        self._changed = threading.Condition()
        self._tickets: list[Ticket] = []
        self._unwanted: set[str] = set()

    def __len__(self) -> int:
        """How many prompts are waiting or inside."""
        return len(self._tickets)

    @contextmanager
    def turn(self, prompt_id: str, deadline: float) -> Iterator[Ticket]:
        """Wait for this prompt's turn, and hold it.

        `deadline` is in seconds of time.monotonic. Raises PromptTimeout, or PromptInterrupted when cancelled while waiting.
        """
        ticket = Ticket(prompt_id)
        with self._changed:
            ticket.cancelled = prompt_id in self._unwanted
            self._unwanted.discard(prompt_id)
            self._tickets.append(ticket)
        try:
            self._wait(ticket, deadline)
            yield ticket
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
            if ticket.cancelled:
                raise PromptInterrupted("The prompt was cancelled while it waited for its turn.")
            if ticket not in self._tickets[: self._inside]:
                raise PromptTimeout("The prompt's time was over before its turn came.")

    def refuse(self, prompt_id: str) -> None:
        """Cancel a prompt that is still to come; it must come."""
        with self._changed:
            self._unwanted.add(prompt_id)

    def cancel(self, prompt_id: str) -> Literal["queued", "running"] | None:
        """Mark a prompt as cancelled, and say where it was; None for one that is not here."""
        with self._changed:
            for position, ticket in enumerate(self._tickets):
                if ticket.prompt_id == prompt_id:
                    ticket.cancelled = True
                    self._changed.notify_all()
                    return "running" if position < self._inside else "queued"
        return None
