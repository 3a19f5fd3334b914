"""Deadlines of whatever uses the network: when one expires, the connections that wait for it are shut down.

No library's time-out does that. It counts from the last byte, so a server that sends one byte per second, of a TLS handshake,
of its headers or of a body, could keep a thread for ever.
"""

import contextlib
import heapq
import math
import socket
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol


class Connection(Protocol):
    """What `bind` needs: a place to remember which deadline the connection belongs to at the moment."""

    owner: "Deadline | None"


@contextlib.contextmanager
def within(end: float) -> Iterator["Deadline"]:
    """Run the block until `end`, in seconds of time.monotonic, or until an enclosing block or `Deadline.expire` ends it earlier.

    After that, whatever waits on one of its connections fails, and so does a new connection; the block raises TimeoutError,
    whatever else it would have raised or returned. The connections are those that handler.net makes for this thread, and for
    others that run in a copy of its context.
    """
    outer = _current.get()
    deadline = Deadline(min(end, outer.end) if outer else end)
    token = _current.set(deadline)
    try:
        with deadline.enforce(), outer.enclose(deadline) if outer else contextlib.nullcontext():
            yield deadline
    finally:
        _current.reset(token)


def within_s(seconds: float) -> contextlib.AbstractContextManager["Deadline"]:
    """`within`, from now on."""
    return within(time.monotonic() + seconds)


def left_s() -> float:
    """Seconds until the end of the block; infinite outside of one."""
    deadline = _current.get()
    return deadline.end - time.monotonic() if deadline else math.inf


def sleep(seconds: float) -> None:
    """Sleep, at most until the end of the block."""
    time.sleep(max(0.0, min(seconds, left_s())))


def bind(connection: Connection, sock: socket.socket) -> None:
    """Have the block shut the socket down in time, as long as the connection is not used by another one."""
    deadline = connection.owner = _current.get()
    if deadline is not None:
        deadline.add(connection, sock)


class Deadline:
    """The connections of one block, and its end."""

    def __init__(self, end: float) -> None:
        self.end = end
        self._expired = False
        self._lock = threading.Lock()
        self._bound: list[tuple[Connection, socket.socket]] = []
        self._inner: set[Deadline] = set()

    @contextlib.contextmanager
    def enforce(self) -> Iterator[None]:
        """Raise TimeoutError when the block takes longer."""
        if self.end <= time.monotonic():
            raise TimeoutError
        _timer.add(self)
        try:
            yield
        finally:
            _timer.remove(self)
            with self._lock:
                for _, copy in self._bound:
                    copy.close()
                self._bound.clear()
            # The timer may be a moment behind the clock.
            if self._expired or time.monotonic() >= self.end:
                raise TimeoutError

    @contextlib.contextmanager
    def enclose(self, inner: "Deadline") -> Iterator[None]:
        """Have the deadline of a block inside this one expire together with this."""
        with self._lock:
            if self._expired:
                raise TimeoutError
            self._inner.add(inner)
        try:
            yield
        finally:
            with self._lock:
                self._inner.discard(inner)

    def add(self, connection: Connection, sock: socket.socket) -> None:
        with self._lock:
            if self._expired:
                raise TimeoutError
            # A copy: TLS takes the socket apart, and a response outlives its connection.
            self._bound.append((connection, socket.fromfd(sock.fileno(), sock.family, sock.type)))

    def expire(self) -> None:
        """End the block now."""
        with self._lock:
            self._expired = True
            self.end = min(self.end, time.monotonic())
            for connection, copy in self._bound:
                if connection.owner is self:  # otherwise it went back to its pool, and another block uses it
                    with contextlib.suppress(OSError):
                        copy.shutdown(socket.SHUT_RDWR)
            inner = list(self._inner)
        for deadline in inner:
            deadline.expire()


class _Timer:
    """One daemon thread that expires every deadline when its time comes. It starts with the first one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int, Deadline]] = []
        self._wakes_at = math.inf
        self._started = False

    def add(self, deadline: Deadline) -> None:
        with self._changed:
            # The id keeps deadlines with the same end from being compared.
            heapq.heappush(self._waiting, (deadline.end, id(deadline), deadline))
            if not self._started:
                self._started = True
                threading.Thread(target=self._work, name="deadlines", daemon=True).start()
            # Only if need be: woken by each block, the thread holds the lock while it waits for the GIL, and so holds up others.
            if deadline.end < self._wakes_at:
                self._changed.notify()

    def remove(self, deadline: Deadline) -> None:
        """Forget a deadline, if it has not expired yet. The thread may wake for it all the same."""
        with self._changed:
            self._waiting = [entry for entry in self._waiting if entry[2] is not deadline]
            heapq.heapify(self._waiting)

    def _work(self) -> None:
        while True:
            self._wait_for_next().expire()

    def _wait_for_next(self) -> Deadline:
        with self._changed:
            while True:
                self._wakes_at = self._waiting[0][0] if self._waiting else math.inf
                left = self._wakes_at - time.monotonic()
                if left <= 0:
                    return heapq.heappop(self._waiting)[2]
                self._changed.wait(min(left, threading.TIMEOUT_MAX))


_timer = _Timer()
_current: ContextVar[Deadline | None] = ContextVar("deadline", default=None)
