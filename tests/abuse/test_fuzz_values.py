"""Values of every kind for what a caller can give: an error of ours at most, and never one that is a bug.

The same few each time; `pytest -m slow` makes thousands of new ones.
"""

import contextlib
import io
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from PIL import Image

from handler import HandlerError, Service
from handler.errors import BadRequest
from handler.jobs import images
from handler.jobs.inputs import _decode
from handler.net import guard
from handler.pipeline import run
from handler.schemas.conversion import ConvertJpeg, ConvertOutput, ConvertPng, ConvertWebp
from handler.schemas.credentials import matches_pattern
from handler.schemas.event import parse_event
from handler.urls import redact_url
from tests.support import graphs
from tests.support.api import Api
from tests.support.comfyui import Comfyui

pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")

QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large, HealthCheck.large_base_example]
AMOUNTS = [
    pytest.param({"max_examples": 40, "derandomize": True, "phases": [Phase.generate]}, id="few"),
    pytest.param({"max_examples": 3000}, id="many", marks=pytest.mark.slow),
]
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20)
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NODE_IDS = st.sampled_from(["1", "2", "3", "4", "a", "", "1.2"])
LINKS = st.tuples(NODE_IDS, st.integers(-2, 3) | st.just(0.5)).map(list)
CLASSES = [
    *("EmptyImage", "SaveImage", "LoadImage", "ImageInvert", "ImageScale", "CheckpointLoaderSimple", "KSampler"),
    *(
        "CLIPTextEncode",
        "VAEDecode",
        "EmptyLatentImage",
        "PreviewImage",
        "SaveAnimatedWEBP",
        "LoraLoader",
        "EmulatorText",
    ),
]
NAMES = [
    *(
        "images",
        "image",
        "filename_prefix",
        "width",
        "height",
        "batch_size",
        "color",
        "ckpt_name",
        "model",
        "seed",
        "text",
    ),
    *("clip", "vae", "samples", "steps", "cfg", "sampler_name", "scheduler", "denoise", "positive", "negative", "zz"),
]
KNOWN = st.sampled_from([64, 1, 0, -1, "a", "../a", "data:,", "http://127.0.0.1:9/x", "euler", "simple", 1e300, 10**20])
INPUTS = st.dictionaries(st.sampled_from(NAMES), LINKS | KNOWN | JSON, max_size=6)
NODES = st.fixed_dictionaries({"class_type": st.sampled_from(CLASSES), "inputs": INPUTS})
GRAPHS = st.dictionaries(NODE_IDS, NODES, max_size=5).map(lambda nodes: {**graphs.empty(), **nodes})


def fuzzed(test: Callable[..., None], amount: dict[str, Any], **strategies: Any) -> None:
    examples(deadline=None, database=None, suppress_health_check=QUIET, **amount)(given(**strategies)(test))()


@pytest.mark.parametrize("amount", AMOUNTS)
def test_any_graph_runs_or_is_an_error_of_ours(service: Service, clean: Comfyui, amount: dict[str, Any]) -> None:
    def test(graph: Any) -> None:
        began = time.monotonic()
        with contextlib.suppress(HandlerError):
            run({"input": {"prompt": graph, "timeout_s": 3}}, service)
        assert time.monotonic() - began < 60

    fuzzed(test, amount, graph=GRAPHS)
    assert run({"input": {"prompt": graphs.empty()}}, service)["images"]


@pytest.mark.parametrize("amount", AMOUNTS)
def test_any_body_is_answered(api: Api, clean: Comfyui, amount: dict[str, Any]) -> None:
    fields = (
        "prompt",
        "id",
        "webhook",
        "webhook_v2",
        "convert_output",
        "credentials",
        "timeout_s",
        "s3",
        "http_upload",
    )
    given = st.dictionaries(st.sampled_from(fields), JSON, max_size=5)

    def test(given: Any) -> None:
        body = given if isinstance(given, bytes) else json.dumps(given).encode()
        for path in ("/prompt", "/workflow/text2img", "/download", "/interrupt"):
            answer = api("POST", path, data=body, headers={"Content-Type": "application/json"})
            assert 400 <= answer.status_code < 500
            assert answer.json()

    fuzzed(test, amount, given=given | st.binary(max_size=200))


