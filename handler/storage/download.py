"""Fetching over http and https, for every store that speaks it."""

import os
import re
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import BinaryIO
from urllib.parse import urljoin

import requests

from handler.errors import InputUnavailable
from handler.net import check_url, deadline, new_session
from handler.schemas import Auth
from handler.settings import Settings
from handler.storage.auth import authorize, same_server, split_userinfo
from handler.storage.transfer import (
    CONNECT_TIMEOUT_S,
    IDLE_TIMEOUT_S,
    TRANSFER_ERRORS,
    Limits,
    Version,
    continues_at,
    copy_body,
    empty,
    failure_reason,
)
from handler.urls import describe_url


def download(
    url: str,
    file: BinaryIO,
    *,
    version: Version | None,
    auth: Auth | None,
    limits: Limits,
    settings: Settings,
    trusted: Iterable[str] = (),
) -> None:
    """Write the content of a URL to a file; resume behind what the file holds already if that is of the same version.

    `trusted` are URLs of servers that may have private addresses. Raises InputUnavailable, ForbiddenUrl or TooLarge.
    """
    try:
        with new_session(
            allow_private=settings.allow_private_urls, trusted=trusted, proxies=settings.proxies
        ) as session:
            _Download(session, url, auth, limits, settings).download_to(file, version)
    except TRANSFER_ERRORS as exc:
        raise InputUnavailable(f"{limits.name} cannot be fetched: {failure_reason(exc)}.") from exc


def check_http_url(url: str, *, auth: Auth | None, settings: Settings, trusted: bool = False) -> None:
    """Raise what `download` would raise before it connects. `trusted`: the server may have a private address."""
    try:
        plain, own = split_userinfo(url)
        where, headers = authorize(plain, auth or own, settings)
        requests.Request("GET", where, headers).prepare()
    except TRANSFER_ERRORS as exc:
        raise InputUnavailable(f"{describe_url(url)} cannot be fetched: {failure_reason(exc)}.") from exc
    check_url(where, allow_private=trusted or settings.allow_private_urls)


class _Download:
    def __init__(
        self, session: requests.Session, url: str, auth: Auth | None, limits: Limits, settings: Settings
    ) -> None:
        self._session, self._limits, self._settings = session, limits, settings
        self._url, own = split_userinfo(url)
        self._auth = auth or own

    def download_to(self, file: BinaryIO, version: Version | None) -> None:
        held = file.seek(0, os.SEEK_END)
        known = version.known() if version and held else None
        if known and self._resume(file, held, known):
            return
        with self._open({}) as response:
            if response.status_code != requests.codes.ok:
                raise self._refusal(response)
            empty(file)
            if version:
                version.keep(_version(response.headers))
            self._copy(response, file)

    def _resume(self, file: BinaryIO, held: int, known: str) -> bool:
        """Fetch what comes behind the first bytes. False: the server does not send it, or has another version."""
        with self._open({"Range": f"bytes={held}-", "If-Range": known}) as response:
            if not _is_version(known, response.headers):
                return False
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                # RFC 9110, 15.5.17: the answer says how long the file is. Here we may have all of it already.
                total = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("Content-Range", ""))
                return total is not None and int(total[1]) == held
            if not continues_at(held, response.status_code, response.headers.get("Content-Range")):
                return False
            self._copy(response, file)
            return True

    def _copy(self, response: requests.Response, file: BinaryIO) -> None:
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            # We asked for it uncompressed. A few kB could be any number of GB when unpacked.
            raise InputUnavailable(f"{self._limits.name} is sent compressed, which was not asked for.")
        copy_body(response.raw, file, self._limits)

    def _open(self, headers: dict[str, str]) -> requests.Response:
        """The answer behind all redirects; only the first server gets the caller's credentials.

        requests itself would remove nothing but Authorization at a redirect.
        """
        url, auth = self._url, self._auth
        for _ in range(self._session.max_redirects + 1):
            where, secret = authorize(url, auth, self._settings)
            response = self._session.get(
                where, headers=secret | headers, stream=True, allow_redirects=False, timeout=self._timeouts()
            )
            target = self._session.get_redirect_target(response)
            if target is None:
                return response
            response.close()
            onward, own = split_userinfo(urljoin(url, target))
            if not onward.lower().startswith(("http://", "https://")):
                raise requests.exceptions.InvalidSchema
            if not same_server(url, onward):
                auth = own
            url = onward
        raise requests.TooManyRedirects

    def _timeouts(self) -> tuple[float, float]:
        if (left := deadline.left_s()) <= 0:
            raise TimeoutError
        return min(CONNECT_TIMEOUT_S, left), min(IDLE_TIMEOUT_S, left)

    def _refusal(self, response: requests.Response) -> InputUnavailable:
        return InputUnavailable(f"{self._limits.name} answered {response.status_code} {response.reason}.")


def _version(headers: Mapping[str, str]) -> str | None:
    """The version of an answer for `If-Range`: a strong ETag, or a Last-Modified that is before the answer's own date."""
    tag = headers.get("ETag", "")
    if tag.startswith('"'):
        return tag
    modified = headers.get("Last-Modified", "")
    try:
        # Dates count seconds, and there can be two versions within one.
        return modified if parsedate_to_datetime(modified) < parsedate_to_datetime(headers.get("Date", "")) else None
    except (TypeError, ValueError):
        return None


def _is_version(known: str, headers: Mapping[str, str]) -> bool:
    """Whether an answer has the known version, as far as its headers tell: not every server knows `If-Range`."""
    return headers.get("ETag" if known.startswith('"') else "Last-Modified", known) == known
