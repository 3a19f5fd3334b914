"""URLs as text: parsing and quoting them, and what error messages, logs and answers may show of them."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

MAX_URL_LENGTH = 8192
"""In characters; signed URLs have some thousands."""

_MAX_SHOWN = 200
# Characters that are invalid in a host. The zone of an IPv6 address (%eth0) is not part of its characters.
_INVALID_IN_HOST = re.compile(r"[\0-\x20\x7f-\xa0\"#/<>?@\\^`{|}]|^[^:]*%")
_URL = re.compile(r"https?://\S+\Z", re.IGNORECASE)
_HOST_AND_PORT = re.compile(r"(\[[^]]*\]|[^:]*)(:\d*)?")


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of an http or https URL. Raises ValueError when it has none."""
    parts = urlsplit(url)
    host = parts.hostname
    if not host:
        raise ValueError("the URL has no host")
    if _INVALID_IN_HOST.search(host):
        raise ValueError("the URL's host has an invalid character")
    if host.isascii():
        host.encode("idna")  # raises for a label that is empty or too long
    return parts.scheme, host, parts.port or (443 if parts.scheme == "https" else 80)


def quote_path(path: str) -> str:
    """A path or a name, quoted for a URL. All characters that RFC 3986 allows in a path stay, as in the reference."""
    return quote(path, safe="/!$&'()*+,;=:@")


def redact_url(url: str) -> str:
    """A URL without the parts that may be secret: user, password, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:  # such as http://[::1
        return "The URL"
    host = parts.netloc.rpartition("@")[2]
    # http://user:pass#word@host/ has a password with a character that ends the host.
    cut_short = not parts.path and "@" in parts.query + parts.fragment
    if cut_short or not _HOST_AND_PORT.fullmatch(host):
        return "The URL"
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def shorten(text: str) -> str:
    """A name or a URL, cut to a length that suits an error message."""
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def describe_url(url: str) -> str:
    """A URL as error messages show it: redacted and shortened."""
    return shorten(redact_url(url))


def redact_urls(value: Any) -> Any:
    """A caller's JSON with its URLs redacted, as answers and webhooks may repeat it."""
    if isinstance(value, str):
        return redact_url(value) if _URL.match(value) else value
    if isinstance(value, Mapping):
        return {key: redact_urls(item) for key, item in value.items()}
    return [redact_urls(item) for item in value] if isinstance(value, list) else value
