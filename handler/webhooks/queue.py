"""Webhooks on their way: on the disk first, then sent until the receiver has them."""

import logging
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import requests
import tenacity

from handler.net import guard
from handler.settings import Settings
from handler.webhooks.message import Delivery, DeliveryFailed, DeliveryRefused, Signer, post, receiver_host
from handler.webhooks.store import WebhookStore, address, logging_os_errors, read_deliveries

__all__ = ["Delivery", "Promise", "WebhookQueue"]

logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 30
_BACKOFF_S = 1.0
_LONGEST_BACKOFF_S = 30.0
# How often what could not be sent is tried again, and the webhooks of processes that died are looked for.
_SWEEP_INTERVAL_S = 300.0
_MAX_AGE_S = 3 * 24 * 3600
_MAX_BYTES = 2 << 30
# One per URL at a time, and few per host: a slow one holds up nobody else's webhooks.
_THREADS = 16
_THREADS_PER_HOST = _THREADS // 4
_STOP_S = 10.0
_LAST_MOMENT_S = 1.0


class Promise:
    """What an accepted job owes its caller's webhooks. Should the process die before it is kept, they tell a failure."""

    def __init__(self, settle: Callable[[Sequence[Delivery]], None]) -> None:
        self._settle = settle
        self._kept = threading.Lock()

    def keep(self, deliveries: Sequence[Delivery]) -> None:
        """Send these: all of them, or, if the process dies at this moment, what was promised. Later calls do nothing."""
        if self._kept.acquire(blocking=False):
            self._settle(deliveries)


