"""Answers that are too large, and outputs that nobody takes."""

import io
import random
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from handler import Service
from handler.errors import DeliveryError, ResultTooLarge
from handler.pipeline import run
from tests.support import graphs
from tests.support.comfyui import Comfyui
from tests.support.events import bucket_environ, refused, service_with
from tests.support.live import s3_store


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    with s3_store("bkt") as client:
        yield client


def noise(megapixels: float = 0.25) -> graphs.Graph:
    """A graph whose PNG is as large as its pixels."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": noisy(int((megapixels * 1e6) ** 0.5))}},
        "2": {"class_type": "SaveImage", "inputs": {"filename_prefix": "N", "images": ["1", 0]}},
    }


def noisy(side: int) -> str:
    file = io.BytesIO()
    Image.frombytes("RGB", (side, side), random.Random(1).randbytes(side * side * 3)).save(file, "PNG")
    return graphs.as_base64(file.getvalue())


@pytest.mark.parametrize("dialect", ["workflow", "prompt"])
def test_an_answer_over_the_limit_is_an_error_with_the_remedies(service: Service, clean: Comfyui, dialect: str) -> None:
    small = service_with(service, MAX_RESULT_SIZE_MB="0.5")
    error = refused(small, {dialect: noise()})
    assert isinstance(error, ResultTooLarge)
    assert "The answer has 1.0 MB, over the limit of 0.5 MB (MAX_RESULT_SIZE_MB)" in error.message
    assert "N_00001_.png 0.8 MB" in error.message
    assert "BUCKET_ENDPOINT_URL" in error.message
    assert "convert_output" in error.message
    fits = run({"input": {dialect: noise(), "convert_output": {"format": "webp"}}}, small)
    assert len(fits["images"]) == 1


def test_an_answer_over_the_limit_goes_to_the_bucket(service: Service, clean: Comfyui, s3: Any) -> None:
    small = service_with(service, MAX_RESULT_SIZE_MB="0.5", **bucket_environ(s3, BUCKET_NAME="bkt"))
    found = run({"input": {"prompt": noise(), "id": "big"}}, small)
    assert found["images"][0].startswith(f"{s3.meta.endpoint_url}/bkt/big/big_N_00001_.png?")
    inline = run({"input": {"prompt": graphs.empty(), "id": "small"}}, small)
    assert graphs.opened(inline["images"][0]).size == (64, 64)


def test_an_answer_that_is_too_large_and_cannot_be_uploaded_says_both(
    service: Service, clean: Comfyui, s3: Any
) -> None:
    own = service_with(service, MAX_RESULT_SIZE_MB="0.5", **bucket_environ(s3, BUCKET_NAME="missing"))
    error = refused(own, {"workflow": noise()})
    assert isinstance(error, ResultTooLarge)
    assert "the bucket does not exist" in error.message


def test_an_upload_that_was_asked_for_and_failed_keeps_the_outputs(service: Service, comfyui: Comfyui, s3: Any) -> None:
    before = comfyui.files()
    auth = {"type": "s3", "access_key_id": "k", "secret_access_key": "s", "endpoint": s3.meta.endpoint_url}
    given = {"s3": {"bucket": "missing"}, "credentials": [{"url_pattern": "s3://**", "auth": auth}]}
    error = refused(service, {"workflow": graphs.empty(), **given})
    assert isinstance(error, DeliveryError)
    assert "E_00001_.png" in error.message
    kept = sorted(comfyui.files() - before, reverse=True)
    assert len(kept) == 2
    (comfyui.home / kept[0]).unlink()
    (comfyui.home / kept[1]).rmdir()
