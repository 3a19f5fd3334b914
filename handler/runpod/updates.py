"""Progress updates of a job on their way to RunPod."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

logger = logging.getLogger(__name__)

# An update waits this long, so that a job that ends at once does not wait for its update.
_SOON_S = 0.1
_SEND_S = 5.0


class ProgressUpdates:
    """Passes the updates of one job from its thread to `send`: one at a time, always the latest, and none after `end`.

    An update that arrives after the job's result would take the result's place.
    """

    def __init__(self, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._send = send
        self._over = asyncio.Event()
        self._latest: dict[str, Any] | None = None
        self._sending: asyncio.Task[None] | None = None

    def put(self, progress: dict[str, Any]) -> None:
        """Send this unless a later one comes first. Safe to call from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the process is about to
            self._loop.call_soon_threadsafe(self._keep_latest, progress)

    async def end(self) -> None:
        """Let the update that is under way arrive, or give it up."""
        self._over.set()
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=_SEND_S)
            self._sending.cancel()

    def _keep_latest(self, progress: dict[str, Any]) -> None:
        self._latest = progress
        if self._sending is None or self._sending.done():
            self._sending = self._loop.create_task(self._send_latest())

    async def _send_latest(self) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._over.wait(), _SOON_S)
        while self._latest is not None and not self._over.is_set():
            progress, self._latest = self._latest, None
            try:
                await asyncio.wait_for(self._send(progress), _SEND_S)
            except Exception as exc:  # noqa: BLE001 (a job does not fail because its progress cannot be sent)
                logger.debug("an update could not be sent: %r", exc)
