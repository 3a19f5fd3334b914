"""The socket that the HTTP API listens at."""

import socket

from emulator.listener import listen


def test_ipv4_and_ipv6_answer_on_one_port() -> None:
    with listen("::", 0) as listener:
        port = listener.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, port), timeout=30):
                pass
