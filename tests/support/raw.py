"""A server of bare sockets, for what no web server would send."""

import contextlib
import http.client
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

Script = Callable[[socket.socket], None]

# So that a test whose code waits for ever fails, and does not wait for ever.
_LONGEST_S = 60.0


@contextlib.contextmanager
def scripted(script: Script, port: int = 0) -> Iterator[str]:
    """Hands each connection to the script, on a thread of its own; gives the server's URL."""
    connections: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            script(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):  # the end of the test
            while True:
                connection, _ = listener.accept()
                connections.append(connection)
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", port), backlog=128) as listener:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


def asked(connection: socket.socket) -> bytes:
    """The head of the request."""
    head = b""
    while b"\r\n\r\n" not in head:
        if not (got := connection.recv(65536)):
            raise ConnectionError("nothing was asked")
        head += got
    return head


def answered(connection: socket.socket) -> tuple[int, bytes]:
    """The status and the body of a whole answer."""
    with http.client.HTTPResponse(connection) as answer:
        answer.begin()
        return answer.status, answer.read()


def saying(answer: bytes) -> Script:
    """Answers this, and ends."""

    def script(connection: socket.socket) -> None:
        asked(connection)
        connection.sendall(answer)

    return script


def dripping(start: bytes, drop: bytes = b"x", every_s: float = 0.05) -> Script:
    """Answers the start, and then drop after drop for longer than anybody should wait."""

    def script(connection: socket.socket) -> None:
        asked(connection)
        connection.sendall(start)
        end = time.monotonic() + _LONGEST_S
        while time.monotonic() < end:
            time.sleep(every_s)
            connection.sendall(drop)

    return script


def silent(connection: socket.socket) -> None:
    """Takes the connection, and reads and says nothing."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    poll.poll(_LONGEST_S * 1000)


HEAD = b"HTTP/1.1 200 OK\r\n"
SLOW: dict[str, Script] = {
    "one byte of the status line at a time": dripping(b"", b"H"),
    "one byte of a header at a time": dripping(HEAD + b"X-Slow: "),
    "one header after the other": dripping(HEAD, b"X: y\r\n"),
    "one 100 Continue after the other": dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "one byte of the body at a time": dripping(HEAD + b"Content-Length: 100000\r\n\r\n"),
    "nothing at all": silent,
}
