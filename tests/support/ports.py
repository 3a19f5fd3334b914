"""Ports for servers that cannot be given 0."""

import itertools
import os
import socket

# Below those that Linux gives out itself, of which another test could get the same one meanwhile.
_FIRST, _STRETCHES, _EACH = 10_000, 220, 100
_start = _FIRST + os.getpid() % _STRETCHES * _EACH
_stretch = itertools.cycle(range(_start, _start + _EACH))


def free_port() -> int:
    """The next one of this process's own stretch at which nobody listens."""
    for port in itertools.islice(_stretch, _EACH):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("all ports are taken")