@pytest.mark.parametrize("amount", AMOUNTS)
def test_any_event_is_a_request_or_a_bad_one(amount: dict[str, Any]) -> None:
    names = ("prompt", "workflow", "input", "images", "id", "credentials", "comfy_org_api_key", "webhook_v2", "s3")
    events = st.fixed_dictionaries({"input": st.dictionaries(st.sampled_from(names), GRAPHS | JSON, max_size=5) | JSON})

    def test(event: Any) -> None:
        with contextlib.suppress(BadRequest):
            parse_event(event)

    fuzzed(test, amount, event=events)


URLS = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "http://", "https://", "s3://", "hf://", "HTTP:", "//", "data:"]),
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.text(st.sampled_from("@:/?#[]%\\.a0 \t\n"), max_size=20),
)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_any_text_is_a_url_or_none(amount: dict[str, Any]) -> None:
    def test(text: str) -> None:
        redact_url(text)
        for allow_private in (True, False):
            with contextlib.suppress(BadRequest):
                guard.check_url(text, allow_private=allow_private)

    fuzzed(test, amount, text=URLS)


def kept(pattern: str, text: str) -> bool:
    """The slow way of `matches`."""
    if not pattern:
        return not text
    if pattern.startswith("**"):
        rest = pattern.lstrip("*")
        return any(kept(rest, text[n:]) for n in range(len(text) + 1))
    if pattern[0] == "*":
        end = text.find("/") if "/" in text else len(text)
        return any(kept(pattern[1:], text[n:]) for n in range(end + 1))
    return (
        bool(text) and (pattern[0] == text[0] or (pattern[0] == "?" and text[0] != "/")) and kept(pattern[1:], text[1:])
    )


@pytest.mark.parametrize("amount", AMOUNTS)
def test_a_pattern_means_what_is_written(amount: dict[str, Any]) -> None:
    def test(pattern: str, text: str) -> None:
        assert matches_pattern(pattern, text) == kept(pattern, text)

    few = st.text(st.sampled_from("ab/"), max_size=8)
    fuzzed(test, amount, pattern=st.text(st.sampled_from("ab/*?"), max_size=8), text=few)


@pytest.mark.parametrize("length", [8192])
def test_no_pattern_takes_long(length: int) -> None:
    """Of what a regular expression would not finish in the lifetime of this universe."""
    for pattern in ("*a" * 1024, "**a" * 680, "?*" * 1024, "**/" * 680, "*" * 2048, "**?" * 680 + "b"):
        for text in ("a" * length, "/" * length, "a/" * (length // 2), "b" * (length - 1) + "c"):
            began = time.monotonic()
            matches_pattern(pattern, text)
            assert time.monotonic() - began < 60


def encoded(name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture = Image.linear_gradient("L").resize((20, 16)).convert("RGB")
    picture.save(file, name, **options)
    return file.getvalue()


SEEDS = [
    *(encoded(name) for name in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")),
    encoded("PNG", save_all=True, append_images=[Image.new("RGB", (20, 16))]),
    encoded("GIF", save_all=True, append_images=[Image.new("RGB", (20, 16), "red")]),
    encoded("WEBP", save_all=True, append_images=[Image.new("RGB", (20, 16), "red")]),
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A picture, some of whose bytes are others, or gone, or doubled."""
    image = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(image)))
        image[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(image)


TARGETS: list[ConvertOutput] = [ConvertJpeg(format="jpeg"), ConvertWebp(format="webp"), ConvertPng(format="png")]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("amount", AMOUNTS)
def test_any_file_is_a_picture_or_none(amount: dict[str, Any]) -> None:
    """The warnings are Pillow's, about what is odd in a file."""

    def test(content: bytes) -> None:
        images.identify(content)
        with contextlib.suppress(HandlerError):
            images.check_input(content)  # for its size, above all
            for target in TARGETS:
                images.convert(content, target)

    fuzzed(test, amount, content=damaged() | st.binary(max_size=100))


@pytest.mark.parametrize("amount", AMOUNTS)
def test_any_text_is_an_inline_file_or_none(amount: dict[str, Any]) -> None:
    def test(head: str, body: str) -> None:
        with contextlib.suppress(HandlerError):
            _decode(head + body, 1 << 20)

    heads = st.sampled_from(["", "data:", "data:,", "data:image/png;base64,", "data:;base64", "data:text/plain,%"])
    fuzzed(test, amount, head=heads, body=st.text(max_size=40))
