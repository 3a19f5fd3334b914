"""Parses an event, `{"id"?, "input": {...}}`, into the request of its dialect."""

from collections.abc import Mapping
from typing import Any

from handler import json_codec
from handler.errors import BadRequest
from handler.schemas.request import PromptRequest, WorkflowRequest
from handler.schemas.worker_comfyui import WorkerRequest
from handler.validation import validate

Request = PromptRequest | WorkflowRequest | WorkerRequest


def parse_event(event: Mapping[str, Any]) -> Request:
    """The request in an event. Raises BadRequest."""
    given = event.get("input")
    if not isinstance(given, dict):
        raise BadRequest("The event needs an `input` object with a `prompt` or a `workflow`.", location="input")
    if isinstance(event.get("id"), str):
        given = {"id": event["id"], **given}
    json_codec.check(given)
    if "workflow" in given and "prompt" not in given:
        if isinstance(given["workflow"], dict):
            return validate(WorkerRequest, given)
        return validate(WorkflowRequest, given)
    return validate(PromptRequest, given)
