"""Validates callers' values with pydantic models, and words the errors."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from handler import json_codec
from handler.errors import BadRequest

Model = TypeVar("Model", bound=BaseModel)

_MAX_ERRORS = 20


def validate(
    model: type[Model],
    given: Any,
    *,
    at: str = "",
    context: Mapping[str, Any] | None = None,
    strict: bool = True,
    is_json: bool = False,
) -> Model:
    """An instance of the model. Raises BadRequest, whose message lists all errors.

    `at` is the location of the value in the request. `strict` is False for forms, whose values are texts. `is_json` is for
    models with fields of types that JSON does not have, such as dates, which are then given as texts.
    """
    try:
        if is_json:
            return model.model_validate_json(
                json_codec.encode_strict(given), strict=strict, context=dict(context or {})
            )
        return model.model_validate(given, strict=strict, context=dict(context or {}))
    except ValidationError as exc:
        errors = [(_path(error["loc"], given, at), error) for error in exc.errors(include_url=False)]
        sentences = [
            f"`{path}`: {_sentence(error)}" if path else _sentence(error) for path, error in errors[:_MAX_ERRORS]
        ]
        text = "; ".join(sentences) + (f"; and {len(errors) - _MAX_ERRORS} more" if len(errors) > _MAX_ERRORS else "")
        raise BadRequest(text if text.endswith("?") else f"{text}.", location=errors[0][0] or None) from exc


def _sentence(error: Any) -> str:
    # pydantic prefixes the text of our own validators with "Value error, ".
    own = error.get("ctx", {}).get("error")
    return str(own) if own is not None else str(error["msg"])


def _path(loc: tuple[int | str, ...], given: Any, at: str) -> str:
    """pydantic's location without the tags of unions, which are not in the caller's value."""
    path = [at] if at else []
    for depth, part in enumerate(loc):
        inside = isinstance(given, (dict, list)) and part in (given if isinstance(given, dict) else range(len(given)))
        if inside:
            given = given[part]
        elif depth < len(loc) - 1:
            continue
        path.append(str(part))
    return ".".join(path)
