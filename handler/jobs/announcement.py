"""What the caller's webhooks say of a job: that it has finished, or why it failed."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from handler import json_codec
from handler.errors import HandlerError, InternalError
from handler.schemas import Options, Result
from handler.webhooks import Delivery


def success_webhooks(request: Options, result: Result) -> list[Delivery]:
    """The webhooks of a finished job.

    `webhook`: one `output.complete` per file, in order, each with `output`, the file's entry. Texts are not files: all of the
    job's are in `texts` of each; a job without files gets one `output.complete` without `image`, `filename` and `output`.
    `webhook_v2`: one `prompt.complete` with the whole answer.
    """
    answer = result.answer()
    webhooks = []
    if request.webhook:
        webhooks += [_delivery(request.webhook, request.id, body) for body in _output_bodies(answer)]
    if request.webhook_v2:
        webhooks.append(_standard_delivery(request.webhook_v2, request.id, "prompt.complete", answer))
    return webhooks


def failure_webhooks(request: Options, graph: Mapping[str, Any], error: Exception) -> list[Delivery]:
    """The webhooks of a failed job: one `prompt.failed` each. They do not show the text of an error that is a bug."""
    if not isinstance(error, HandlerError):
        error = InternalError()
    body = {"id": request.id, "prompt": graph, **error.answer()}
    webhooks = []
    if request.webhook:
        webhooks.append(_delivery(request.webhook, request.id, {"event": "prompt.failed", **body}))
    if request.webhook_v2:
        webhooks.append(_standard_delivery(request.webhook_v2, request.id, "prompt.failed", body))
    return webhooks


def _output_bodies(answer: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    common = {"id": answer["id"], "prompt": answer["prompt"], "stats": answer["stats"]}
    texts = [output for output in answer["outputs"] if "filename" not in output]
    rest = {**common, "texts": texts} if texts else common
    if not answer["images"]:
        yield {"event": "output.complete", **rest}
    files = [output for output in answer["outputs"] if "filename" in output]
    for image, filename, output in zip(answer["images"], answer["filenames"], files, strict=True):
        yield {"event": "output.complete", "image": image, "filename": filename, "output": output, **rest}


def _standard_delivery(url: str, request_id: str, kind: str, body: Mapping[str, Any]) -> Delivery:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return _delivery(url, request_id, {"type": kind, "timestamp": now, **body}, standard=True)


def _delivery(url: str, request_id: str, body: Mapping[str, Any], *, standard: bool = False) -> Delivery:
    return Delivery(url, request_id, json_codec.encode(body), standard)
