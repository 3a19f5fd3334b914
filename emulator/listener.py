"""Listening sockets, for IPv6 and IPv4 at once."""

import socket

_BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """Open a listening TCP socket. "::" includes IPv4, and falls back to it without IPv6. Raises OSError."""
    dual = host == "::" and socket.has_dualstack_ipv6()
    address = "0.0.0.0" if host == "::" and not dual else host
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family, backlog=_BACKLOG, dualstack_ipv6=dual)
    # Connections inherit the option. asyncio sets it only for sockets that were created with a protocol number. Without it
    # the second half of a response waits 40 ms for the client's delayed acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
