"""Callers' values made models of, and sentences of what is wrong with them."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from handler import json_codec
from handler.errors import BadRequest

Model = TypeVar("Model", bound=BaseModel)

_MOST_FAULTS = 20


def validate(
    model: type[Model],
    given: Any,
    *,
    at: str = "",
    context: Mapping[str, Any] | None = None,
    strict: bool = True,
    is_json: bool = False,
) -> Model:
    """An instance of a model from a caller's value, or a BadRequest that lists everything that is wrong with it.

    `at` is where the value stands in the request; the location of the error begins with it. Not `strict` is for forms, whose
    values are all texts. `is_json` is for models of any kind of field: what JSON has no word for, a date for example, is then
    given as what JSON has, a text.
    """
    try:
        if is_json:
            return model.model_validate_json(
                json_codec.encode_strict(given), strict=strict, context=dict(context or {})
            )
        return model.model_validate(given, strict=strict, context=dict(context or {}))
    except ValidationError as exc:
        faults = [(_path(error["loc"], given, at), error) for error in exc.errors(include_url=False)]
        told = [f"`{path}`: {_sentence(error)}" if path else _sentence(error) for path, error in faults[:_MOST_FAULTS]]
        text = "; ".join(told) + (f"; and {len(faults) - _MOST_FAULTS} more" if len(faults) > _MOST_FAULTS else "")
        raise BadRequest(text if text.endswith("?") else f"{text}.", location=faults[0][0] or None) from exc


def _sentence(error: Any) -> str:
    # pydantic puts "Value error, " before the text of our own validators.
    own = error.get("ctx", {}).get("error")
    return str(own) if own is not None else str(error["msg"])


def _path(loc: tuple[int | str, ...], given: Any, at: str) -> str:
    """pydantic's location without the tags of unions, which are no part of the caller's value."""
    path = [at] if at else []
    for depth, part in enumerate(loc):
        inside = isinstance(given, (dict, list)) and part in (given if isinstance(given, dict) else range(len(given)))
        if inside:
            given = given[part]
        elif depth < len(loc) - 1:
            continue
        path.append(str(part))
    return ".".join(path)
