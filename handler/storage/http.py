"""Files behind http and https URLs, and uploads by PUT."""

from typing import BinaryIO
from urllib.parse import urlsplit, urlunsplit

import requests
from tenacity import (
    Retrying,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from handler.errors import DeliveryError
from handler.net import check_url, deadline, new_session
from handler.schemas import Auth, HttpUpload, Upload
from handler.settings import Settings
from handler.storage.auth import AuthFor, authorize, split_userinfo
from handler.storage.download import check_http_url, download
from handler.storage.transfer import CONNECT_TIMEOUT_S, IDLE_TIMEOUT_S, TRANSFER_ERRORS, Limits, Version, failure_reason
from handler.urls import describe_url, quote_path, redact_url


class HttpStorage:
    """Any web server: files are fetched by GET and uploaded by PUT."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def matches(self, url: str) -> bool:
        return url.lower().startswith(("http://", "https://"))

    def check_url(self, url: str, auth: Auth | None) -> None:
        check_http_url(url, auth=auth, settings=self._settings)

    def fetch(
        self,
        url: str,
        file: BinaryIO,
        *,
        version: Version | None = None,
        auth: Auth | None = None,
        max_bytes: int | None,
    ) -> None:
        limits = Limits(describe_url(url), max_bytes)
        download(url, file, version=version, auth=auth, limits=limits, settings=self._settings)

    def takes(self, upload: Upload) -> bool:
        return isinstance(upload, HttpUpload)

    def check(self, upload: Upload, auth_for: AuthFor) -> None:  # noqa: ARG002 (they are optional here)
        """Raise BadRequest for an invalid URL, and ForbiddenUrl for an address that is not public."""
        assert isinstance(upload, HttpUpload)
        check_url(upload.url_prefix, allow_private=self._settings.allow_private_urls)

    def store(
        self, upload: Upload, filename: str, content: BinaryIO, *, size: int, mime_type: str, auth_for: AuthFor
    ) -> str:
        assert isinstance(upload, HttpUpload)
        url, own = split_userinfo(_upload_url(upload.url_prefix, filename))
        where, headers = authorize(url, auth_for(url) or own, self._settings)
        put = _Put(where, {"Content-Type": mime_type, **headers}, content, size)
        with new_session(allow_private=self._settings.allow_private_urls, proxies=self._settings.proxies) as session:
            try:
                status = put.send(session)
            except TRANSFER_ERRORS as exc:
                raise DeliveryError(f"{describe_url(url)} did not take the upload: {failure_reason(exc)}.") from exc
        if not 200 <= status < 300:
            # A redirect is a failure: to follow it would show the file to a server that nobody named.
            raise DeliveryError(f"{describe_url(url)} answered {status} to the upload.")
        return redact_url(url)


class _Put:
    """The upload of one file. It is safe to repeat, since a PUT has the same effect every time."""

    def __init__(self, url: str, headers: dict[str, str], content: BinaryIO, size: int) -> None:
        self._url, self._headers, self._content, self._size = url, headers, content, size

    def send(self, session: requests.Session) -> int:
        """Send the file, several times if need be; returns the status of the last answer."""
        retrying = Retrying(
            stop=stop_after_attempt(4) | stop_before_delay(deadline.left_s()),
            wait=wait_random_exponential(multiplier=0.1, max=4),
            retry=retry_if_result(lambda status: status == requests.codes.too_many_requests or status >= 500)
            | retry_if_exception_type((requests.ConnectionError, requests.Timeout)),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        status: int = retrying(self._try, session)
        return status

    def _try(self, session: requests.Session) -> int:
        self._content.seek(0)
        # An empty file object would be sent in chunks, without a Content-Length.
        body = self._content if self._size else b""
        timeouts = (CONNECT_TIMEOUT_S, IDLE_TIMEOUT_S)
        with session.put(
            self._url, data=body, headers=self._headers, timeout=timeouts, allow_redirects=False, stream=True
        ) as response:
            return response.status_code


def _upload_url(prefix: str, filename: str) -> str:
    """The URL of a file under a prefix; the prefix's own query, such as a signature, stays at the end."""
    parts = urlsplit(prefix)
    path = f"{parts.path.rstrip('/')}/{quote_path(filename)}"
    return urlunsplit(parts._replace(path=path, fragment=""))
