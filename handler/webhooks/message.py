"""What webhooks say and how they say it: the bodies, the headers of the Standard Webhooks rules, one try of sending."""

import base64
import binascii
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from standardwebhooks import Webhook

from handler import json_codec
from handler.errors import ForbiddenUrl, HandlerError
from handler.net import deadline
from handler.schemas.request import Options
from handler.schemas.result import Result
from handler.settings import BadSettings, Settings

# 4xx that say nothing about the request itself; after any other the same request would fail again.
_PASSING = {408, 409, 425, 429}
# Bytes per second that a receiver has to take, beyond its time-outs.
_SLOWEST = 100_000


class DeliveryFailed(Exception):
    """A try failed; another one may do better."""


class DeliveryRefused(Exception):
    """It will never arrive."""


@dataclass(frozen=True)
class Delivery:
    """One webhook to be sent: a JSON body for a URL that a caller chose.

    `webhook_id` is the caller's id of the job. `standard`: with the headers of the Standard Webhooks rules, signed when there
    is a secret.
    """

    url: str
    webhook_id: str
    body: bytes
    standard: bool = False


def succeeded(request: Options, result: Result) -> list[Delivery]:
    """What a finished job's hooks get.

    `webhook`: one `output.complete` per file, in order, each with `output`, the file's entry. Texts are no files: all of the
    job's are in `texts` of each; a job without files gets one `output.complete` without `image`, `filename` and `output`.
    `webhook_v2`: one `prompt.complete` with the whole answer.
    """
    answer = result.answer()
    made = [_delivery(request.webhook, request.id, body) for body in _complete(answer)] if request.webhook else []
    if request.webhook_v2:
        made.append(_standard(request.webhook_v2, request.id, "prompt.complete", answer))
    return made


def failed(request: Options, prompt: Mapping[str, Any], error: Exception) -> list[Delivery]:
    """What a failed job's hooks get: one `prompt.failed` each. What is no HandlerError says nothing of itself."""
    if not isinstance(error, HandlerError):
        error = HandlerError("Internal error; the server's log says more.")
    body = {"id": request.id, "prompt": prompt, **error.answer()}
    made = [_delivery(request.webhook, request.id, {"event": "prompt.failed", **body})] if request.webhook else []
    if request.webhook_v2:
        made.append(_standard(request.webhook_v2, request.id, "prompt.failed", body))
    return made


def post(
    url: str, body: bytes, headers: Mapping[str, str], session: requests.Session, timeout_s: tuple[float, float]
) -> None:
    """One try. Redirects are not followed: the signature would go where nobody asked for it. Raises Failed or Refused."""
    end = time.monotonic() + sum(timeout_s) + len(body) / _SLOWEST
    headers = {"Content-Type": "application/json", **headers}
    try:
        with (
            deadline.within(end),
            # The status is all that counts; the rest of the answer is not read.
            session.post(
                url, data=body, headers=headers, timeout=timeout_s, allow_redirects=False, stream=True
            ) as answer,
        ):
            status = answer.status_code
    except ForbiddenUrl as exc:
        raise DeliveryRefused("it is not at a public address") from exc
    except ValueError as exc:
        raise DeliveryRefused("the URL cannot be used") from exc
    except (requests.RequestException, OSError) as exc:
        raise DeliveryFailed(type(exc).__name__) from exc
    if 400 <= status < 500 and status not in _PASSING:
        raise DeliveryRefused(f"it answered {status}")
    if not 200 <= status < 300:
        raise DeliveryFailed(f"it answered {status}")


class Signer:
    """The headers of the Standard Webhooks rules."""

    def __init__(self, settings: Settings) -> None:
        """Raises BadSettings for a WEBHOOK_SECRET that is no base64, with or without `whsec_` and padding."""
        secret = settings.webhook_secret.get_secret_value() if settings.webhook_secret else None
        self._webhook = None if secret is None else Webhook(_key(secret))

    def headers(self, webhook_id: str, body: bytes) -> dict[str, str]:
        """Fresh for every try: a receiver refuses an old timestamp."""
        now, shown = datetime.now(UTC), header_id(webhook_id)
        headers = {"webhook-id": shown, "webhook-timestamp": str(int(now.timestamp()))}
        if self._webhook is not None:
            headers["webhook-signature"] = self._webhook.sign(shown, now, body.decode())
        return headers


def header_id(webhook_id: str) -> str:
    """An id as a header can carry it: percent-encoded where it is not printable ASCII, or a space that would be trimmed."""
    return re.sub(r"[^ -~]|^ +| +\Z", lambda part: quote(part[0], safe="", errors="surrogatepass"), webhook_id)


def receiver_host(url: str) -> str:
    """Whose URL it is: host and port. The rest may hold a password or a token."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        return ""


def _complete(answer: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    common = {"id": answer["id"], "prompt": answer["prompt"], "stats": answer["stats"]}
    texts = [output for output in answer["outputs"] if "filename" not in output]
    rest = {**common, "texts": texts} if texts else common
    if not answer["images"]:
        yield {"event": "output.complete", **rest}
    files = [output for output in answer["outputs"] if "filename" in output]
    for image, filename, output in zip(answer["images"], answer["filenames"], files, strict=True):
        yield {"event": "output.complete", "image": image, "filename": filename, "output": output, **rest}


def _standard(url: str, request_id: str, kind: str, body: Mapping[str, Any]) -> Delivery:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return _delivery(url, request_id, {"type": kind, "timestamp": now, **body}, standard=True)


def _delivery(url: str, request_id: str, body: Mapping[str, Any], *, standard: bool = False) -> Delivery:
    return Delivery(url, request_id, json_codec.encode(body), standard)


def _key(secret: str) -> bytes:
    text = secret.removeprefix("whsec_").rstrip("=")
    try:
        # Padding that is too long does no harm, not even to a strict decoder.
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        # Without the value: it is a secret.
        raise BadSettings("WEBHOOK_SECRET must be base64, with or without whsec_ in front.")
    return key
