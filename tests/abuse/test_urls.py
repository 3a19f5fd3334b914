"""URLs that lead inside: whatever they look like, no connection is made, unless ALLOW_PRIVATE_URLS says so."""

import io
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from emulator.app import create_app
from emulator.routes.deepinfra import ROUTE
from handler import HandlerError, Settings
from handler.errors import BadRequest, ForbiddenUrl, InputUnavailable
from handler.models.cache import ModelCache
from handler.net import guard
from handler.storage import store_for_url
from handler.urls import redact_url
from tests.support import graphs
from tests.support.comfyui import Comfyui
from tests.support.live import served
from tests.support.raw import asked, saying, scripted
from tests.support.waiting import wait_until

INSIDE = [
    "127.0.0.1",
    "localhost",
    "LOCALHOST.",
    "127.1",
    "127.000.000.001",
    "0.0.0.0",
    "0",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "017700000001",
    "0177.0.0.1",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "user@127.0.0.1",
    "example.com@127.0.0.1",
    "example.com%40127.0.0.1",
    "example.com\\@127.0.0.1",
    "127.0.0.1%00.example.com",
    "127。0。0。1",
    "\uff11\uff12\uff17.0.0.1",
    "ⓛocalhost",
    "169.254.169.254",
    "2852039166",
    "[fe80::1]",
    "[fd00:ec2::254]",
    "10.0.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "100.64.0.1",
    "198.18.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "224.0.0.1",
]


@pytest.fixture(scope="module")
def inside() -> Iterator[tuple[int, list[bytes]]]:
    """The port of a server on loopback that nobody may reach, and what it was asked."""
    seen: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        seen.append(b"a connection")
        seen[-1] = asked(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")

    with scripted(answer) as url:
        yield int(url.rpartition(":")[2]), seen


@pytest.mark.parametrize("host", INSIDE)
def test_an_address_inside_is_not_connected_to(inside: tuple[int, list[bytes]], tmp_path: Path, host: str) -> None:
    port, seen = inside
    (tmp_path / "models/loras").mkdir(parents=True)
    environ = {"COMFYUI_URL": "http://127.0.0.1:9", "COMFY_HOME": str(tmp_path), "CACHE_DIR": str(tmp_path / "cache")}
    settings = Settings.from_environ(environ)
    for scheme in ("http", "HTTPS"):
        url = f"{scheme}://{host}:{port}/a.safetensors"
        with pytest.raises((ForbiddenUrl, InputUnavailable)):
            store_for_url(url, settings).fetch(url, io.BytesIO(), max_bytes=100)
        with pytest.raises((ForbiddenUrl, InputUnavailable)):
            ModelCache(settings).download(url, "loras")
    assert seen == []


@pytest.mark.parametrize("host", [host for host in INSIDE if not set(host) & set("%\\")])
def test_it_is_said_before_anything_runs(inside: tuple[int, list[bytes]], host: str) -> None:
    with pytest.raises(BadRequest, match=r"ALLOW_PRIVATE_URLS|is not a valid URL"):
        guard.check_url(f"http://{host}:{inside[0]}/", allow_private=False)


@pytest.mark.parametrize(
    "url",
    [
        "http://a b/",
        "http://a\tb c/",
        "http://a\x01b/",
        "http://a\x7fb/",
        "http://a\N{NO-BREAK SPACE}b/",
        "http://a<b>/",
        "http://a..b/",
        f"http://{'a' * 64}/",
        "http://a%2eb/",
        "http://:80/",
        "http://",
        "http://h:port/",
        "http://h:99999/",
        "http://[::1/",
        "http://[nonsense]/",
        "http://\ufff9/",
        "http:///path",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
    ],
)
def test_what_is_no_url_of_a_server_is_refused_even_where_all_is_allowed(url: str) -> None:
    with pytest.raises(BadRequest):
        guard.check_url(url, allow_private=True)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:p#ass@h/",
        "http://user:1?p@h/",
        "http://user:p/ass@h/",
        "http://user:1#p@h/",
        "http://u:p@h:80/?p#p",
    ],
)
def test_no_part_of_a_password_is_shown(url: str) -> None:
    assert "p" not in redact_url(url).removeprefix("http://")


