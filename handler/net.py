"""The only module that connects to addresses that a caller chose."""

import ipaddress
import socket
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from handler.errors import ForbiddenUrl

_MAX_REDIRECTS = 5
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def session(*, allow_private: bool) -> requests.Session:
    """A session that connects to public addresses only, unless told otherwise; redirects are checked like the rest.

    It takes no proxy and no password from the environment (.netrc would be sent to whoever the caller names).
    """
    made = requests.Session()
    made.trust_env = False
    made.max_redirects = _MAX_REDIRECTS
    made.headers["Accept-Encoding"] = "identity"
    if not allow_private:
        for scheme in ("http://", "https://"):
            made.mount(scheme, _PublicAdapter())
    return made


def shown(url: str) -> str:
    """A URL without what may be secret: user, password, query and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def is_public(address: str) -> bool:
    """Whether an IP address is reachable by everybody: not loopback, private, link-local, multicast or reserved."""
    ip: Address = ipaddress.ip_address(address.partition("%")[0])
    embedded = _embedded(ip) if isinstance(ip, ipaddress.IPv6Address) else None
    return ip.is_global and not ip.is_multicast if embedded is None else is_public(str(embedded))


def _embedded(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one stands for: mapped, 6to4 or NAT64."""
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour


def _connected(connection: HTTPConnection) -> socket.socket:
    """A socket to an address that was checked: the name is resolved once, so a second answer of its DNS changes nothing."""
    found = socket.getaddrinfo(connection.host, connection.port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    if not all(map(is_public, addresses)):
        raise ForbiddenUrl(
            f"{connection.host} is not a public address; set ALLOW_PRIVATE_URLS=true to allow such inputs."
        )
    failure: OSError = OSError(f"{connection.host} has no address")
    for address in addresses:
        try:
            return socket.create_connection((address, connection.port), connection.timeout)
        except OSError as exc:
            failure = exc
    raise failure


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


class _PublicAdapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _PublicPool, "https": _PublicTlsPool}
