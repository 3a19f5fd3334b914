"""Listening sockets: on IPv6 and IPv4 at once, and without a delay in every answer."""

import socket

_BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A TCP socket that listens; "::" answers IPv4 as well, and means IPv4 where there is no IPv6. Raises OSError."""
    dual = host == "::" and socket.has_dualstack_ipv6()
    address = "0.0.0.0" if host == "::" and not dual else host
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family, backlog=_BACKLOG, dualstack_ipv6=dual)
    # Inherited by every connection. asyncio sets it only where the socket knows its protocol's number; without it the second
    # half of an answer waits 40 ms for the client's delayed acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
