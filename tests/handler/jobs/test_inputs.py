"""What a caller may put into an uploadable input, and what it gets for anything else."""

import asyncio
import base64
import io
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from handler import HandlerError, Service
from handler.net import guard
from handler.pipeline import run
from tests.support import graphs
from tests.support.comfyui import Comfyui
from tests.support.live import served

PNG = graphs.picture(color="lime")


async def endless(_request: Request) -> Response:
    async def zeros() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1 << 16)
            await asyncio.sleep(0)  # lets the server notice that nobody listens any more

    return StreamingResponse(zeros())


async def trickle(_request: Request) -> Response:
    async def one_by_one() -> AsyncIterator[bytes]:
        for byte in PNG:
            yield bytes([byte])
            await asyncio.sleep(0.3)

    return StreamingResponse(one_by_one())


async def redirect(request: Request) -> Response:
    return RedirectResponse(request.query_params["to"])


@pytest.fixture(scope="module")
def files() -> Iterator[str]:
    """A file server."""

    def holding(content: bytes, status: int = 200) -> Any:
        async def answer(_request: Request) -> Response:
            return Response(content, status)

        return answer

    async def secret(_request: Request) -> Response:
        return PlainTextResponse("no", 403)

    routes = [
        Route("/ok.png", holding(PNG)),
        Route("/no-ending", holding(graphs.picture(color="blue", file_format="JPEG"))),
        Route("/page.html", holding(b"<html>not an image</html>")),
        Route("/empty.png", holding(b"")),
        Route("/half.png", holding(graphs.picture((400, 400))[:300])),
        Route("/big.png", holding(bytes(3 << 20))),
        Route("/secret", secret),
        Route("/endless", endless),
        Route("/trickle", trickle),
        Route("/redirect", redirect),
    ]
    with served(Starlette(routes=routes)) as url:
        yield url


def loaded(service: Service, image: Any) -> Image.Image:
    answer = run({"input": {"prompt": graphs.load(image), "id": "in"}}, service)
    assert answer["filenames"] == ["in_L_00001_.png"]
    return graphs.opened(answer["images"][0])


def refused(service: Service, image: Any, **options: Any) -> HandlerError:
    with pytest.raises(HandlerError) as caught:
        run({"input": {"prompt": graphs.load(image), **options}}, service)
    assert caught.value.location == "prompt.1.inputs.image"
    return caught.value


@pytest.mark.parametrize(
    "path", ["/ok.png", "/ok.png?size=large&x=1", "/redirect?to=/ok.png", "/redirect?to=/redirect%3Fto%3D/ok.png"]
)
def test_a_url_is_fetched(service: Service, clean: Comfyui, files: str, path: str) -> None:
    assert loaded(service, files + path).getpixel((0, 0)) == (0, 255, 0)


def test_the_content_tells_the_format_not_the_name(service: Service, clean: Comfyui, files: str) -> None:
    assert loaded(service, files + "/no-ending").size == (32, 24)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_base64_of_any_usual_format_is_decoded(service: Service, clean: Comfyui, file_format: str) -> None:
    """A small JPEG begins with "/9j/", which the reference takes for a path."""
    content = graphs.picture(file_format=file_format)
    assert loaded(service, graphs.as_base64(content)).size == (32, 24)


def test_base64_may_have_line_breaks_and_no_padding(service: Service, clean: Comfyui) -> None:
    wrapped = base64.encodebytes(PNG + b"\0").decode().rstrip("=\n")
    assert loaded(service, wrapped).size == (32, 24)


def test_a_data_uri_is_decoded(service: Service, clean: Comfyui) -> None:
    assert loaded(service, "data:image/png;base64," + graphs.as_base64(PNG)).getpixel((0, 0)) == (0, 255, 0)


def test_the_name_of_an_existing_file_is_used_as_it_is(service: Service, comfyui: Comfyui) -> None:
    (comfyui.home / "input" / "here.png").write_bytes(PNG)
    try:
        assert loaded(service, "here.png").getpixel((0, 0)) == (0, 255, 0)
    finally:
        (comfyui.home / "input" / "here.png").unlink()


def test_prompt_texts_are_never_touched(service: Service, clean: Comfyui, files: str) -> None:
    graph = graphs.txt2img(f"{files}/ok.png")
    answer = run({"input": {"prompt": graph}}, service)
    assert answer["prompt"]["6"]["inputs"]["text"] == f"{files}/ok.png"


