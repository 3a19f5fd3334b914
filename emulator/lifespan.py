"""The life of the server: ComfyUI is started in the background, and jobs are ended at a shutdown."""

import asyncio
import logging
import threading
from collections.abc import Callable

from emulator.adapter import Adapter
from emulator.salad import DeletionCost
from handler import HandlerError, Lifecycle, Settings
from handler.settings import BadSettings

logger = logging.getLogger(__name__)

END_S = 15
"""What ended jobs get to clean up and to tell their webhooks."""


class Lifespan:
    """Owns the Lifecycle and the Adapter of one server.

    `on_warm` is called once ComfyUI is warm, `on_end` when the server has to end: then `exit_code` is set.
    """

    def __init__(self, settings: Settings, on_warm: Callable[[], None], on_end: Callable[[], None]) -> None:
        """Raises BadSettings or BadWorkflow."""
        self.lifecycle = Lifecycle(settings, on_exit=self._comfyui_ended)
        self.adapter = Adapter(self.lifecycle)
        self.exit_code = 0
        self._grace_s = settings.shutdown_grace_s
        self._on_warm = on_warm
        self._on_end = on_end
        self._deletion_cost = DeletionCost(settings.salad_metadata_url) if settings.on_salad else None
        if self._deletion_cost:
            self.adapter.on_job_count = self._deletion_cost.set
        self._ending: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start ComfyUI in the background; the server listens meanwhile, and /health says that it is not healthy."""
        self.adapter.open()
        threading.Thread(target=self._start, name="start", daemon=True).start()
        if self._deletion_cost:
            self._deletion_cost.start()

    def begin_end(self) -> None:
        """Take nothing new. What runs gets SHUTDOWN_GRACE_S; what is left then ends with ServerStopped."""
        if self._ending is None:
            self._ending = asyncio.create_task(self.adapter.end_jobs(self._grace_s, END_S))

    async def end(self) -> None:
        """End all requests as `begin_end` says, and ComfyUI with them."""
        try:
            self.begin_end()
            assert self._ending is not None
            await self._ending
        finally:
            await self.adapter.ask(self.lifecycle.stop)
            if self._deletion_cost:
                self._deletion_cost.stop()

    def _start(self) -> None:
        try:
            self.lifecycle.start()
        except (HandlerError, BadSettings) as exc:
            self._end_process(1, f"cannot start: {exc}")
        except Exception:
            logger.exception("cannot start")
            self._end_process(1, "cannot start: a bug")
        else:
            self._on_warm()

    def _comfyui_ended(self, code: int) -> None:
        self._end_process(code or 1, "ComfyUI ended, and so does this server")

    def _end_process(self, code: int, reason: str) -> None:
        if self._ending is None:
            logger.error("%s", reason)
            self.exit_code = code
            self._on_end()
