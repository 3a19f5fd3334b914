"""Servers that send, but so slowly that no time-out between two bytes ever ends it."""

import concurrent.futures
import io
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from emulator.app import create_app
from handler import Settings
from handler.errors import InputUnavailable
from handler.net import guard
from handler.schemas.credentials import Auth, S3Auth
from handler.storage import store_for_url, time_limit
from tests.support import graphs
from tests.support.comfyui import Comfyui
from tests.support.live import served
from tests.support.raw import SLOW, Script, dripping, saying, scripted
from tests.support.waiting import wait_until

SETTINGS = Settings(allow_private_urls=True)


def keys(endpoint: str) -> Auth:
    return S3Auth.model_validate(
        {"type": "s3", "access_key_id": "key", "secret_access_key": "secret", "endpoint": endpoint, "region": "r"}
    )


@pytest.mark.parametrize("script", SLOW.values(), ids=SLOW)
@pytest.mark.parametrize("store", ["http", "s3"])
def test_a_fetch_ends_at_its_deadline(script: Script, store: str, request: pytest.FixtureRequest) -> None:
    print(f"injected: a server that sends {request.node.callspec.id}")
    began = time.monotonic()
    with scripted(script) as url:
        where, auth = (f"{url}/a.png", None) if store == "http" else ("s3://bucket/a.png", keys(url))
        with pytest.raises(InputUnavailable, match="it took too long"), time_limit(where, 0.4):
            store_for_url(where, SETTINGS).fetch(where, io.BytesIO(), auth=auth, max_bytes=None)
    assert time.monotonic() - began < 30


def test_a_tls_handshake_ends_at_its_deadline() -> None:
    print("injected: a server that sends one byte of its TLS handshake at a time")

    def handshake(connection: socket.socket) -> None:
        connection.recv(65536)
        # A handshake record of 16 kB.
        for byte in b"\x16\x03\x03\x40\x00" + bytes(1000):
            time.sleep(0.05)
            connection.sendall(bytes([byte]))

    began = time.monotonic()
    with scripted(handshake) as url:
        where = url.replace("http://", "https://")
        with pytest.raises(InputUnavailable, match="it took too long"), time_limit(where, 0.4):
            store_for_url(where, SETTINGS).fetch(where, io.BytesIO(), max_bytes=None)
    assert time.monotonic() - began < 30


def test_the_addresses_of_a_name_share_the_time_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each had the whole of it, and a name can have any number of them."""
    print("injected: a name with ten addresses, none of which answers")
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.socket() as first, socket.socket() as second:
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        found = (socket.AF_INET, socket.SOCK_STREAM, 6, "", full.getsockname())
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: [found] * 10)
        began = time.monotonic()
        with guard.new_session(allow_private=True) as session, pytest.raises(requests.ConnectionError):
            session.get("http://many.example/", timeout=0.5)
        assert 0.4 < time.monotonic() - began < 4


def test_an_address_that_does_not_answer_is_not_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    print("injected: a name with two addresses, the first of which refuses")
    resolve = socket.getaddrinfo

    def found(host: str, port: int, *more: Any, **options: Any) -> list[Any]:
        return [*resolve("127.0.0.2", 1, *more, **options), *resolve("127.0.0.1", port, *more, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    with scripted(saying(b"HTTP/1.1 204 No Content\r\n\r\n")) as url, guard.new_session(allow_private=True) as session:
        assert session.get(url.replace("127.0.0.1", "two.example"), timeout=30).status_code == 204


@pytest.fixture
def hasty(settings: Settings) -> Iterator[Callable[..., requests.Response]]:
    """A client of an HTTP API that gives inputs one second."""
    with served(create_app(settings.model_copy(update={"input_timeout_s": 1}))) as url:
        wait_until(lambda: requests.get(f"{url}/ready", timeout=30).status_code == 200)
        yield lambda prompt: requests.post(f"{url}/prompt", json={"prompt": prompt}, timeout=30)


def test_one_slow_server_does_not_keep_all_others_from_being_prepared(
    hasty: Callable[..., requests.Response], clean: Comfyui
) -> None:
    """Sixteen inputs behind it, and no request was prepared any more."""
    print("injected: 20 inputs from a server that sends one byte of a header at a time")
    drip = dripping(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    with scripted(drip) as url, concurrent.futures.ThreadPoolExecutor(21) as pool:
        began = time.monotonic()
        slow = [pool.submit(hasty, graphs.load(f"{url}/{n}.png")) for n in range(20)]
        quick = pool.submit(hasty, graphs.empty())
        answers = [answer.result().json() for answer in slow]
        assert quick.result().status_code == 200
    assert {answer["code"] for answer in answers} == {"INPUT_UNAVAILABLE"}
    assert all("it took too long" in answer["error"] for answer in answers)
    assert time.monotonic() - began < 30
