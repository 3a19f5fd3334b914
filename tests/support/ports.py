"""Ports for servers that cannot be given 0."""

import fcntl
import functools
import itertools
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Below those that Linux gives out itself, of which another test could get the same one meanwhile.
_FIRST, _STRETCHES, _EACH = 10_000, 220, 100


def free_port() -> int:
    """The next one of this process's own stretch at which nobody listens."""
    ports = _own_stretch()
    for port in itertools.islice(ports, _EACH):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("all ports are taken")


@functools.cache
def _own_stretch() -> Iterator[int]:
    """A stretch that no other process of any suite on this machine has. It is locked until this process ends."""
    folder = Path(tempfile.gettempdir()) / f"pytest-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for offset in range(_STRETCHES):
        stretch = (os.getpid() + offset) % _STRETCHES
        lock = os.open(folder / str(stretch), os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        first = _FIRST + stretch * _EACH
        return itertools.cycle(range(first, first + _EACH))
    raise AssertionError("all stretches of ports are taken")