@pytest.mark.parametrize(
    ("image", "code", "says"),
    [
        ("", "INPUT_UNAVAILABLE", "empty"),
        ("nothing-there.png", "INPUT_UNAVAILABLE", "not a URL, a file name or base64"),
        ("../../etc/passwd", "INPUT_UNAVAILABLE", "not a URL, a file name or base64"),
        ("/etc/passwd", "INPUT_UNAVAILABLE", "not an image"),
        ("aGVsbG8gd29ybGQ=", "INPUT_UNAVAILABLE", "image"),
        ("!!!", "INPUT_UNAVAILABLE", "not a URL, a file name or base64"),
        ("data:image/png;base64,!!!", "INPUT_UNAVAILABLE", "not valid base64"),
        ("data:image/png;base64", "INPUT_UNAVAILABLE", "no comma"),
        ("ftp://host/file.png", "INPUT_UNAVAILABLE", "only http, https"),
        ("http://", "INPUT_UNAVAILABLE", "not a valid URL"),
        ("http://127.0.0.1:1/x.png", "INPUT_UNAVAILABLE", "no connection"),
        ("http://no-such-host.invalid/x.png", "INPUT_UNAVAILABLE", "no connection"),
        (graphs.as_base64(bytes(3 << 20)), "TOO_LARGE", "2 MB"),
    ],
)
def test_what_is_no_image_is_refused(service: Service, clean: Comfyui, image: str, code: str, says: str) -> None:
    error = refused(service, image)
    assert error.code == code
    assert says in error.message


@pytest.mark.parametrize(
    ("path", "code", "says"),
    [
        ("/nope.png", "INPUT_UNAVAILABLE", "answered 404"),
        ("/secret?token=abc", "INPUT_UNAVAILABLE", "answered 403"),
        ("/page.html", "INPUT_UNAVAILABLE", "image"),
        ("/empty.png", "INPUT_UNAVAILABLE", "empty"),
        ("/half.png", "INPUT_UNAVAILABLE", "image"),
        ("/big.png", "TOO_LARGE", "MAX_INPUT_SIZE_MB"),
        ("/endless", "TOO_LARGE", "MAX_INPUT_SIZE_MB"),
        ("/redirect?to=file:///etc/passwd", "INPUT_UNAVAILABLE", "redirects to something else"),
    ],
)
def test_a_bad_url_is_refused(service: Service, clean: Comfyui, files: str, path: str, code: str, says: str) -> None:
    error = refused(service, files + path)
    assert error.code == code
    assert says in error.message
    assert "token" not in error.message


def test_a_slow_sender_meets_the_time_limit(service: Service, clean: Comfyui, files: str) -> None:
    hasty = Service.load(service.settings.model_copy(update={"input_timeout_s": 0.5}))
    assert "took too long" in refused(hasty, files + "/trickle").message


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:{port}/ok.png", "http://localhost:{port}/ok.png", "http://[::ffff:127.0.0.1]:{port}/ok.png"],
)
def test_a_private_address_is_refused_unless_allowed(service: Service, clean: Comfyui, files: str, url: str) -> None:
    strict = Service.load(service.settings.model_copy(update={"allow_private_urls": False}))
    error = refused(strict, url.format(port=files.rpartition(":")[2]))
    assert error.code == "FORBIDDEN_URL"
    assert "ALLOW_PRIVATE_URLS" in error.message


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b:1::a00:1", False),
        ("::127.0.0.1", False),
        ("fec0::1", False),
        ("192.0.0.8", False),
    ],
)
def test_public_addresses_are_told_from_the_rest(address: str, public: bool) -> None:
    assert guard.is_public(address) is public


def test_the_job_s_own_deadline_bounds_the_fetching(service: Service, clean: Comfyui, files: str) -> None:
    began = time.monotonic()
    error = refused(service, files + "/trickle", timeout_s=0.5)
    assert (error.code, error.location) == ("TIMEOUT", "prompt.1.inputs.image")
    assert time.monotonic() - began < 10


def test_nodes_whose_ids_look_alike_in_a_file_name_get_their_own_pictures(service: Service, clean: Comfyui) -> None:
    given = {"1/a": "lime", "1_a": "red", "1 a": "blue"}
    graph: dict[str, Any] = {}
    for n, (node_id, color) in enumerate(given.items()):
        value = graphs.as_base64(graphs.picture(color=color))
        graph |= {
            node_id: {"class_type": "LoadImage", "inputs": {"image": value}},
            f"{n}": {"class_type": "SaveImage", "inputs": {"filename_prefix": f"{n}", "images": [node_id, 0]}},
        }
    answer = run({"input": {"prompt": graph}}, service)
    pixels = {output["node_id"]: graphs.opened(image).getpixel((0, 0)) for output, image in outputs(answer)}
    assert pixels == {"0": (0, 255, 0), "1": (255, 0, 0), "2": (0, 0, 255)}


def outputs(answer: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    return list(zip(answer["outputs"], answer["images"], strict=True))


def test_one_bad_input_of_two_leaves_nothing_behind(service: Service, clean: Comfyui, files: str) -> None:
    graph = graphs.load(files + "/ok.png") | {
        "3": {"class_type": "LoadImage", "inputs": {"image": files + "/nope.png"}},
        "4": {"class_type": "SaveImage", "inputs": {"filename_prefix": "M", "images": ["3", 0]}},
    }
    with pytest.raises(HandlerError) as caught:
        run({"input": {"prompt": graph}}, service)
    assert caught.value.location == "prompt.3.inputs.image"


def test_transparency_survives_the_way_in(service: Service, clean: Comfyui) -> None:
    file = io.BytesIO()
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(file, "PNG")
    assert loaded(service, graphs.as_base64(file.getvalue())).size == (8, 8)
