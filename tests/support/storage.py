"""What the tests of all stores do."""

import io

from handler.schemas import Auth
from handler.settings import Settings
from handler.storage import Version, store_for_url, time_limit


def fetch_bytes(
    url: str,
    settings: Settings,
    partial: bytes = b"",
    *,
    version: Version | None = None,
    auth: Auth | None = None,
    max_bytes: int | None = None,
    timeout_s: float = 60,
) -> bytes:
    """The content of a URL, fetched into a file that holds the first part of it already."""
    file = io.BytesIO(partial)
    with time_limit(url, timeout_s):
        store_for_url(url, settings).fetch(url, file, version=version, auth=auth, max_bytes=max_bytes)
    return file.getvalue()