class WebhookQueue:
    """Webhooks to callers. Each arrives at least once, under one id, whatever dies in between; sending never blocks a job.

    `send`, and `keep` of a promise, return when the webhooks are on the disk. Those of one job to one URL are sent in order.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        backoff_s: float = _BACKOFF_S,
        timeout_s: tuple[float, float] = (_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S),
        sweep_interval_s: float = _SWEEP_INTERVAL_S,
        max_age_s: float = _MAX_AGE_S,
        max_bytes: int = _MAX_BYTES,
    ) -> None:
        """Raises BadSettings. Nothing is read or written yet."""
        self._settings = settings
        self._signer = Signer(settings)
        self._spool = WebhookStore(settings.cache_dir / "webhooks", max_age_s=max_age_s, max_bytes=max_bytes)
        self._timeout_s = timeout_s
        self._sweep_interval_s = sweep_interval_s
        self._stopping = threading.Event()
        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(DeliveryFailed),
            stop=tenacity.stop_after_attempt(max(1, settings.prompt_webhook_retries))
            | tenacity.stop_when_event_set(self._stopping),
            wait=tenacity.wait_exponential(backoff_s, _LONGEST_BACKOFF_S) + tenacity.wait_random(0, backoff_s),
            sleep=tenacity.sleep_using_event(self._stopping),
            reraise=True,
        )
        self._sweeper = threading.Thread(target=self._sweep_again_and_again, name="webhook-sweep", daemon=True)
        self._changed = threading.Condition()
        self._lanes: list[_Lane] = []
        self._busy: dict[str, _Lane] = {}
        self._promised: set[str] = set()

    def start(self) -> None:
        """Send what is in the spool, and from now on what is added to it."""
        self._sweeper.start()

    def stop(self, timeout_s: float = _STOP_S) -> None:
        """Send what is waiting, as far as the time allows. The rest stays on the disk for the next start."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lanes and not self._busy, timeout_s if self._started else 0)
        self._stopping.set()
        if self._started:
            self._sweeper.join(_LAST_MOMENT_S)
        with self._changed:
            idle = self._changed.wait_for(lambda: not self._busy, _LAST_MOMENT_S) and not self._sweeper.is_alive()
        if idle and not self._promised:
            self._spool.close()

    def send(self, *deliveries: Delivery) -> None:
        try:
            self._enqueue(self._spool.add(secrets.token_hex(8), deliveries))
        except OSError as exc:
            self._send_unsaved(deliveries, exc)

    def promise(self, if_lost: Sequence[Delivery]) -> Promise:
        """Promise the webhooks of an accepted job. These are sent should the process die before the promise is kept."""
        if not if_lost:
            return Promise(lambda deliveries: self.send(*deliveries) if deliveries else None)
        group = secrets.token_hex(8)
        try:
            self._spool.promise(group, if_lost)
        except OSError as exc:
            logger.error("job %r: its webhooks are lost if this process dies: %s", if_lost[0].webhook_id, exc)
        self._promised.add(group)
        return Promise(partial(self._settle, group))

    def _settle(self, group: str, deliveries: Sequence[Delivery]) -> None:
        try:
            self._enqueue(self._spool.settle(group, deliveries))
        except OSError as exc:
            with suppress(OSError):
                self._spool.break_promise(group)
            self._send_unsaved(deliveries, exc)
        self._promised.discard(group)

    def _send_unsaved(self, deliveries: Sequence[Delivery], reason: OSError) -> None:
        for delivery in deliveries:
            logger.error(
                "job %r: its webhook is not on the disk, and lost at a restart: %s", delivery.webhook_id, reason
            )
        self._enqueue(deliveries)

    @property
    def _started(self) -> bool:
        return self._sweeper.ident is not None

    def _sweep_again_and_again(self) -> None:
        while not self._stopping.is_set():
            try:
                self._enqueue(self._spool.waiting())
            except OSError as exc:
                logger.error("undelivered webhooks cannot be read: %s", exc)
            self._stopping.wait(self._sweep_interval_s)

    def _enqueue(self, letters: "Sequence[Letter]") -> None:
        if not self._started or self._stopping.is_set():
            return
        with self._changed:
            queued = [letter for lane in [*self._lanes, *self._busy.values()] for letter in lane.letters]
            known = {letter for letter in queued if isinstance(letter, Path)}
            lanes = _lanes(letter for letter in letters if letter not in known)
            self._lanes += lanes
        for _ in lanes[:_THREADS]:
            threading.Thread(target=self._work, name="webhooks", daemon=True).start()

    def _work(self) -> None:
        while (lane := self._next()) is not None:
            try:
                self._serve(lane)
            finally:
                with self._changed:
                    del self._busy[lane.receiver]
                    self._changed.notify_all()

    def _next(self) -> "_Lane | None":
        """A lane that may be served now. Who finds none ends: those who serve look again afterwards."""
        with self._changed:
            if self._stopping.is_set() or len(self._busy) >= _THREADS:
                return None
            hosts = Counter(lane.host for lane in self._busy.values())
            full = {host for host, served in hosts.items() if served >= _THREADS_PER_HOST}
            free = (lane for lane in self._lanes if lane.receiver not in self._busy and lane.host not in full)
            lane = next(free, None)
            if lane is not None:
                self._lanes.remove(lane)
                self._busy[lane.receiver] = lane
            return lane

    def _serve(self, lane: "_Lane") -> None:
        with guard.new_session(
            allow_private=self._settings.allow_private_urls, proxies=self._settings.proxies
        ) as session:
            for letter in lane.letters:
                if self._stopping.is_set():
                    return
                if isinstance(letter, Path):
                    with logging_os_errors(letter):
                        self._serve_saved(letter, session)
                else:
                    self._delivered(letter, session)

    def _serve_saved(self, path: Path, session: requests.Session) -> None:
        for delivery in read_deliveries(path):
            if self._delivered(delivery, session):
                path.unlink(missing_ok=True)

    def _delivered(self, delivery: Delivery, session: requests.Session) -> bool:
        """Whether a webhook is done with: it has arrived, or never will."""
        try:
            self._retrying(self._try, delivery, session)
        except DeliveryRefused as exc:
            logger.error(
                "job %r: its webhook to %s is dropped: %s", delivery.webhook_id, receiver_host(delivery.url), exc
            )
        except DeliveryFailed as exc:
            logger.warning("job %r: its webhook to %s waits: %s", delivery.webhook_id, receiver_host(delivery.url), exc)
            return False
        return True

    def _try(self, delivery: Delivery, session: requests.Session) -> None:
        headers = self._signer.headers(delivery.webhook_id, delivery.body) if delivery.standard else {}
        post(delivery.url, delivery.body, headers, session, self._timeout_s)


Letter = Path | Delivery
"""A webhook on the disk; in memory, when the disk did not take it."""


@dataclass(frozen=True, eq=False)
class _Lane:
    """Webhooks that are sent one after the other: those of one job to one receiver, which is one URL of a host."""

    host: str
    receiver: str
    letters: tuple[Letter, ...]


def _lanes(letters: Iterable[Letter]) -> list[_Lane]:
    lanes: dict[tuple[str, str, str], list[Letter]] = {}
    for letter in letters:
        lanes.setdefault(address(letter), []).append(letter)
    return [_Lane(host, receiver, tuple(found)) for (host, receiver, _), found in lanes.items()]
