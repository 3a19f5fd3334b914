"""The kinds of stores, and which of them a URL or an upload belongs to."""

from typing import BinaryIO, Protocol

from handler.errors import InputUnavailable
from handler.schemas import Auth, Upload
from handler.settings import Settings
from handler.storage.auth import AuthFor
from handler.storage.azure import AzureStorage
from handler.storage.hf import HfStorage
from handler.storage.http import HttpStorage
from handler.storage.s3 import S3Storage
from handler.storage.transfer import Version
from handler.urls import MAX_URL_LENGTH, describe_url


class Storage(Protocol):
    """A kind of store, told by its URLs and by its kind of upload. Safe to use from many threads."""

    def matches(self, url: str) -> bool:
        """Whether the URL belongs to this store."""

    def check_url(self, url: str, auth: Auth | None) -> None:
        """Raise what `fetch` would raise before it connects: for an invalid URL, or one that is forbidden."""

    def fetch(
        self,
        url: str,
        file: BinaryIO,
        *,
        version: Version | None = None,
        auth: Auth | None = None,
        max_bytes: int | None,
    ) -> None:
        """Write the content of the URL to the file, which is open for reading and writing.

        Resumes behind what the file holds already if `version` knows its version and the store still has that one; otherwise
        empties the file first. What ends it is the `time_limit` around it, or a minute in which nothing comes. Raises
        InputUnavailable, ForbiddenUrl, or TooLarge as soon as there are more than `max_bytes`; BadRequest when the store is
        not installed or not configured; DiskFull. After any of them the file holds what had arrived.
        """

    def takes(self, upload: Upload) -> bool:
        """Whether this is the store that the upload names."""

    def check(self, upload: Upload, auth_for: AuthFor) -> None:
        """Raise BadRequest, naming the extra or the variable that is missing, when the upload cannot even be tried.

        Nothing is sent: only `store` notices what the store itself has to tell, such as that a bucket does not exist.
        """

    def store(
        self, upload: Upload, filename: str, content: BinaryIO, *, size: int, mime_type: str, auth_for: AuthFor
    ) -> str:
        """Upload one file as a stream; returns the URL for the caller. Raises DeliveryError.

        What ends it is the `deadline.within` around it.
        """


def store_for_url(url: str, settings: Settings) -> Storage:
    """The store of a URL. Raises InputUnavailable for a kind of URL that no store knows, and for one that is too long."""
    if len(url) > MAX_URL_LENGTH:
        raise InputUnavailable(f"A URL has more than {MAX_URL_LENGTH} characters.")
    for store in _stores(settings):
        if store.matches(url):
            return store
    raise InputUnavailable(f"{describe_url(url)}: only http, https, s3 and hf URLs can be fetched.")


def store_for_upload(upload: Upload, settings: Settings) -> Storage:
    """The store of an upload."""
    return next(store for store in _stores(settings) if store.takes(upload))


def _stores(settings: Settings) -> tuple[Storage, ...]:
    return (S3Storage(settings), AzureStorage(settings), HfStorage(settings), HttpStorage(settings))
