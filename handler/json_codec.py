"""JSON, with what clients and ComfyUI put into it: NaN, integers above 64 bits, lone surrogates."""

import json
from typing import Any

import orjson

from handler.errors import BadRequest


def encode(value: object) -> bytes:
    """The value as JSON; NaN becomes null. Raises TypeError for a type that JSON does not have."""
    try:
        return orjson.dumps(value)
    except TypeError:
        # orjson has no integers above 64 bits and no lone surrogates; a graph may hold both.
        return json.dumps(value).encode()


def encode_strict(value: object) -> bytes:
    """As `encode`, but keys may be numbers. Raises UnicodeEncodeError for a lone surrogate."""
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        return json.dumps(value, ensure_ascii=False).encode()


def encode_lenient(value: object) -> bytes:
    """The value in Python's JSON, which ComfyUI reads: NaN and Infinity are kept."""
    return json.dumps(value).encode()


def check(value: object) -> None:
    """Raise BadRequest for a value that JSON cannot hold, such as a lone surrogate, which Python's JSON reader accepts."""
    try:
        encode_strict(value)
    except RecursionError as exc:
        raise BadRequest("The input is too many levels deep.", location="input") from exc
    except (TypeError, ValueError) as exc:
        raise BadRequest(f"The input cannot be written as JSON: {exc}.", location="input") from exc


def decode(content: bytes) -> Any:
    """The value of strict JSON. Raises ValueError."""
    return orjson.loads(content)


def decode_lenient(content: bytes) -> Any:
    """The value of ComfyUI's JSON. Raises ValueError.

    It may contain NaN and Infinity: a node's IS_CHANGED often returns NaN, and limits of inputs may be infinite.
    """
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return json.loads(content)


def replace_surrogates(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer with lone surrogates as question marks, for a sender that writes UTF-8, such as RunPod's SDK."""
    try:
        orjson.dumps(answer)
    except TypeError:
        replaced: dict[str, Any] = json.loads(json.dumps(answer, ensure_ascii=False).encode(errors="replace"))
        return replaced
    return answer
