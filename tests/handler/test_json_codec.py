"""JSON with what clients and ComfyUI put into it."""

import json
import math
from typing import Any

import pytest

from handler import json_codec
from handler.errors import BadRequest

SURROGATE = "a\ud800b"
LARGE = 1 << 70
# both are ValueErrors
NOT_JSON = (json.JSONDecodeError, UnicodeDecodeError)


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, "é"]}, LARGE, SURROGATE, [], "text"], ids=repr)
def test_what_is_encoded_can_be_read_again(value: Any) -> None:
    assert json.loads(json_codec.encode(value)) == value


def test_nan_is_encoded_as_null() -> None:
    assert json_codec.encode([math.nan, math.inf]) == b"[null,null]"


@pytest.mark.parametrize("encode", [json_codec.encode, json_codec.encode_strict, json_codec.encode_lenient])
def test_a_type_that_json_does_not_have_is_a_type_error(encode: Any) -> None:
    with pytest.raises(TypeError):
        encode({"a": object()})


def test_strict_encoding_takes_numbers_as_keys_and_large_integers() -> None:
    assert json_codec.encode_strict({1: LARGE}) == b'{"1": %d}' % LARGE


def test_strict_encoding_refuses_a_lone_surrogate() -> None:
    with pytest.raises(UnicodeEncodeError):
        json_codec.encode_strict(SURROGATE)


@pytest.mark.parametrize("value", [SURROGATE, {"a": [SURROGATE]}, {SURROGATE: 1}, {1, 2}], ids=ascii)
def test_what_json_cannot_hold_is_a_bad_request(value: Any) -> None:
    with pytest.raises(BadRequest, match="cannot be written as JSON"):
        json_codec.check(value)


def test_a_value_that_is_nested_too_deep_is_a_bad_request() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(BadRequest, match="too many levels deep"):
        json_codec.check(deep)


def test_a_plain_value_passes_the_check() -> None:
    json_codec.check({"a": [1, LARGE, "é"], 2: None})


def test_comfyui_gets_and_gives_nan_and_infinity() -> None:
    content = json_codec.encode_lenient([1, math.inf, LARGE, SURROGATE, math.nan])

    decoded = json_codec.decode_lenient(content)

    assert decoded[:4] == [1, math.inf, LARGE, SURROGATE]
    assert math.isnan(decoded[4])


@pytest.mark.parametrize("content", [b"", b"{", b"nope", b"\xff", b"[1,]"], ids=repr)
def test_what_is_not_json_is_a_value_error(content: bytes) -> None:
    with pytest.raises(NOT_JSON):
        json_codec.decode(content)
    with pytest.raises(NOT_JSON):
        json_codec.decode_lenient(content)


def test_strict_json_has_no_nan() -> None:
    with pytest.raises(NOT_JSON):
        json_codec.decode(b"[NaN]")


def test_lone_surrogates_become_question_marks() -> None:
    assert json_codec.replace_surrogates({"a": [SURROGATE], "n": LARGE}) == {"a": ["a?b"], "n": LARGE}


def test_an_answer_without_lone_surrogates_stays_the_same() -> None:
    answer = {"a": ["é"]}

    assert json_codec.replace_surrogates(answer) is answer
