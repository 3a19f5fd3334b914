"""What a request shows of the caller's and the operator's credentials."""

import base64
from collections.abc import Callable
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

from pydantic import SecretStr

from handler.schemas.credentials import Auth, BasicAuth, BearerAuth, HeaderAuth, QueryAuth
from handler.settings import Settings
from handler.urls import origin

AuthFor = Callable[[str], Auth | None]
"""Asks for the caller's credentials for a URL."""


def split_userinfo(url: str) -> tuple[str, BasicAuth | None]:
    """A URL without user and password, and these as auth. Raises ValueError for what is no URL."""
    parts = urlsplit(url)
    named, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, None
    user, _, password = named.partition(":")
    auth = BasicAuth(type="basic", username=unquote(user), password=SecretStr(unquote(password)))
    return urlunsplit(parts._replace(netloc=host)), auth


def authorize(url: str, auth: Auth | None, settings: Settings) -> tuple[str, dict[str, str]]:
    """The URL and the headers of one request: with the auth, and with the operator's header for the operator's hosts.

    S3 keys sign requests to S3, no web server is shown them.
    """
    headers = _operators(url, settings)
    match auth:
        case BearerAuth():
            headers["Authorization"] = f"Bearer {auth.token.get_secret_value()}"
        case BasicAuth():
            pair = f"{auth.username}:{auth.password.get_secret_value()}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        case HeaderAuth():
            headers[auth.header_name] = auth.header_value.get_secret_value()
        case QueryAuth():
            url = _queried(url, auth)
    return url, headers


def same_server(url: str, other: str) -> bool:
    """Whether what was meant for one URL may be shown at the other: same scheme, host and port, or http turned https."""
    first, second = origin(url), origin(other)
    return first == second or (first[1] == second[1] and (first[0::2], second[0::2]) == (("http", 80), ("https", 443)))


def _operators(url: str, settings: Settings) -> dict[str, str]:
    name, value = settings.http_auth_header_name, settings.http_auth_header_value
    _, host, port = origin(url)
    hosts = {one.strip().lower() for one in settings.http_auth_hosts.split(",")}
    name_of_host = f"[{host}]" if ":" in host else host
    if not name or value is None or hosts.isdisjoint({name_of_host, f"{name_of_host}:{port}"}):
        return {}
    return {name: value.get_secret_value()}


def _queried(url: str, auth: QueryAuth) -> str:
    """The URL with the parameter behind those that it has, which stay as they are: they may be signed."""
    parts = urlsplit(url)
    if auth.query_param in dict(parse_qsl(parts.query, keep_blank_values=True)):
        return url
    pair = f"{quote(auth.query_param, safe='')}={quote(auth.query_value.get_secret_value(), safe='')}"
    return urlunsplit(parts._replace(query=f"{parts.query}&{pair}" if parts.query else pair))
