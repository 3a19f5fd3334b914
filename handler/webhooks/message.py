"""A webhook: what it consists of, the headers of the Standard Webhooks rules, and one try of sending it."""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

import requests
from standardwebhooks import Webhook

from handler.errors import ForbiddenUrl
from handler.net import deadline
from handler.settings import BadSettings, Settings

# The 4xx after which the same request may succeed.
_TEMPORARY = {408, 409, 425, 429}
# How slowly a receiver may take a body, in bytes per second, beyond its time-outs.
_MIN_SPEED = 100_000


class DeliveryFailed(Exception):
    """A try failed; another one may succeed."""


class DeliveryRefused(Exception):
    """The webhook cannot be delivered; further tries are useless."""


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


def post(
    url: str, body: bytes, headers: Mapping[str, str], session: requests.Session, timeout_s: tuple[float, float]
) -> None:
    """One try. Redirects are not followed: the signature would go to a server that nobody named.

    Raises DeliveryFailed or DeliveryRefused.
    """
    headers = {"Content-Type": "application/json", **headers}
    try:
        with (
            deadline.within_s(sum(timeout_s) + len(body) / _MIN_SPEED),
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
    if 400 <= status < 500 and status not in _TEMPORARY:
        raise DeliveryRefused(f"it answered {status}")
    if not 200 <= status < 300:
        raise DeliveryFailed(f"it answered {status}")


class Signer:
    """The headers of the Standard Webhooks rules."""

    def __init__(self, settings: Settings) -> None:
        """Raises BadSettings for a WEBHOOK_SECRET that is not base64, with or without `whsec_` and padding."""
        secret = settings.webhook_secret.get_secret_value() if settings.webhook_secret else None
        self._webhook = None if secret is None else Webhook(_key(secret))

    def headers(self, webhook_id: str, body: bytes) -> dict[str, str]:
        """Fresh for every try: a receiver refuses an old timestamp."""
        now, shown_id = datetime.now(UTC), header_id(webhook_id)
        headers = {"webhook-id": shown_id, "webhook-timestamp": str(int(now.timestamp()))}
        if self._webhook is not None:
            headers["webhook-signature"] = self._webhook.sign(shown_id, now, body.decode())
        return headers


def header_id(webhook_id: str) -> str:
    """An id as a header can carry it: percent-encoded where it is not printable ASCII, or a space at either end."""
    return re.sub(r"[^ -~]|^ +| +\Z", lambda part: quote(part[0], safe="", errors="surrogatepass"), webhook_id)


def receiver_host(url: str) -> str:
    """Host and port of a URL. The rest may hold a password or a token."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        return ""


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
