"""An end for what goes over the network: when the time is over, the connections in use are shut down.

No time-out of a library does that. It counts from the last byte, so that a server that sends one byte per second, of a TLS
handshake, of its headers or of a body, would keep a thread for ever.
"""

import contextlib
import math
import socket
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol


class Connection(Protocol):
    """What `bind` needs: a place to remember whom the connection serves."""

    serves: "Deadline | None"


@contextlib.contextmanager
def within(end: float) -> Iterator["Deadline"]:
    """Run the block until `end`, in seconds of time.monotonic; a block around it may end it earlier, and so may `Deadline.cut`.

    Then whatever waits on one of its connections fails, and so does a new one; the block raises TimeoutError, whatever else it
    would have raised or given. The connections are those that `guard` makes for this thread, and for others that run in a copy of
    its context.
    """
    outer = _current.get()
    watch = Deadline(min(end, outer.end) if outer else end)
    token = _current.set(watch)
    try:
        with watch.watching(), outer.around(watch) if outer else contextlib.nullcontext():
            yield watch
    finally:
        _current.reset(token)


def left_s() -> float:
    """Seconds until the end of the block; infinite outside of one."""
    watch = _current.get()
    return watch.end - time.monotonic() if watch else math.inf


def sleep(seconds: float) -> None:
    """Sleep, at most until the end of the block."""
    time.sleep(max(0.0, min(seconds, left_s())))


def bind(connection: Connection, sock: socket.socket) -> None:
    """Let the block around this shut the socket down in time, as long as the connection serves nobody else."""
    watch = connection.serves = _current.get()
    if watch is not None:
        watch.add(connection, sock)


class Deadline:
    """The connections of one block, and its end."""

    def __init__(self, end: float) -> None:
        self.end = end
        self._late = False
        self._lock = threading.Lock()
        self._bound: list[tuple[Connection, socket.socket]] = []
        self._inner: set[Deadline] = set()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        if (left := self.end - time.monotonic()) <= 0:
            raise TimeoutError
        timer = threading.Timer(left, self.cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with self._lock:
                for _, copy in self._bound:
                    copy.close()
                self._bound.clear()
            # The timer may be a moment behind the clock.
            if self._late or time.monotonic() >= self.end:
                raise TimeoutError

    @contextlib.contextmanager
    def around(self, inner: "Deadline") -> Iterator[None]:
        """Cut the deadline of a block inside this one together with this."""
        with self._lock:
            if self._late:
                raise TimeoutError
            self._inner.add(inner)
        try:
            yield
        finally:
            with self._lock:
                self._inner.discard(inner)

    def add(self, connection: Connection, sock: socket.socket) -> None:
        with self._lock:
            if self._late:
                raise TimeoutError
            # A copy: TLS takes the socket apart, and a response outlives its connection.
            self._bound.append((connection, socket.fromfd(sock.fileno(), sock.family, sock.type)))

    def cut(self) -> None:
        """Let the time be over now."""
        with self._lock:
            self._late = True
            self.end = min(self.end, time.monotonic())
            for connection, copy in self._bound:
                if connection.serves is self:  # otherwise it came back into its pool, and somebody took it
                    with contextlib.suppress(OSError):
                        copy.shutdown(socket.SHUT_RDWR)
            inner = list(self._inner)
        for watch in inner:
            watch.cut()


_current: ContextVar[Deadline | None] = ContextVar("deadline", default=None)
