"""Copying what a server sends into a file, within its limits."""

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import requests
import urllib3

from handler.errors import TooLarge

CONNECT_TIMEOUT_S = 10
IDLE_TIMEOUT_S = 60
"""How long nothing may come."""

FAILURES = (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError)
"""What connections, streams and URLs raise; `reason` says it in words."""

_CHUNK = 1 << 16


@dataclass(frozen=True)
class Limits:
    """What one transfer may take. `name` is what it is called in messages."""

    name: str
    max_bytes: int | None
    end: float

    @classmethod
    def of(cls, name: str, max_bytes: int | None, timeout_s: float) -> "Limits":
        return cls(name, max_bytes, time.monotonic() + timeout_s)

    @property
    def left_s(self) -> float:
        """Seconds left. Raises TimeoutError when there are none."""
        if (left := self.end - time.monotonic()) <= 0:
            raise TimeoutError
        return left

    def check(self, size: int) -> None:
        """Raise TooLarge for a file of that size."""
        if self.max_bytes is not None and size > self.max_bytes:
            raise TooLarge(f"{self.name} is larger than {self.max_bytes / (1 << 20):g} MB (MAX_INPUT_SIZE_MB).")


def copied(stream: urllib3.HTTPResponse, file: BinaryIO, limits: Limits) -> None:
    """Write the rest of a body to the file, from where the file stands.

    Raises TooLarge, TimeoutError, or what the stream raises; what has arrived is in the file then.
    """
    # botocore turns it off. Without it a body that breaks off is taken for a whole one, and its connection for a free one.
    stream.enforce_content_length = True
    size = file.tell()
    limits.check(size + (stream.length_remaining or 0))
    with _ended(stream, limits):
        # read1 returns what has arrived: a sender of one byte per second does not wait for a chunk to fill.
        while chunk := stream.read1(_CHUNK):
            size += len(chunk)
            limits.check(size)
            file.write(chunk)


def emptied(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def placed(file: BinaryIO, status: int, content_range: str | None) -> bool:
    """Put the file where the body of an answer to `Range: bytes=<held>-` goes. False: what was sent fits nowhere."""
    held = file.seek(0, os.SEEK_END)
    if status == requests.codes.ok:
        emptied(file)
        return True
    start = re.match(r"bytes (\d+)-", content_range or "")
    return status == requests.codes.partial_content and start is not None and int(start[1]) == held


def reason(exc: Exception) -> str:
    """Why a transfer failed, for the caller: the texts of these exceptions hold addresses and whole URLs."""
    kinds: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
        ((TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError), "it took too long"),
        (requests.TooManyRedirects, "too many redirects"),
        (requests.exceptions.SSLError, "its certificate is not valid"),
        (
            (requests.exceptions.InvalidHeader, UnicodeEncodeError),
            "its credentials have characters that a header cannot hold",
        ),
        (requests.exceptions.InvalidURL, "it is not a valid URL"),
        (requests.exceptions.InvalidSchema, "it redirects to something else than http"),
        (urllib3.exceptions.ProtocolError, "the connection broke off"),
        (requests.ConnectionError, "no connection"),
        (requests.RequestException, "the transfer failed"),
        (ValueError, "it is not a valid URL"),
    )
    return next((text for kind, text in kinds if isinstance(exc, kind)), "the transfer failed")


@contextlib.contextmanager
def _ended(stream: urllib3.HTTPResponse, limits: Limits) -> Iterator[None]:
    """End the stream at the deadline, whatever read waits for it then. Raises TimeoutError."""

    late = threading.Event()

    def end() -> None:
        late.set()
        with contextlib.suppress(RuntimeError, ValueError, OSError):  # it has ended by itself
            stream.shutdown()

    timer = threading.Timer(limits.left_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if late.is_set():
            raise TimeoutError
