"""Where files come from and go to: one module per backend, all of one shape, chosen by URL or by the kind of upload."""

from typing import BinaryIO, Protocol

from handler.errors import InputUnavailable
from handler.schemas.credentials import Auth
from handler.schemas.uploads import Upload
from handler.settings import Settings
from handler.storage.auth import AuthFor as AuthFor
from handler.storage.azure import AzureStorage
from handler.storage.hf import HfStorage
from handler.storage.http import HttpStorage
from handler.storage.s3 import S3Storage
from handler.storage.transfer import Version as Version
from handler.storage.transfer import time_limit as time_limit
from handler.urls import MAX_URL_LENGTH, describe_url


class Storage(Protocol):
    """A kind of store, told by its URLs and by its kind of upload. Safe to use from many threads."""

    def matches(self, url: str) -> bool:
        """Whether the URL is one of this store's."""

    def check_url(self, url: str, auth: Auth | None) -> None:
        """Raise what `fetch` would raise without having asked the store: for what is no URL, or leads where none may."""

    def fetch(
        self,
        url: str,
        file: BinaryIO,
        *,
        version: Version | None = None,
        auth: Auth | None = None,
        max_bytes: int | None,
    ) -> None:
        """Write what the URL holds to the file, which is open for reading and writing.

        Goes on behind what the file holds already when `version` knows of which version that is and the store has it still;
        otherwise empties it first. What ends it is the `time_limit` around it, or a minute in which nothing comes. Raises
        InputUnavailable, ForbiddenUrl, or TooLarge as soon as there are more than `max_bytes`; BadRequest when the store is
        not installed or not configured; DiskFull. After any of them the file holds what had arrived.
        """

    def takes(self, upload: Upload) -> bool:
        """Whether this store is the one that the upload names."""

    def check(self, upload: Upload, auth_for: AuthFor) -> None:
        """Raise BadRequest, naming the extra or the variable that is missing, when the upload cannot even be tried.

        Nothing is sent: what only the store itself can tell, such as a bucket that does not exist, comes from `store`.
        """

    def store(
        self, upload: Upload, filename: str, content: BinaryIO, *, size: int, mime_type: str, auth_for: AuthFor
    ) -> str:
        """Upload one file as a stream; gives the URL that the caller gets. Raises DeliveryError.

        What ends it in time is the `deadline.within` around it.
        """


def store_for_url(url: str, settings: Settings) -> Storage:
    """The store of a URL. Raises InputUnavailable for one that no store knows, and for one without an end."""
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
