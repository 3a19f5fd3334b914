"""Errors as ComfyUI writes them into its answers and messages."""

from typing import Any

Error = dict[str, Any]


def validation_error(kind: str, message: str, details: str, **extra_info: Any) -> Error:
    """One error of POST /prompt's answer."""
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


def exception_type(exc: BaseException) -> str:
    """The name of the exception's class, with its module unless it is built in."""
    cls = type(exc)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
