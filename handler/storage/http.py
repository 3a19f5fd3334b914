"""Files behind http and https URLs."""

import time
from typing import BinaryIO

import requests
import urllib3

from handler import net
from handler.errors import InputUnavailable, TooLarge
from handler.settings import Settings

_CONNECT_TIMEOUT_S = 10
_CHUNK = 1 << 16


class HttpStorage:
    def __init__(self, settings: Settings) -> None:
        self._allow_private = settings.allow_private_urls

    def matches(self, url: str) -> bool:
        return url.lower().startswith(("http://", "https://"))

    def fetch(self, url: str, file: BinaryIO, *, max_bytes: int, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        try:
            with (
                net.session(allow_private=self._allow_private) as session,
                session.get(url, stream=True, timeout=(min(_CONNECT_TIMEOUT_S, timeout_s), timeout_s)) as response,
            ):
                self._check(response, url, max_bytes)
                self._copy(response, file, url, max_bytes, end)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as exc:
            raise InputUnavailable(f"{net.shown(url)} cannot be fetched: {_reason(exc)}.") from exc

    def _check(self, response: requests.Response, url: str, max_bytes: int) -> None:
        if response.status_code != requests.codes.ok:
            raise InputUnavailable(f"{net.shown(url)} answered {response.status_code} {response.reason}.")
        if int(response.headers.get("Content-Length") or 0) > max_bytes:
            raise _too_large(url, max_bytes)

    def _copy(self, response: requests.Response, file: BinaryIO, url: str, max_bytes: int, end: float) -> None:
        left = max_bytes
        # read1 returns what has arrived: a sender of one byte per second meets the deadline all the same.
        while chunk := response.raw.read1(_CHUNK):
            left -= len(chunk)
            if left < 0:
                raise _too_large(url, max_bytes)
            if time.monotonic() > end:
                raise TimeoutError
            file.write(chunk)


def _too_large(url: str, max_bytes: int) -> TooLarge:
    return TooLarge(f"{net.shown(url)} is larger than {max_bytes / (1 << 20):g} MB (MAX_INPUT_SIZE_MB).")


def _reason(exc: Exception) -> str:
    """Why a fetch failed, for the caller: the texts of these exceptions hold addresses and whole URLs."""
    kinds: tuple[tuple[type[Exception], str], ...] = (
        (TimeoutError, "it took too long"),
        (requests.Timeout, "it took too long"),
        (urllib3.exceptions.TimeoutError, "it took too long"),
        (requests.TooManyRedirects, "too many redirects"),
        (requests.exceptions.SSLError, "its certificate is not valid"),
        (requests.exceptions.InvalidURL, "it is not a valid URL"),
        (requests.exceptions.InvalidSchema, "it redirects to something else than http"),
        (urllib3.exceptions.IncompleteRead, "the connection broke off"),
        (requests.ConnectionError, "no connection"),
    )
    return next((reason for kind, reason in kinds if isinstance(exc, kind)), "the transfer failed")
