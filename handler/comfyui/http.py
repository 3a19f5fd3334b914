"""HTTP to ComfyUI: JSON in its own dialect, and for how long it has not answered."""

import time
from collections.abc import Mapping
from typing import Any, Self

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ReadTimeoutError
from urllib3.util import Retry

from handler import json_codec
from handler.errors import ComfyError, ComfyUnreachable

_CONNECT_TIMEOUT_S = 5
_TIMEOUT_S = 30


class ComfyHttp:
    """Requests to one ComfyUI, from many threads. All of them raise ComfyUnreachable when no answer comes."""

    def __init__(self, url: str, hang_timeout_s: float) -> None:
        self.url = url
        self.hang_timeout_s = hang_timeout_s
        self._session = _session()
        self._answered = 0.0
        self._silent_since: float | None = None

    @property
    def silent_s(self) -> float:
        """For how long it has answered no request."""
        since = self._silent_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def is_silent(self) -> bool:
        """Whether it has answered nothing for so long that it counts as ended."""
        return self.silent_s > self.hang_timeout_s

    def json(self, path: str, *, timeout_s: float = _TIMEOUT_S) -> Any:
        """What GET answers. Raises ComfyError for anything but a 200 with JSON in it."""
        answer = self.request("GET", path, timeout_s=timeout_s)
        if not answer.ok:
            raise ComfyError(f"ComfyUI answered {answer.status_code} to GET {path}.")
        return parsed(answer, f"GET {path}")

    def request(self, method: str, path: str, *, timeout_s: float = _TIMEOUT_S, **options: Any) -> requests.Response:
        """GET and HEAD are repeated once on a connection that was kept open: they change nothing."""
        return self._send(self._session, method, path, timeout_s, **options)

    def post_once(self, path: str, body: Mapping[str, Any]) -> requests.Response:
        """POST on a connection of its own: what fails on a stale one must not be sent twice."""
        with _session() as session:
            return self._send(session, "POST", path, _TIMEOUT_S, data=json_codec.encode_lenient(body))

    def _send(
        self, session: requests.Session, method: str, path: str, timeout_s: float, **options: Any
    ) -> requests.Response:
        timeout = (min(_CONNECT_TIMEOUT_S, timeout_s), timeout_s)
        asked = time.monotonic()
        try:
            answer = session.request(method, self.url + path, allow_redirects=False, timeout=timeout, **options)
        except requests.RequestException as exc:
            self._silent_since = self._silent_since or max(asked, self._answered)
            raise ComfyUnreachable("ComfyUI does not answer.") from exc
        self._answered, self._silent_since = time.monotonic(), None
        return answer


def parsed(answer: requests.Response, what: str) -> Any:
    """The value that ComfyUI sent. Raises ComfyError if it is not JSON."""
    try:
        return json_codec.decode_lenient(answer.content)
    except ValueError as exc:
        raise ComfyError(f"ComfyUI's answer to {what} is not JSON.") from exc


class _OnceMore(Retry):
    """One more try, for a connection that was kept open and closed by ComfyUI in that moment; none after a time-out."""

    def increment(self, *args: Any, **options: Any) -> Self:
        if isinstance(error := options.get("error"), ReadTimeoutError):
            raise error
        return super().increment(*args, **options)


def _session() -> requests.Session:
    """ComfyUI is never reached through a proxy of the environment. Only reads are repeated: they change nothing."""
    session = requests.Session()
    session.trust_env = False
    retry = _OnceMore(total=1, connect=0, allowed_methods={"GET", "HEAD"}, raise_on_status=False)
    adapter = HTTPAdapter(pool_maxsize=64, max_retries=retry)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session
