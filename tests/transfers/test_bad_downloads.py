"""Servers that send something else than the file: nothing of it is used, and none of it takes time or room without an end."""

import gzip
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from handler import HandlerError, Service, Settings
from handler.errors import InputUnavailable
from handler.models.cache import ModelCache
from handler.pipeline import run
from handler.storage import Version, store_for_url
from tests.support import graphs
from tests.support.comfyui import Comfyui
from tests.support.raw import HEAD, Script, asked, saying, scripted

SETTINGS = Settings(allow_private_urls=True)
OK = HEAD + b"Content-Length: %d\r\n%s\r\n"


def whole(content: bytes, *headers: bytes) -> Script:
    return saying(OK % (len(content), b"".join(header + b"\r\n" for header in headers)) + content)


def endless(connection: object) -> None:
    sendall = connection.sendall  # type: ignore[attr-defined]
    asked(connection)  # type: ignore[arg-type]
    sendall(HEAD + b"\r\n")
    while True:
        sendall(bytes(1 << 16))


# Members, one after the other, are a file as well, and quickly made.
BOMB = gzip.compress(bytes(1 << 20)) * 50
BAD: dict[str, tuple[Script, str, str]] = {
    "a gzip bomb, though identity was asked for": (
        whole(BOMB, b"Content-Encoding: gzip"),
        "INPUT_UNAVAILABLE",
        "is sent compressed",
    ),
    "a gzip bomb as the file itself": (whole(BOMB), "INPUT_UNAVAILABLE", "not an image"),
    "no end": (endless, "TOO_LARGE", "larger than"),
    "more than it announced, in one chunk of 16 EB": (
        saying(HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n" + bytes(3 << 20)),
        "TOO_LARGE",
        "larger than",
    ),
    "less than it announced": (saying(OK % (1000, b"") + b"x"), "INPUT_UNAVAILABLE", "the connection broke off"),
    "a header of 1 MB": (
        saying(HEAD + b"X: " + b"y" * (1 << 20) + b"\r\n\r\n"),
        "INPUT_UNAVAILABLE",
        "cannot be fetched",
    ),
    "100,000 headers": (saying(HEAD + b"X: y\r\n" * 100_000 + b"\r\n"), "INPUT_UNAVAILABLE", "cannot be fetched"),
    "no HTTP": (saying(b"220 ftp.example ready\r\n"), "INPUT_UNAVAILABLE", "cannot be fetched"),
    "a length that is no number": (saying(HEAD + b"Content-Length: many\r\n\r\n"), "INPUT_UNAVAILABLE", "empty"),
    "a redirect to itself": (saying(b"HTTP/1.1 302 Found\r\nLocation: /a\r\n\r\n"), "INPUT_UNAVAILABLE", "too many"),
    "a redirect to nowhere": (saying(b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n"), "INPUT_UNAVAILABLE", "URL"),
    "a page": (whole(b"<html>", b"Content-Type: image/png"), "INPUT_UNAVAILABLE", "not an image"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_input_is_refused(service: Service, clean: Comfyui, what: str) -> None:
    print(f"injected: a server that sends {what}")
    script, code, says = BAD[what]
    with scripted(script) as url, pytest.raises(HandlerError) as refusal:
        run({"input": {"prompt": graphs.load(f"{url}/a.png")}}, service)
    assert (refusal.value.code, refusal.value.location) == (code, "prompt.1.inputs.image")
    assert says in refusal.value.message


@pytest.fixture
def models(tmp_path: Path) -> Iterator[ModelCache]:
    """Models of at most 1 MB; nothing may be left in their folder."""
    (tmp_path / "models/loras").mkdir(parents=True)
    environ = {"COMFYUI_URL": "http://127.0.0.1:9", "COMFY_HOME": str(tmp_path), "CACHE_DIR": str(tmp_path / "cache")}
    yield ModelCache(Settings.from_environ({**environ, "ALLOW_PRIVATE_URLS": "true", "MAX_MODEL_SIZE_GB": "0.001"}))
    assert not [file for file in (tmp_path / "models/loras").iterdir() if not file.name.startswith(".")]


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("a gzip bomb, though identity was asked for", "INPUT_UNAVAILABLE"),
        ("no end", "TOO_LARGE"),
        ("less than it announced", "INPUT_UNAVAILABLE"),
        ("a redirect to itself", "INPUT_UNAVAILABLE"),
    ],
)
def test_a_bad_model_is_refused_and_no_part_of_it_is_used(models: ModelCache, what: str, code: str) -> None:
    print(f"injected: a server that sends {what}")
    with scripted(BAD[what][0]) as url, pytest.raises(HandlerError) as refusal:
        models.download(f"{url}/m.safetensors", "loras")
    assert refusal.value.code == code
    assert code != "TOO_LARGE" or "0.001 GB (MAX_MODEL_SIZE_GB)" in refusal.value.message


NEW = bytes(range(256)) * 40


def ignoring_if_range(headers: bytes) -> Script:
    """Has the new version of a file, of which it sends whatever range it is asked for."""

    def script(connection: object) -> None:
        head = asked(connection)  # type: ignore[arg-type]
        _, found, rest = head.partition(b"Range: bytes=")
        begin = int(rest.partition(b"-")[0]) if found else 0
        status = b"HTTP/1.1 206 Partial\r\nContent-Range: bytes %d-/*\r\n" % begin if found else HEAD
        body = b"Content-Length: %d\r\nConnection: close\r\n%s\r\n" % (len(NEW) - begin, headers) + NEW[begin:]
        connection.sendall(status + body)  # type: ignore[attr-defined]

    return script


DATED = b"Date: Sat, 21 Nov 2026 12:00:00 GMT\r\nLast-Modified: Sat, 21 Nov 2026 %s GMT\r\n"


@pytest.mark.parametrize(
    ("known", "headers", "kept"),
    [
        ('"old"', b'ETag: "new"\r\n', '"new"'),
        ('"old"', b'ETag: W/"new"\r\n', None),
        ("Fri, 20 Nov 2026 09:00:00 GMT", DATED % b"11:00:00", "Sat, 21 Nov 2026 11:00:00 GMT"),
        # There may be another version of the same second.
        ("Fri, 20 Nov 2026 09:00:00 GMT", DATED % b"12:00:00", None),
    ],
)
def test_two_versions_of_a_file_are_not_mixed(tmp_path: Path, known: str, headers: bytes, kept: str | None) -> None:
    """A download that broke off went on in the file that had meanwhile taken the place of the first one."""
    print("injected: a server that has another version of a begun file, and does not know If-Range")
    version, file = Version(tmp_path / "version"), io.BytesIO(b"x" * 1000)
    version.keep(known)
    with scripted(ignoring_if_range(headers)) as url:
        store_for_url(url, SETTINGS).fetch(f"{url}/a", file, version=version, max_bytes=None)
    assert file.getvalue() == NEW
    assert version.known() == kept


@pytest.mark.parametrize("headers", [b'ETag: "same"\r\n', b""])
def test_the_rest_of_the_same_version_is_taken(tmp_path: Path, headers: bytes) -> None:
    version, file = Version(tmp_path / "version"), io.BytesIO(b"x" * 1000)
    version.keep('"same"')
    with scripted(ignoring_if_range(headers)) as url:
        store_for_url(url, SETTINGS).fetch(f"{url}/a", file, version=version, max_bytes=None)
    assert file.getvalue() == b"x" * 1000 + NEW[1000:]


def test_a_begun_file_is_kept_when_the_server_is_gone(tmp_path: Path) -> None:
    version, file = Version(tmp_path / "version"), io.BytesIO(b"x" * 1000)
    version.keep('"same"')
    with scripted(lambda connection: connection.close()) as url, pytest.raises(InputUnavailable):
        store_for_url(url, SETTINGS).fetch(f"{url}/a", file, version=version, max_bytes=None)
    assert (file.getvalue(), version.known()) == (b"x" * 1000, '"same"')
