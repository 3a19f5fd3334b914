"""Who may use the HTTP API, its documentation, and ComfyUI itself."""

import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from pydantic import SecretStr

from emulator.app import create_app
from handler import Settings
from tests.support.api import api_with
from tests.support.live import served
from tests.support.processes import environment, running
from tests.support.waiting import wait_until

Call = Callable[..., bytes]


@pytest.fixture(scope="module")
def keyed(settings: Settings) -> Iterator[Call]:
    """A server with keys; gives the status line of an answer to a request line and headers as they are."""
    keys = SecretStr("key-1, schl\N{LATIN SMALL LETTER U WITH DIAERESIS}ssel")
    with api_with(settings, api_keys=keys) as url:
        parts = urlsplit(url)

        def call(line: str, *headers: bytes) -> bytes:
            with socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=30) as sock:
                head = b"\r\n".join([line.encode() + b" HTTP/1.1", b"Host: x", b"Connection: close", *headers])
                sock.sendall(head + b"\r\n\r\n")
                return sock.recv(65536)[9:12]

        yield call


@pytest.mark.parametrize("path", ["/docs", "/docs/json", "/docs/yaml", "/docs/static/swagger-ui.css", "/models"])
def test_the_documentation_asks_for_a_key_like_the_rest(keyed: Call, path: str) -> None:
    assert keyed(f"GET {path}") == b"401"
    assert keyed(f"GET {path}", b"Salad-Api-Key: key-1") == b"200"
    assert keyed(f"GET {path}", b"Authorization: Bearer key-1") == b"200"
    assert keyed(f"GET {path}", b"Salad-Api-Key: schl\xc3\xbcssel") == b"200"
    assert keyed(f"GET {path}", b"Salad-Api-Key: schl\xfcssel") == b"200"


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_the_probes_do_not(keyed: Call, path: str) -> None:
    assert keyed(f"GET {path}") == b"200"
    assert keyed(f"HEAD {path}?x=y") == b"200"


@pytest.mark.parametrize(
    "path",
    [
        "/health/",
        "/HEALTH",
        "//health",
        "/health/../models",
        "/health/..%2fmodels",
        "/ready;/models",
        "/models?/health",
        "/models#/health",
        "/%6dodels",
        "/health%00",
        "http://x/models",
        "/nope",
    ],
)
def test_what_looks_like_a_probe_is_none(keyed: Call, path: str) -> None:
    assert keyed(f"GET {path}") == b"401"


@pytest.mark.parametrize(
    "header",
    [
        b"Salad-Api-Key: key-1, schl\xfcssel",
        b"Salad-Api-Key: KEY-1",
        b"Salad-Api-Key: key-",
        b"Salad-Api-Key:",
        b"Salad-Api-Key: \xff\xfe",
        b"Authorization: key-1",
        b"Authorization: Basic key-1",
        b"Authorization: Bearer  ",
        b"Authorization: Bearer key-1 key-1",
        b"Cookie: Salad-Api-Key=key-1",
        b"X-Api-Key: key-1",
    ],
)
def test_what_is_no_key_opens_nothing(keyed: Call, header: bytes) -> None:
    assert keyed("GET /models?api_key=key-1", header) == b"401"


def test_the_documentation_can_be_closed(settings: Settings) -> None:
    with served(create_app(settings.model_copy(update={"docs": False}))) as url:
        for path in ("/docs", "/docs/json", "/docs/yaml", "/docs/static/swagger-ui.css"):
            answer = requests.get(url + path, timeout=30)
            assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")


def test_comfyui_listens_on_loopback_only(tmp_path: Path) -> None:
    """It has no keys, and does what anybody says."""
    env = environment(tmp_path)
    with running("emulator", env) as server:
        wait_until(lambda: "ready at" in server.text())
        port = f"{int(env['COMFYUI_PORT_HOST']):04X}"
        tables = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
        # Local address, and state 0A: listening.
        assert re.findall(rf"(\w+):{port} \w+:\w+ 0A ", tables) == ["0100007F"]
