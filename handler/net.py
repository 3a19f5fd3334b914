"""The only module that connects to addresses that a caller chose."""

import contextlib
import ipaddress
import socket
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from handler.errors import BadRequest, ForbiddenUrl

_MAX_REDIRECTS = 5
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Local NAT64, IPv4-compatible, site-local, SRv6 and documentation addresses, and IETF's own: Python 3.11 takes them for global.
_NOT_PUBLIC = [
    ipaddress.ip_network(text)
    for text in ("64:ff9b:1::/48", "::/96", "fec0::/10", "5f00::/16", "3fff::/20", "192.0.0.0/24")
]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def session(
    *, allow_private: bool, trusted: Iterable[str] = (), proxies: Mapping[str, str] | None = None
) -> requests.Session:
    """A session that connects to public addresses only, unless told otherwise; redirects are checked like the rest.

    `trusted` are URLs of servers that the operator has configured: they may be anywhere. `proxies` maps http and https to a
    proxy, and no_proxy to the hosts that are reached without. The session takes no password from the environment: what is in
    .netrc would be sent to whoever the caller names.
    """
    made = requests.Session()
    made.trust_env = False
    made.max_redirects = _MAX_REDIRECTS
    made.headers["Accept-Encoding"] = "identity"
    made.proxies = {kind: url for kind, url in (proxies or {}).items() if kind != "no_proxy"}
    direct = (proxies or {}).get("no_proxy", "")
    for scheme in ("http://", "https://"):
        made.mount(scheme, _Adapter(direct) if allow_private else _PublicAdapter(direct))
    if not allow_private:
        for url in trusted:
            # With the slash: http://10.0.0.1:80 is the beginning of http://10.0.0.1:8080, too.
            made.mount("{0.scheme}://{0.netloc}/".format(urlsplit(url)), _Adapter(direct))
    return made


def only_public(manager: PoolManager) -> None:
    """Make a manager of connections refuse addresses that are not public, with ForbiddenUrl, as a session does."""
    manager.pool_classes_by_scheme = {"http": _PublicPool, "https": _PublicTlsPool}


def check(url: str, *, allow_private: bool) -> None:
    """Raise BadRequest for what is no URL of a server, ForbiddenUrl for one that leads to an address that is not public.

    For an early answer only: the connection itself has to be guarded as well, for a name can lead elsewhere the next time.
    A name that is not found passes, it may be found later.
    """
    try:
        _, host, port = origin(url)
    except ValueError as exc:
        raise BadRequest(f"{shown(url)} is not a valid URL.") from exc
    if not allow_private:
        # UnicodeError: a label that is empty or too long
        with contextlib.suppress(OSError, UnicodeError):
            _public_addresses(host, port)


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of an http or https URL. Raises ValueError when it has none."""
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError("the URL names no host")
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def quoted(path: str) -> str:
    """A path or a name for a URL. What RFC 3986 lets stand in a path stays: most URLs are then those of the reference."""
    return quote(path, safe="/!$&'()*+,;=:@")


def shown(url: str) -> str:
    """A URL without what may be secret: user, password, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:  # such as http://[::1
        return "The URL"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def is_public(address: str) -> bool:
    """Whether an IP address is reachable by everybody: not loopback, private, link-local, multicast or reserved."""
    ip: Address = ipaddress.ip_address(address.partition("%")[0])
    embedded = _embedded(ip) if isinstance(ip, ipaddress.IPv6Address) else None
    if embedded is not None:
        return is_public(str(embedded))
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _NOT_PUBLIC)


def _embedded(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one stands for: mapped, 6to4 or NAT64."""
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour


def _connected(connection: HTTPConnection) -> socket.socket:
    """A socket to an address that was checked: the name is resolved once, so a second answer of its DNS changes nothing."""
    addresses = _public_addresses(connection.host, connection.port)
    failure: OSError = OSError(f"{connection.host} has no address")
    for address in addresses:
        try:
            return socket.create_connection((address, connection.port), connection.timeout)
        except OSError as exc:
            failure = exc
    raise failure


def _public_addresses(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    if not all(map(is_public, addresses)):
        raise ForbiddenUrl(f"{host} is not a public address; set ALLOW_PRIVATE_URLS=true to allow such URLs.")
    return addresses


# urllib3 has no public hook between resolving a name and connecting to it; `_new_conn` is what its own proxy and SOCKS
# support overrides for that purpose.
class _PublicConnection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _connected(self)


class _PublicTlsConnection(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _connected(self)


class _PublicPool(HTTPConnectionPool):
    ConnectionCls = _PublicConnection


class _PublicTlsPool(HTTPSConnectionPool):
    ConnectionCls = _PublicTlsConnection


class _Adapter(HTTPAdapter):
    """Goes around the proxy for some hosts: requests itself does so only when it may read the environment."""

    def __init__(self, direct: str) -> None:
        super().__init__()
        self._direct = direct

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        if self._goes_around(str(urlsplit(str(request.url)).hostname)):
            kwargs["proxies"] = {}
        return super().send(request, *args, **kwargs)

    def _goes_around(self, host: str) -> bool:
        # requests' own function for this sets an environment variable for a moment, of all threads.
        names = [name.strip().lstrip(".").lower() for name in self._direct.split(",")]
        return any(name and (name in ("*", host) or host.endswith(f".{name}")) for name in names)


class _PublicAdapter(_Adapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        only_public(self.poolmanager)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        if kwargs.get("proxies"):
            # The proxy looks the name up anew; all that can be done here is to look at the name.
            check(str(request.url), allow_private=False)
        return super().send(request, *args, **kwargs)
