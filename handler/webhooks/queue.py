"""Sends webhooks to callers: they are written to the disk first, then sent until the receiver has them."""

import logging
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import requests
import tenacity

from handler.net import new_session
from handler.settings import Settings
from handler.threads import ThreadPool
from handler.webhooks.message import Delivery, DeliveryFailed, DeliveryRefused, Signer, post, receiver_host
from handler.webhooks.store import WebhookStore, address, logging_os_errors, read_deliveries

__all__ = ["Delivery", "Promise", "WebhookQueue"]

logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 30
_BACKOFF_S = 1.0
_LONGEST_BACKOFF_S = 30.0
# How often undelivered webhooks are sent again, and those of processes that died are looked for.
_SWEEP_INTERVAL_S = 300.0
_MAX_AGE_S = 3 * 24 * 3600
_MAX_BYTES = 2 << 30
# One per URL at a time, and few per host: a slow host does not hold up the webhooks to others.
_THREADS = 16
_THREADS_PER_HOST = _THREADS // 4
_STOP_S = 10.0
_LAST_MOMENT_S = 1.0


class Promise:
    """The webhooks that an accepted job owes its caller. If the process dies before it is kept, they announce a failure."""

    def __init__(self, settle: Callable[[Sequence[Delivery]], None]) -> None:
        self._settle = settle
        self._kept = threading.Lock()

    def keep(self, deliveries: Sequence[Delivery]) -> None:
        """Send these: all of them, or, if the process dies just now, those that were promised. Later calls do nothing."""
        if self._kept.acquire(blocking=False):
            self._settle(deliveries)


class WebhookQueue:
    """Webhooks to callers. Each arrives at least once, under one id, even if processes die; sending never blocks a job.

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
        self._store = WebhookStore(settings.cache_dir / "webhooks", max_age_s=max_age_s, max_bytes=max_bytes)
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
        self._sweeper = threading.Thread(target=self._sweep, name="webhook-sweep", daemon=True)
        self._changed = threading.Condition()
        self._pool = ThreadPool(_THREADS, "webhooks")
        self._waiting: list[_Batch] = []
        self._sending: dict[str, _Batch] = {}
        self._promised: set[str] = set()

    def start(self) -> None:
        """Send what is on the disk, and from now on what is added to it."""
        self._sweeper.start()

    def stop(self, timeout_s: float = _STOP_S) -> None:
        """Send what waits, as far as the time allows. The rest stays on the disk for the next start."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._sending, timeout_s if self._started else 0)
        self._stopping.set()
        if self._started:
            self._sweeper.join(_LAST_MOMENT_S)
        with self._changed:
            idle = self._changed.wait_for(lambda: not self._sending, _LAST_MOMENT_S) and not self._sweeper.is_alive()
        if idle and not self._promised:
            self._store.close()

    def send(self, *deliveries: Delivery) -> None:
        try:
            self._enqueue(self._store.add(secrets.token_hex(8), deliveries))
        except OSError as exc:
            self._send_unsaved(deliveries, exc)

    def promise(self, if_lost: Sequence[Delivery]) -> Promise:
        """Promise the webhooks of an accepted job. `if_lost` is sent if the process dies before it keeps them."""
        if not if_lost:
            return Promise(lambda deliveries: self.send(*deliveries) if deliveries else None)
        group = secrets.token_hex(8)
        try:
            self._store.promise(group, if_lost)
        except OSError as exc:
            logger.error("job %r: its webhooks are lost if this process dies: %s", if_lost[0].webhook_id, exc)
        self._promised.add(group)
        return Promise(partial(self._settle, group))

    def _settle(self, group: str, deliveries: Sequence[Delivery]) -> None:
        try:
            self._enqueue(self._store.settle(group, deliveries))
        except OSError as exc:
            with suppress(OSError):
                self._store.break_promise(group)
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

    def _sweep(self) -> None:
        while not self._stopping.is_set():
            try:
                self._enqueue(self._store.waiting())
            except OSError as exc:
                logger.error("undelivered webhooks cannot be read: %s", exc)
            self._stopping.wait(self._sweep_interval_s)

    def _enqueue(self, webhooks: "Sequence[StoredWebhook]") -> None:
        if not self._started or self._stopping.is_set():
            return
        with self._changed:
            queued = [webhook for batch in [*self._waiting, *self._sending.values()] for webhook in batch.webhooks]
            known = {webhook for webhook in queued if isinstance(webhook, Path)}
            self._waiting += _batches(webhook for webhook in webhooks if webhook not in known)
        self._submit_ready()

    def _submit_ready(self) -> None:
        """Hand to the threads what may be sent now."""
        with self._changed:
            while (batch := self._next()) is not None:
                self._waiting.remove(batch)
                self._sending[batch.receiver] = batch
                # Without the context, and so without the deadline, of the job that sends it.
                Context().run(self._pool.submit, self._work, batch)

    def _next(self) -> "_Batch | None":
        """A batch that may be sent now, if there is one."""
        if self._stopping.is_set() or len(self._sending) >= _THREADS:
            return None
        hosts = Counter(batch.host for batch in self._sending.values())
        full = {host for host, number in hosts.items() if number >= _THREADS_PER_HOST}
        ready = (batch for batch in self._waiting if batch.receiver not in self._sending and batch.host not in full)
        return next(ready, None)

    def _work(self, batch: "_Batch") -> None:
        try:
            self._send_batch(batch)
        except Exception:
            logger.exception("webhooks wait for the next sweep: a bug")
        finally:
            with self._changed:
                del self._sending[batch.receiver]
                self._changed.notify_all()
            self._submit_ready()

    def _send_batch(self, batch: "_Batch") -> None:
        with new_session(allow_private=self._settings.allow_private_urls, proxies=self._settings.proxies) as session:
            for webhook in batch.webhooks:
                if self._stopping.is_set():
                    return
                if isinstance(webhook, Path):
                    with logging_os_errors(webhook):
                        self._send_file(webhook, session)
                else:
                    self._deliver(webhook, session)

    def _send_file(self, path: Path, session: requests.Session) -> None:
        for delivery in read_deliveries(path):
            if self._deliver(delivery, session):
                path.unlink(missing_ok=True)

    def _deliver(self, delivery: Delivery, session: requests.Session) -> bool:
        """Send a webhook, several times if need be. False: it has to be sent again later."""
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


StoredWebhook = Path | Delivery
"""A webhook on the disk; or in memory, when the disk did not take it."""


@dataclass(frozen=True, eq=False)
class _Batch:
    """Webhooks that are sent one after the other: those of one job to one receiver, which is one URL of a host."""

    host: str
    receiver: str
    webhooks: tuple[StoredWebhook, ...]


def _batches(webhooks: Iterable[StoredWebhook]) -> list[_Batch]:
    batches: dict[tuple[str, str, str], list[StoredWebhook]] = {}
    for webhook in webhooks:
        batches.setdefault(address(webhook), []).append(webhook)
    return [_Batch(host, receiver, tuple(each)) for (host, receiver, _), each in batches.items()]
