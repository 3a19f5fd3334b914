"""Sends events to the operator's own webhook: ComfyUI's messages about each prompt, and what happens to files."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any
from uuid import uuid4

import requests
import tenacity

from handler import json_codec
from handler.comfyui import Message
from handler.net import new_session
from handler.settings import BadSettings, Settings
from handler.webhooks.message import DeliveryFailed, DeliveryRefused, Signer, post

logger = logging.getLogger(__name__)

_COMFY = (
    "status",
    "progress",
    "progress_state",
    "executing",
    "execution_start",
    "execution_cached",
    "executed",
    "execution_success",
    "execution_interrupted",
    "execution_error",
)
_STORAGE = ("file_downloaded", "file_uploaded", "file_deleted", "file_failed")
_NAMES = {name: f"comfy.{name}" for name in _COMFY} | {name: f"storage.{name}" for name in _STORAGE}

_MAX_WAITING = 1000
_TIMEOUT_S = 5.0
_TRIES = 2
_PAUSE_S = 0.5
_REPORT_INTERVAL_S = 60.0
_STOP_S = 2.0


class SystemEvents:
    """The events of SYSTEM_WEBHOOK_EVENTS, sent to SYSTEM_WEBHOOK_URL in order, by one thread.

    Events may be lost: one that finds the queue full, or does not arrive at the second try, is dropped. Sending blocks nobody.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        max_waiting: int = _MAX_WAITING,
        timeout_s: float = _TIMEOUT_S,
        pause_s: float = _PAUSE_S,
    ) -> None:
        """Raises BadSettings. Nothing is started yet."""
        self._names = _subscription(settings)
        self._url = settings.system_webhook_url or ""
        self._metadata = settings.system_meta
        self._proxies = settings.proxies
        self._signer = Signer(settings)
        self._max_waiting = max_waiting
        self._timeout_s = timeout_s
        self._waiting: SimpleQueue[tuple[str, Callable[[], Any]] | None] = SimpleQueue()
        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(DeliveryFailed),
            stop=tenacity.stop_after_attempt(_TRIES),
            wait=tenacity.wait_fixed(pause_s),
            reraise=True,
        )
        self._thread = threading.Thread(target=self._work, name="system-events", daemon=True)
        self._losses = _Losses()
        self._last_status: Any = None

    def start(self) -> None:
        if self._names:
            self._thread.start()

    def stop(self, timeout_s: float = _STOP_S) -> None:
        """Send what waits, as far as the time allows."""
        self._names = {}
        if self._thread.ident is not None:
            self._waiting.put(None)
            self._thread.join(timeout_s)

    def emit(self, event: str, data: Any) -> None:
        """Send an event, such as `file_uploaded`, if it is subscribed to. `data` is JSON that must not change any more."""
        self._emit(event, lambda: data)

    def for_prompt(self, prompt_id: str, caller_id: str, folder: str) -> Callable[[Message], None]:
        """What to call with a prompt's messages. They are sent with the caller's id, and without the job's folder."""
        if not self._names:
            return lambda _: None

        def tell(message: Message) -> None:
            kind = message.get("type")
            if kind == "status":
                self._status(message)
            elif kind in _COMFY:
                self._emit(str(kind), lambda: _translate(message, prompt_id, caller_id, folder))

        return tell

    def _status(self, message: Message) -> None:
        """The state of ComfyUI's queue. Each prompt's websocket repeats it; each state is sent once."""
        status = message.get("data", {}).get("status")
        if status != self._last_status:
            self._last_status = status
            self._emit("status", lambda: message)

    def _emit(self, event: str, data: Callable[[], Any]) -> None:
        name = self._names.get(event)
        if name is None:
            return
        if self._waiting.qsize() < self._max_waiting:
            self._waiting.put((name, data))
        else:
            self._losses.count("there is no room for more")

    def _work(self) -> None:
        # The operator chose the URL, so its address may be private.
        with new_session(allow_private=True, proxies=self._proxies) as session:
            while (waiting := self._waiting.get()) is not None:
                name, data = waiting
                try:
                    body = json_codec.encode({"event": name, "data": data(), "metadata": self._metadata})
                    self._retrying(self._try, str(uuid4()), body, session)
                except (DeliveryFailed, DeliveryRefused, TypeError, ValueError) as exc:
                    self._losses.count(str(exc))

    def _try(self, webhook_id: str, body: bytes, session: requests.Session) -> None:
        post(self._url, body, self._signer.headers(webhook_id, body), session, (self._timeout_s, self._timeout_s))


class _Losses:
    """Counts dropped events, and logs their number once a minute at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._quiet_until = 0.0

    def count(self, reason: str) -> None:
        with self._lock:
            self._count += 1
            if time.monotonic() < self._quiet_until:
                return
            count, self._count = self._count, 0
            self._quiet_until = time.monotonic() + _REPORT_INTERVAL_S
        logger.warning("%d system events were dropped, the last because: %s", count, reason)


def _subscription(settings: Settings) -> Mapping[str, str]:
    """Event to its name in the webhook."""
    given = {name.strip() for name in settings.system_webhook_events.split(",")} - {""}
    unknown = sorted(given - _NAMES.keys() - {"all"})
    if unknown:
        raise BadSettings(
            f"SYSTEM_WEBHOOK_EVENTS: there is no {', '.join(unknown)}; there are: all, {', '.join(_NAMES)}."
        )
    if given and not settings.system_webhook_url:
        logger.warning("SYSTEM_WEBHOOK_EVENTS is set without SYSTEM_WEBHOOK_URL: no events are sent")
        return {}
    return {event: name for event, name in _NAMES.items() if event in given or "all" in given}


def _translate(value: Any, prompt_id: str, caller_id: str, folder: str) -> Any:
    """JSON with the caller's id in place of ours, and without the job's folder in file names."""
    if isinstance(value, str):
        text = value.replace(f"{folder}/", "").replace(prompt_id, caller_id)
        return text.removesuffix(folder)
    if isinstance(value, list):
        return [_translate(item, prompt_id, caller_id, folder) for item in value]
    if isinstance(value, Mapping):
        return {key: _translate(item, prompt_id, caller_id, folder) for key, item in value.items()}
    return value
