"""Adds the caller's and the operator's credentials to HTTP requests."""

import base64
from collections.abc import Callable
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

from pydantic import SecretStr

from handler.schemas import Auth, BasicAuth, BearerAuth, HeaderAuth, QueryAuth
from handler.settings import Settings
from handler.urls import origin

AuthFor = Callable[[str], Auth | None]
"""Returns the caller's credentials for a URL, if there are any."""


def split_userinfo(url: str) -> tuple[str, BasicAuth | None]:
    """A URL without user and password, and these as auth. Raises ValueError for an invalid URL."""
    parts = urlsplit(url)
    userinfo, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, None
    user, _, password = userinfo.partition(":")
    auth = BasicAuth(type="basic", username=unquote(user), password=SecretStr(unquote(password)))
    return urlunsplit(parts._replace(netloc=host)), auth


def authorize(url: str, auth: Auth | None, settings: Settings) -> tuple[str, dict[str, str]]:
    """The URL and the headers of one request: with the auth, and with the operator's header for the operator's hosts.

    S3 keys sign requests to S3; other servers never see them.
    """
    headers = _operator_headers(url, settings)
    match auth:
        case BearerAuth():
            headers["Authorization"] = f"Bearer {auth.token.get_secret_value()}"
        case BasicAuth():
            pair = f"{auth.username}:{auth.password.get_secret_value()}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        case HeaderAuth():
            headers[auth.header_name] = auth.header_value.get_secret_value()
        case QueryAuth():
            url = _add_query_auth(url, auth)
    return url, headers


def same_server(url: str, other: str) -> bool:
    """Whether credentials for one URL may be sent to the other: same scheme, host and port, or https in place of http."""
    first, second = origin(url), origin(other)
    return first == second or (first[1] == second[1] and (first[0::2], second[0::2]) == (("http", 80), ("https", 443)))


def _operator_headers(url: str, settings: Settings) -> dict[str, str]:
    name, value = settings.http_auth_header_name, settings.http_auth_header_value
    _, host, port = origin(url)
    hosts = {one.strip().lower() for one in settings.http_auth_hosts.split(",")}
    name_of_host = f"[{host}]" if ":" in host else host
    if not name or value is None or hosts.isdisjoint({name_of_host, f"{name_of_host}:{port}"}):
        return {}
    return {name: value.get_secret_value()}


def _add_query_auth(url: str, auth: QueryAuth) -> str:
    """The URL with the parameter behind its own ones, which stay as they are: they may be signed."""
    parts = urlsplit(url)
    if auth.query_param in dict(parse_qsl(parts.query, keep_blank_values=True)):
        return url
    pair = f"{quote(auth.query_param, safe='')}={quote(auth.query_value.get_secret_value(), safe='')}"
    return urlunsplit(parts._replace(query=f"{parts.query}&{pair}" if parts.query else pair))
