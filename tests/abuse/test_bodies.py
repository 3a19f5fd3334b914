"""Bodies that cost more than they weigh, or never end: a clear 4xx, and memory that is bounded."""

import asyncio
import io
import re
import select
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import pytest
import requests
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.types import Message

from emulator.app import create_app
from emulator.http.bodies import read_form
from emulator.http.header_timeout import HeaderTimeoutProtocol
from emulator.routes.deepinfra import ROUTE
from handler import Settings
from tests.support import graphs
from tests.support.api import Api
from tests.support.comfyui import Comfyui
from tests.support.live import served
from tests.support.processes import environment, running
from tests.support.raw import answered
from tests.support.waiting import wait_until

JSON = {"Content-Type": "application/json"}
MB = 1 << 20

HEAD = b'{"prompt":{"1":{"class_type":"LoadImage","inputs":{"image":"'
TAIL = b'"}},"2":{"class_type":"SaveImage","inputs":{"filename_prefix":"L","images":["1",0]}}}}'
LARGE: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "99 MB of base64": (lambda: HEAD + b"A" * (99 * MB) + TAIL, 400, "INPUT_UNAVAILABLE"),
    "99 MB of a data URI": (
        lambda: HEAD + b"data:image/png;base64," + b"A" * (98 * MB) + TAIL,
        400,
        "INPUT_UNAVAILABLE",
    ),
    "a data URI of 33 million quoted bytes": (lambda: HEAD + b"data:," + b"%41" * (33 * MB) + TAIL, 413, "TOO_LARGE"),
    "a URL of 99 MB": (lambda: HEAD + b"http://h/" + b"a" * (98 * MB) + TAIL, 400, "INPUT_UNAVAILABLE"),
    "33 million empty lists": (lambda: b'{"prompt":[' + b"[]," * (33 * MB) + b"[]]}", 400, "BAD_REQUEST"),
    "an id of 99 MB": (lambda: b'{"id":"' + b"a" * (99 * MB) + b'"}', 400, "BAD_REQUEST"),
    "a model's name of 60 MB": (
        lambda: orjson.dumps({"prompt": graphs.changed(graphs.txt2img(), "30", ckpt_name="a" * (60 * MB))}),
        400,
        "INPUT_UNAVAILABLE",
    ),
    "a class of 60 MB": (
        lambda: orjson.dumps({"prompt": {"1": {"class_type": "a" * (60 * MB), "inputs": {}}}}),
        400,
        "BAD_REQUEST",
    ),
}