def test_what_is_shown_of_a_url_is_the_place() -> None:
    assert redact_url("https://u:p@h.example:8080/a@b/c?d=e@f#g") == "https://h.example:8080/a@b/c"
    assert redact_url("http://[::1]:80/x?y") == "http://[::1]:80/x"


def test_an_error_does_not_repeat_a_long_url(api: Callable[..., requests.Response], clean: Comfyui) -> None:
    long = "x" * 8000
    for body in (
        {"prompt": graphs.load(f"http://127.0.0.1:1/{long}")},
        {"prompt": graphs.load(f"what://127.0.0.1/{long}")},
        {"prompt": graphs.empty(), "webhook": f"http://h:99999/{long}"},
        {"prompt": graphs.empty(), "webhook_v2": f"http://{long}/"},
        {"prompt": graphs.empty(), "http_upload": {"url_prefix": f"http://h:99999/{long}"}},
    ):
        answer = api("POST", "/prompt", json=body)
        assert answer.status_code == 400
        assert len(answer.text) < 1000


@pytest.fixture(scope="module")
def strict(settings: Settings) -> Iterator[Callable[..., requests.Response]]:
    """The HTTP API, as it is unless it is told that private addresses are fine."""
    keys = Settings.from_environ({"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "r"})
    own = {name: getattr(keys, name) for name in ("aws_access_key_id", "aws_secret_access_key", "aws_region")}
    with served(create_app(settings.model_copy(update={"allow_private_urls": False, **own}))) as url:
        wait_until(lambda: requests.get(f"{url}/ready", timeout=30).status_code == 200)
        yield lambda path, **body: requests.post(url + path, json=body, timeout=20)


S3_INSIDE = {"type": "s3", "access_key_id": "k", "secret_access_key": "s"}
FIELDS: dict[str, Callable[[str], dict[str, Any]]] = {
    "input": lambda url: {"prompt": graphs.load(url)},
    "model": lambda url: {"prompt": graphs.changed(graphs.txt2img(), "30", ckpt_name=url)},
    "webhook": lambda url: {"prompt": graphs.empty(), "webhook": url},
    "webhook_v2": lambda url: {"prompt": graphs.empty(), "webhook_v2": url},
    "http_upload": lambda url: {"prompt": graphs.empty(), "http_upload": {"url_prefix": url}},
    "s3 endpoint": lambda url: {
        "prompt": graphs.empty(),
        "s3": {"bucket": "b"},
        "credentials": [{"url_pattern": "**", "auth": {**S3_INSIDE, "endpoint": url}}],
    },
}


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_refuses_it(
    strict: Callable[..., requests.Response], clean: Comfyui, inside: tuple[int, list[bytes]], field: str
) -> None:
    for host in ("127.0.0.1", "2130706433", "[::ffff:127.0.0.1]"):
        answer = strict("/prompt", **FIELDS[field](f"http://{host}:{inside[0]}/x"))
        assert (answer.status_code, answer.json()["code"]) == (400, "FORBIDDEN_URL")
    assert inside[1] == []


@pytest.mark.parametrize("wait", [False, True])
def test_a_download_refuses_it_too(
    strict: Callable[..., requests.Response], inside: tuple[int, list[bytes]], wait: bool
) -> None:
    """Without `wait` the answer was a 202."""
    url = f"http://127.0.0.1:{inside[0]}/x"
    endpoint = {"url": "s3://b/k", "auth": {**S3_INSIDE, "endpoint": url}}
    for body in ({"url": url}, {"url": url.replace("//", "//user:password@")}, endpoint):
        answer = strict("/download", **body, model_type="loras", wait=wait)
        assert (answer.status_code, answer.json()["code"]) == (400, "FORBIDDEN_URL")
    assert inside[1] == []


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        ("hf://a/b/model.safetensors", {"HF_ENDPOINT": "http://127.0.0.1:1"}),
        ("http://127.0.0.1:1/a/b/resolve/main/model.safetensors", {"HF_ENDPOINT": "http://127.0.0.1:1"}),
        ("s3://b/k", {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}),
        (
            "http://127.0.0.1:1/account/container/blob",
            {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=account;BlobEndpoint=http://127.0.0.1:1/account"},
        ),
        ("http://127.0.0.1:1/x", {"ALLOW_PRIVATE_URLS": "true"}),
        ("https://no-such-name.invalid/x?a=b c#d", {}),
    ],
)
def test_a_url_of_a_server_that_the_operator_named_may_be_inside(url: str, settings: dict[str, str]) -> None:
    made = Settings.from_environ({"COMFYUI_URL": "http://127.0.0.1:9", **settings})
    store_for_url(url, made).check_url(url, None)


def test_a_redirect_to_an_address_inside_is_not_followed(inside: tuple[int, list[bytes]]) -> None:
    """From a server that the operator has named, and that may be inside itself."""
    print("injected: a redirect from a store of the operator's to an address inside")
    redirect = saying(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:%d/x\r\n\r\n" % inside[0])
    with scripted(redirect) as url:
        hub = store_for_url("hf://a/b/model.safetensors", Settings(hf_endpoint=url))
        with pytest.raises(ForbiddenUrl):
            hub.fetch("hf://a/b/model.safetensors", io.BytesIO(), max_bytes=100)
    assert inside[1] == []


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The addresses that sockets are told to connect to, instead of being connected."""
    told: list[Any] = []

    class Recorded(socket.socket):
        def connect(self, address: Any) -> None:
            told.append(address)
            raise ConnectionRefusedError

    monkeypatch.setattr(socket, "socket", Recorded)
    return told


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_address_that_was_checked_is_the_one_that_is_connected_to(
    connected: list[Any], monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """Who owns a name can answer the next question about it differently."""
    print("injected: a name whose DNS answers with a public address once, and with one inside from then on")
    asked_for: list[str] = []

    def found(host: str, port: int, *_more: object, **_options: object) -> list[Any]:
        asked_for.append(host)
        address = "93.184.215.14" if len(asked_for) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    url = f"{scheme}://rebinding.example:8080/a"
    with pytest.raises(InputUnavailable):
        store_for_url(url, Settings()).fetch(url, io.BytesIO(), max_bytes=100)
    assert (asked_for, connected) == (["rebinding.example"], [("93.184.215.14", 8080)])
    with pytest.raises(ForbiddenUrl):  # the second question
        store_for_url(url, Settings()).fetch(url, io.BytesIO(), max_bytes=100)
    assert len(connected) == 1


def test_one_address_inside_among_others_is_enough(connected: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def found(_host: str, port: int, *_more: object, **_options: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ("93.184.215.14", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    url = "http://mixed.example/"
    with pytest.raises(ForbiddenUrl):
        store_for_url(url, Settings()).fetch(url, io.BytesIO(), max_bytes=100)
    assert connected == []


@pytest.mark.parametrize(
    "url", ["gopher://127.0.0.1/", "file:///etc/passwd", "azure://a/b", "ftp://h/x", "jar:http://h!/"]
)
def test_only_the_known_kinds_of_url_are_fetched(url: str) -> None:
    with pytest.raises(HandlerError, match="only http, https, s3 and hf URLs"):
        store_for_url(url, Settings())


def test_deepinfra_s_webhook_is_looked_at_before_anything_runs(strict: Callable[..., requests.Response]) -> None:
    body = {"prompt": "a fox", "webhook": "http://127.0.0.1:9/hook"}
    answer = strict(ROUTE, **body)
    assert (answer.status_code, answer.json()["code"]) == (400, "FORBIDDEN_URL")
