"""The live jobs of a process, and the end of all of them at a shutdown."""

import threading
from collections.abc import Callable
from typing import Literal

from handler.errors import HandlerError, ServerStopped
from handler.ticket import Ticket


class JobRegistry:
    """Every request from its arrival to its end. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tickets: dict[str, Ticket] = {}
        self._reason: Callable[[], HandlerError] | None = None

    def __len__(self) -> int:
        """How many requests have arrived and not ended."""
        return len(self._tickets)

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket.prompt_id in self._tickets

    def add(self, ticket: Ticket) -> None:
        """A request has arrived. Raises what all requests end with, once they do."""
        with self._lock:
            if self._reason is not None:
                raise self._reason()
            self._tickets[ticket.prompt_id] = ticket

    def remove(self, ticket: Ticket) -> None:
        """A request has ended."""
        with self._lock:
            self._tickets.pop(ticket.prompt_id, None)

    def with_id(self, request_id: str) -> list[Ticket]:
        """The requests with an id of their callers': it need not be unique."""
        with self._lock:
            return [ticket for ticket in self._tickets.values() if ticket.request_id == request_id]

    def end_all(self, reason: Callable[[], HandlerError] = ServerStopped) -> list[Ticket]:
        """End all requests, also those that still arrive. Gives those that could be ended.

        ComfyUI is not asked to interrupt: the thread that waits for a prompt withdraws it.
        """
        with self._lock:
            self._reason = self._reason or reason
            tickets = list(self._tickets.values())
        return [ticket for ticket in tickets if ticket.cancel(reason())]

    def end_reason(self) -> HandlerError:
        """What a request ends with that goes on though all were ended."""
        return (self._reason or ServerStopped)()


def merge_states(states: set[str | None]) -> Literal["queued", "running"] | None:
    """The state of several requests of one id; None when none of them could be ended."""
    return "running" if "running" in states else "queued" if "queued" in states else None
