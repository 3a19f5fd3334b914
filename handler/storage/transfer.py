"""Copies what a server sends into a file, within limits."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import requests
import urllib3

from handler import disk
from handler.errors import InputUnavailable, TooLarge
from handler.net import deadline
from handler.urls import describe_url

CONNECT_TIMEOUT_S = 10
IDLE_TIMEOUT_S = 60
"""How long a server may send nothing."""

TRANSFER_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError)
"""What connections, streams and invalid URLs raise; `failure_reason` says it in words."""

_CHUNK = 1 << 16


@contextmanager
def time_limit(url: str, seconds: float) -> Iterator[None]:
    """Raise InputUnavailable when the block, which fetches the URL, takes longer, or does not end before its deadline."""
    try:
        with deadline.within_s(seconds):
            yield
    except TimeoutError as exc:
        raise InputUnavailable(f"{describe_url(url)} cannot be fetched: {failure_reason(exc)}.") from exc


@dataclass(frozen=True)
class Limits:
    """What one transfer may take up. `name` is what messages call it."""

    name: str
    max_bytes: int | None

    def check(self, size: int) -> None:
        """Raise TooLarge for a file of that size."""
        if self.max_bytes is not None and size > self.max_bytes:
            raise TooLarge(f"{self.name} is larger than {self.max_bytes / (1 << 20):g} MB (MAX_INPUT_SIZE_MB).")


@dataclass(frozen=True)
class Version:
    """The version of a partly downloaded file, as its server names it. The name is kept in a file of its own.

    Two versions must not be mixed: when the server names no version, or another one, the download restarts.
    """

    path: Path

    def known(self) -> str | None:
        try:
            return self.path.read_text() or None
        except (OSError, ValueError):
            return None

    def keep(self, name: str | None) -> None:
        with disk.writing(self.path.name):
            self.path.unlink(missing_ok=True)
            if name is not None:
                self.path.write_text(name)


def copy_body(stream: urllib3.HTTPResponse, file: BinaryIO, limits: Limits) -> None:
    """Write the rest of a body to the file, from where the file stands.

    Raises TooLarge, DiskFull, or what the stream raises; what has arrived is in the file then.
    """
    # botocore turns it off. Without it a body that breaks off counts as complete, and its connection as free.
    stream.enforce_content_length = True
    size = file.tell()
    limits.check(size + (stream.length_remaining or 0))
    # read1 returns what has arrived, so that a slow sender's bytes are not held back until a chunk is full.
    while chunk := stream.read1(_CHUNK):
        size += len(chunk)
        limits.check(size)
        with disk.writing(limits.name):
            file.write(chunk)


def empty(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def continues_at(held: int, status: int, content_range: str | None) -> bool:
    """Whether the answer to `Range: bytes=<held>-` starts right behind the first bytes."""
    start = re.match(r"bytes (\d+)-", content_range or "")
    return status == requests.codes.partial_content and start is not None and int(start[1]) == held


def failure_reason(exc: Exception) -> str:
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
