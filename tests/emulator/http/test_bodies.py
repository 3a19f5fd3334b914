"""Bodies of requests: JSON, and no larger than the limit."""

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.support import graphs
from tests.support.api import Api
from tests.support.comfyui import Comfyui
from tests.support.raw import answered


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"prompt": NaN}', "not valid JSON"),
        (b'{"id": "\xff"}', "not valid JSON"),
        (rb'{"id": "\ud800"}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b"{}", "`prompt`: Field required"),
    ],
)
def test_a_body_that_is_no_prompt_is_refused(api: Api, clean: Comfyui, data: bytes, says: str) -> None:
    answer = api("POST", "/prompt", data=data, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["code"] == "BAD_REQUEST"
    assert says in answer.json()["error"]


def test_other_media_types_are_refused(api: Api) -> None:
    for media_type in ("text/plain", "application/x-www-form-urlencoded", None):
        answer = api("POST", "/prompt", data=b"{}", headers={"Content-Type": media_type})
        assert answer.status_code == 415
        assert answer.json()["code"] == "UNSUPPORTED_MEDIA_TYPE"
    charset = {"Content-Type": "application/json; charset=utf-8"}
    assert api("POST", "/prompt", data=b"{}", headers=charset).status_code == 400


@pytest.fixture
def raw(api: Api) -> Iterator[socket.socket]:
    """A bare connection to the server."""
    url = urlsplit(api("GET", "/health").url)
    with socket.create_connection((str(url.hostname), int(url.port or 0)), timeout=30) as sock:
        yield sock


HEAD = b"POST /prompt HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def test_a_body_over_the_limit_is_refused_by_its_header_alone(raw: socket.socket) -> None:
    raw.sendall(HEAD + b"Content-Length: 9000000\r\n\r\n")
    status, body = answered(raw)
    assert status == 413
    assert b"TOO_LARGE" in body


def test_a_body_over_the_limit_is_refused_while_it_streams_in(api: Api, raw: socket.socket) -> None:
    raw.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    chunk = b"40000\r\n" + b"x" * 0x40000 + b"\r\n"
    for _ in range(36):  # 9 of the 8 MB, and no end of the body
        raw.sendall(chunk)
    status, body = answered(raw)
    assert status == 413
    assert b"TOO_LARGE" in body
    assert api("GET", "/health").status_code == 200


def test_a_body_below_the_limit_passes(api: Api) -> None:
    assert api("POST", "/prompt", json={"prompt": graphs.empty(), "padding": "x" * (7 << 20)}).status_code == 200
