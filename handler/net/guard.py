"""Connections to addresses that a caller chose, which may be limited to public ones."""

import contextlib
import ipaddress
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from handler.errors import BadRequest, ForbiddenUrl
from handler.net import deadline
from handler.urls import describe_url, origin

_MAX_REDIRECTS = 5
_CONNECT_TIMEOUT_S = 10
_POOLS: dict[str, type[HTTPConnectionPool]] = {"http": HTTPConnectionPool, "https": HTTPSConnectionPool}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Local NAT64, IPv4-compatible, site-local, SRv6 and documentation addresses, and the IETF's: Python 3.11 calls them global.
_NOT_PUBLIC = [
    ipaddress.ip_network(text)
    for text in ("64:ff9b:1::/48", "::/96", "fec0::/10", "5f00::/16", "3fff::/20", "192.0.0.0/24")
]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def new_session(
    *, allow_private: bool, trusted: Iterable[str] = (), proxies: Mapping[str, str] | None = None
) -> requests.Session:
    """A session that connects to public addresses only, unless told otherwise; redirects are checked like the rest.

    `trusted` are URLs of servers that the operator has configured: they may be anywhere. `proxies` maps http and https to a
    proxy, and no_proxy to the hosts that are reached without. The session takes no password from the environment: what is in
    .netrc would be sent to whoever the caller names.
    """
    session = requests.Session()
    session.trust_env = False
    session.max_redirects = _MAX_REDIRECTS
    session.headers["Accept-Encoding"] = "identity"
    session.proxies = {kind: url for kind, url in (proxies or {}).items() if kind != "no_proxy"}
    direct = (proxies or {}).get("no_proxy", "")
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter(direct) if allow_private else _PublicAdapter(direct))
    if not allow_private:
        for url in trusted:
            # With the slash: http://10.0.0.1:80 is a prefix of http://10.0.0.1:8080, too.
            session.mount("{0.scheme}://{0.netloc}/".format(urlsplit(url)), _Adapter(direct))
    return session


def guard_pools(pools: Mapping[str, Any], *, public: bool) -> dict[str, type[HTTPConnectionPool]]:
    """Classes of pools, by scheme, whose connections end at the deadline, as those of a session do.

    With `public` they raise ForbiddenUrl for addresses that are not public.
    """
    return {scheme: _guarded_pool(pool, public) for scheme, pool in pools.items()}


def check_url(url: str, *, allow_private: bool) -> None:
    """Raise BadRequest for an invalid URL, ForbiddenUrl for one whose host has an address that is not public.

    For an early answer only: the connection itself has to be guarded as well, because a name can resolve to another address
    the next time. A name that does not resolve passes, it may do so later.
    """
    try:
        scheme, host, port = origin(url)
        requests.Request("GET", url).prepare()  # finds more invalid URLs, above all international names
    except ValueError as exc:
        raise BadRequest(f"{describe_url(url)} is not a valid URL.") from exc
    if scheme not in ("http", "https"):
        raise BadRequest(f"{describe_url(url)} is not an http or https URL.")
    if not allow_private:
        with contextlib.suppress(OSError, UnicodeError):
            _public_addresses(host.rstrip("."), port)  # as the connection does


def is_public(address: str) -> bool:
    """Whether an IP address is reachable by everybody: not loopback, private, link-local, multicast or reserved."""
    ip: Address = ipaddress.ip_address(address.partition("%")[0])
    embedded = _embedded_ipv4(ip) if isinstance(ip, ipaddress.IPv6Address) else None
    if embedded is not None:
        return is_public(str(embedded))
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _NOT_PUBLIC)


def _embedded_ipv4(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address in an IPv6 address: mapped, 6to4 or NAT64."""
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour


AddressInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]


def _addresses(host: str, port: int) -> Sequence[AddressInfo]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


def _public_addresses(host: str, port: int) -> Sequence[AddressInfo]:
    addresses = _addresses(host, port)
    if not all(is_public(str(entry[4][0])) for entry in addresses):
        raise ForbiddenUrl(f"{host} is not a public address; set ALLOW_PRIVATE_URLS=true to allow such URLs.")
    return addresses


def _connect(addresses: Sequence[AddressInfo], timeout_s: float) -> socket.socket:
    """A socket to the first address that answers. They share the time: a name can have any number of addresses."""
    end = time.monotonic() + timeout_s
    failure: OSError = OSError("the name has no address")
    for tried, (family, kind, protocol, _, address) in enumerate(addresses):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(max(0.001, (end - time.monotonic()) / (len(addresses) - tried)))
            sock.connect(address)
        except OSError as exc:
            sock.close()
            failure = exc
        else:
            sock.settimeout(timeout_s)
            return sock
    raise failure


# urllib3 has no public hook between resolving a name and connecting to it; `_new_conn` is what its own proxy and SOCKS
# support overrides for that purpose.
class _Connection(HTTPConnection):
    """Mixed into the connection classes of urllib3 and botocore: checks addresses and keeps to the deadline."""

    public = False
    owner: deadline.Deadline | None = None

    def _new_conn(self) -> socket.socket:
        """A socket to a checked address. The name is resolved once: its DNS cannot give another address after the check."""
        try:
            resolve = _public_addresses if self.public else _addresses
            sock = _connect(resolve(self.host, self.port or self.default_port), self.timeout or _CONNECT_TIMEOUT_S)
        except socket.gaierror as exc:
            raise NameResolutionError(self.host, self, exc) from exc
        except TimeoutError as exc:
            raise ConnectTimeoutError(self, "no address answered in time") from exc
        except OSError as exc:
            raise NewConnectionError(self, str(exc)) from exc
        try:
            for option in self.socket_options or ():
                sock.setsockopt(*option)
            deadline.bind(self, sock)
        except OSError:
            sock.close()
            raise
        return sock

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:  # from an earlier request, perhaps another thread's
            deadline.bind(self, self.sock)
        super().request(*args, **kwargs)


class _PublicConnection(_Connection):
    public = True


@cache
def _guarded_pool(pool: Any, public: bool) -> type[HTTPConnectionPool]:
    own = _PublicConnection if public else _Connection
    connection = type(own.__name__, (own, pool.ConnectionCls), {})
    return type(pool.__name__, (pool,), {"ConnectionCls": connection})


class _Adapter(HTTPAdapter):
    """Bypasses the proxy for some hosts: requests itself does so only if it may read the environment."""

    public = False

    def __init__(self, direct: str) -> None:
        super().__init__()
        self._direct = direct

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = guard_pools(_POOLS, public=self.public)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        # The proxy is the operator's: it may be anywhere.
        manager.pool_classes_by_scheme = guard_pools(_POOLS, public=False)
        return manager

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        if self._bypasses_proxy(str(urlsplit(str(request.url)).hostname)):
            kwargs["proxies"] = {}
        return super().send(request, *args, **kwargs)

    def _bypasses_proxy(self, host: str) -> bool:
        # requests' own function for this sets an environment variable for a moment, which all threads see.
        names = [name.strip().lstrip(".").lower() for name in self._direct.split(",")]
        return any(name and (name in ("*", host) or host.endswith(f".{name}")) for name in names)


class _PublicAdapter(_Adapter):
    public = True

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        if kwargs.get("proxies"):
            # The proxy resolves the name itself; all we can do is check it beforehand.
            check_url(str(request.url), allow_private=False)
        return super().send(request, *args, **kwargs)