@pytest.fixture(scope="module")
def process(comfyui: Comfyui, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The HTTP API as a process with its own limits: its URL, and where the kernel tells of its memory."""
    env = environment(comfyui.home, COMFYUI_URL=comfyui.url)
    env["CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    with running("emulator", env) as server:
        wait_until(lambda: "ready at" in server.text())
        yield re.findall(r"ready at (\S+),", server.text())[0], Path(f"/proc/{server.child.pid}")


def peak_mb(process: Path) -> int:
    return int(re.findall(r"VmHWM:\s+(\d+)", (process / "status").read_text())[0]) // 1024


@pytest.mark.parametrize("what", LARGE)
def test_a_large_body_takes_a_few_times_its_size(process: tuple[str, Path], clean: Comfyui, what: str) -> None:
    """Some took a hundred times of it, and minutes."""
    print(f"injected: {what}")
    url, proc = process
    make, status, code = LARGE[what]
    body = make()
    (proc / "clear_refs").write_text("5")  # forget the peak
    answer = requests.post(f"{url}/prompt", data=body, headers=JSON, timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert len(answer.text) < 2000
    assert peak_mb(proc) < 900


BOUND = {"Content-Type": "multipart/form-data; boundary=x"}
QUOTED = {"Content-Type": "application/x-www-form-urlencoded"}
FORMS: dict[str, tuple[Callable[[], bytes], dict[str, str], str]] = {
    "20 million quoted bytes": (lambda: b"prompt=" + b"%41" * (20 * MB), QUOTED, "send JSON or a multipart form"),
    "33 million empty fields": (lambda: b"a=&" * (33 * MB), QUOTED, "send JSON or a multipart form"),
    "a text of 95 MB that looks like ends of it": (
        lambda: part("prompt", b"\r\n-" * (95 * MB // 3)),
        BOUND,
        "at most 1 MB",
    ),
    "a file of 95 MB for a text": (
        lambda: part('prompt"; filename="a', b"\r\n-" * (95 * MB // 3)),
        BOUND,
        "at most 1 MB",
    ),
}


def part(name: str, content: bytes) -> bytes:
    """A multipart form of one field."""
    return b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n--x--\r\n' % (name.encode(), content)


@pytest.mark.parametrize("what", FORMS)
def test_a_large_form_is_refused(process: tuple[str, Path], clean: Comfyui, what: str) -> None:
    """A quoted one took 85 times its size."""
    print(f"injected: {what}")
    make, headers, says = FORMS[what]
    body, (url, proc) = make(), process
    (proc / "clear_refs").write_text("5")
    answer = requests.post(f"{url}{ROUTE}", data=body, headers=headers, timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (413, "TOO_LARGE")
    assert says in answer.json()["error"]
    assert peak_mb(proc) < 900


def test_a_large_form_lets_others_be_answered_in_between() -> None:
    """Nothing else was for seconds. Counted are the turns of others in the event loop, which no busy machine makes fewer."""
    body, turns = part("image", b"\r\n-" * (30 * MB // 3)), 0

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def parse() -> None:
        headers = [(b"content-type", BOUND["Content-Type"].encode())]
        other = asyncio.create_task(others())
        request = Request({"type": "http", "headers": headers}, receive)
        form = await read_form(request, Settings(max_body_size_mb=100))
        other.cancel()
        assert len(form["image"]) == 30 * MB

    asyncio.run(parse())
    assert turns >= 30


def test_a_quoted_form_is_refused_before_all_of_it_is_there(api: Api) -> None:
    def body() -> Iterator[bytes]:
        yield b"prompt="
        for _ in range(24):
            yield b"%41" * (MB // 24)

    answer = api("POST", ROUTE, data=body(), headers=QUOTED)
    assert (answer.status_code, answer.json()["code"]) == (413, "TOO_LARGE")


def test_a_form_s_picture_may_be_larger_than_its_texts(api: Api, clean: Comfyui) -> None:
    """It is refused for what is in it, not for its size."""
    for name in ("image", 'image"; filename="a'):
        answer = api("POST", ROUTE, data=part(name, b"A" * (1500 << 10)), headers=BOUND)
        assert (answer.status_code, answer.json()["location"]) == (400, "prompt")


def test_a_form_s_text_may_have_a_megabyte(api: Api, clean: Comfyui) -> None:
    for body, headers in ((part("strength", b"a" * MB), BOUND), (b"strength=" + b"a" * (MB - 9), QUOTED)):
        answer = api("POST", ROUTE, data=body, headers=headers)
        assert (answer.status_code, answer.json()["location"]) == (400, "prompt")


@pytest.mark.parametrize("body", [b"a=&" * 100, b"&".join(b"%d=" % n for n in range(65))])
def test_a_form_of_many_fields_is_refused(api: Api, body: bytes) -> None:
    answer = api("POST", ROUTE, data=body, headers=QUOTED)
    assert (answer.status_code, answer.json()["code"]) == (400, "BAD_REQUEST")
    assert "more than 64 fields" in answer.json()["error"]


def test_what_is_not_json_is_refused_in_the_same_time(api: Api) -> None:
    for body in (b'{"a":' * 300_000, b"[" * 5_000_000, b'{"prompt": {"a": NaN}}', b'{"a": "\\udc00"}', b"\xff\xfe{}"):
        answer = api("POST", "/prompt", data=body, headers=JSON)
        assert (answer.status_code, answer.json()["code"]) == (400, "BAD_REQUEST")


def test_of_a_key_that_is_there_twice_the_last_one_counts(api: Api, clean: Comfyui) -> None:
    """As in ComfyUI, and in most readers of JSON: none of them takes another than we do."""
    body = orjson.dumps({"id": "second", "prompt": graphs.empty()})
    answer = api("POST", "/prompt", data=b'{"id": "first", ' + body[1:], headers=JSON)
    assert answer.json()["id"] == "second"


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kB that says that it has that many pixels, all of which are there."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes((width + 7) // 8 + 1)) for _ in range(height)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def animation(frames: int) -> bytes:
    file = io.BytesIO()
    one = Image.new("P", (4000, 4000))
    one.save(file, "GIF", save_all=True, append_images=(Image.new("P", (4000, 4000), n) for n in range(1, frames)))
    return file.getvalue()


@pytest.mark.parametrize(
    "make",
    [lambda: bomb(30_000, 30_000), lambda: bomb(1_000_000, 200), lambda: animation(13)],
    ids=["a square", "a line", "an animation"],
)
def test_an_image_that_unpacks_to_gigabytes_is_refused(
    process: tuple[str, Path], clean: Comfyui, make: Callable[[], bytes]
) -> None:
    image = make()
    print(f"injected: an image of {len(image) >> 10} kB that unpacks to hundreds of millions of pixels")
    url, proc = process
    (proc / "clear_refs").write_text("5")
    answer = requests.post(f"{url}/prompt", json={"prompt": graphs.load(graphs.as_base64(image))}, timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (413, "TOO_LARGE")
    assert "178,956,970 pixels in total are allowed" in answer.json()["error"]
    assert peak_mb(proc) < 900


def connected(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=30)


def dripped(sock: socket.socket, drop: bytes) -> tuple[int, bytes]:
    """The answer of a server that gets drop after drop."""

    def is_answered() -> bool:
        sock.send(drop)
        return bool(select.select([sock], [], [], 0.05)[0])

    wait_until(is_answered)
    return answered(sock)


@pytest.fixture(scope="module")
def impatient(settings: Settings) -> Iterator[str]:
    """The HTTP API, with little time for a body."""
    with served(create_app(settings.model_copy(update={"body_timeout_s": 0.4}))) as url:
        yield url


@pytest.mark.parametrize("framing", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("path", [b"/prompt", b"/workflow/flux/txt2img", b"/interrupt", b"/download"])
def test_a_body_that_does_not_end_is_answered_with_a_408(impatient: str, path: bytes, framing: bytes) -> None:
    print("injected: a client that sends its body byte after byte")
    drop = b"x" if b"Length" in framing else b"1\r\nx\r\n"
    with connected(impatient) as sock:
        sock.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%s\r\n\r\n" % (path, framing))
        status, answer = dripped(sock, drop)
    assert status == 408
    assert b'"code":"BODY_TIMEOUT"' in answer
    assert b"(BODY_TIMEOUT_S)" in answer


class Hasty(HeaderTimeoutProtocol):
    head_timeout_s = 0.4


@pytest.fixture(scope="module")
def hasty() -> Iterator[str]:
    with served(Starlette(), http=Hasty) as url:
        yield url


@pytest.mark.parametrize("start", [b"", b"GET /", b"GET / HTTP/1.1\r\nX-Slow: ", b"GET / HTTP/1.1\r\n\r\nGET /"])
def test_a_head_that_does_not_end_is_answered_with_a_408(hasty: str, start: bytes) -> None:
    print("injected: a client that sends its head byte after byte")
    with connected(hasty) as sock:
        sock.sendall(start)
        if start.endswith(b"\r\n\r\nGET /"):
            assert answered(sock)[0] == 404
        assert dripped(sock, b"x" if start else b"")[0] == 408


def test_a_request_within_its_time_is_not_disturbed(hasty: str) -> None:
    with requests.Session() as session:
        for _ in range(3):
            assert session.get(hasty, timeout=30).status_code == 404
            time.sleep(0.3)  # idle, which uvicorn bounds itself
