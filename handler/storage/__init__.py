"""Where files come from: one module per backend, all of one shape, chosen by URL."""

from typing import BinaryIO, Protocol

from handler.errors import InputUnavailable
from handler.net import shown
from handler.settings import Settings
from handler.storage.http import HttpStorage


class Storage(Protocol):
    """A kind of store, told by its URLs."""

    def matches(self, url: str) -> bool:
        """Whether the URL is one of this store's."""

    def fetch(self, url: str, file: BinaryIO, *, max_bytes: int, timeout_s: float) -> None:
        """Write what the URL holds to the file.

        Raises InputUnavailable, ForbiddenUrl, or TooLarge as soon as there are more than max_bytes.
        """


def chosen(url: str, settings: Settings) -> Storage:
    """The store of a URL. Raises InputUnavailable for one that no store knows."""
    stores: tuple[Storage, ...] = (HttpStorage(settings),)
    for store in stores:
        if store.matches(url):
            return store
    raise InputUnavailable(f"{shown(url)}: only http and https URLs can be fetched.")
