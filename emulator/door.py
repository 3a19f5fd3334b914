"""The handler behind the HTTP API: its ComfyUI's life, and the threads that its work runs on."""

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import anyio
from anyio import to_thread

from emulator.errors import QueueFull
from emulator.salad import DeletionCost
from handler import HandlerError, Host, Job, Result, Service, Settings, execute, prepare
from handler.result import encoded
from handler.settings import BadSettings

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Prompts that wait for the GPU hold a thread each, up to this many; the rest waits for a thread, in order of arrival.
_EXECUTE_THREADS = 32
_PREPARE_THREADS = 16
_PROBE_THREADS = 4
# What an interrupted job needs to clean up and to leave word.
_INTERRUPT_S = 15


class Door:
    """What the routes need. `on_warm` and `on_end` are told when it is ready, and when it is over by itself."""

    def __init__(
        self, settings: Settings, on_warm: Callable[[], None] = lambda: None, on_end: Callable[[], None] = lambda: None
    ) -> None:
        self.host = Host(settings, on_exit=self._comfyui_ended)
        self._pending = 0
        salad = settings.salad_metadata_url if settings.on_salad else None
        self._deletion_cost = DeletionCost(salad) if salad else None
        self.exit_code = 0
        self._on_warm = on_warm
        self._on_end = on_end
        self._closing = False
        # The jobs that have not finished, by prompt id; and those among them that no thread has yet.
        self._jobs: dict[str, Job] = {}
        self._waiting: set[str] = set()
        self._background: set[asyncio.Task[None]] = set()
        # Not AnyIO's default limiter: what waits in these must not delay a probe.
        self._preparing = anyio.CapacityLimiter(_PREPARE_THREADS)
        self._executing = anyio.CapacityLimiter(_EXECUTE_THREADS)
        self._probing = anyio.CapacityLimiter(_PROBE_THREADS)
        self._starter = threading.Thread(target=self._start, name="start", daemon=True)

    @property
    def service(self) -> Service:
        return self.host.service

    @property
    def pending(self) -> int:
        """How many requests have been taken and not been finished."""
        return self._pending

    def _count(self, change: int) -> None:
        self._pending += change
        if self._deletion_cost:
            self._deletion_cost.set(self._pending)

    def open(self) -> None:
        """Bring ComfyUI up in the background; the server listens meanwhile, and /health says that it is not healthy."""
        self._starter.start()
        if self._deletion_cost:
            self._deletion_cost.start()

    async def close(self) -> None:
        """End: what runs gets SHUTDOWN_GRACE_S, what is left then is interrupted, and its webhooks say so."""
        self._closing = True
        grace = self.service.settings.shutdown_grace_s
        if self._background:
            await asyncio.wait(self._background, timeout=grace)
        for job in self._jobs.values():
            await self.ask(partial(self._interrupt, job))
        if self._background:
            await asyncio.wait(self._background, timeout=_INTERRUPT_S)
        await to_thread.run_sync(self.host.stop, limiter=self._probing)
        if self._deletion_cost:
            self._deletion_cost.stop()

    async def ask(self, question: Callable[[], T]) -> T:
        """Something short about ComfyUI, on a thread that no prompt holds."""
        return await to_thread.run_sync(question, limiter=self._probing)

    async def admit(self, event: Callable[[], Mapping[str, Any]]) -> Job:
        """The job of an event, which is made on the thread that prepares it. To be finished or left to `finish_later`.

        Raises QueueFull, and whatever `prepare` raises.
        """
        limit = self.service.settings.queue_limit
        if limit and self._pending >= limit:
            raise QueueFull(f"{self._pending} requests are waiting or running, which is the limit (QUEUE_LIMIT).")
        self._count(1)
        try:
            job = await to_thread.run_sync(lambda: prepare(event(), self.service), limiter=self._preparing)
        except BaseException:
            self._count(-1)
            raise
        self._jobs[job.prompt_id] = job
        self._waiting.add(job.prompt_id)
        return job

    async def finish(self, job: Job, shape: Callable[[Result], Mapping[str, Any]] = Result.answer) -> bytes:
        """Execute a job; gives its answer as JSON."""
        try:
            return await to_thread.run_sync(self._executed, job, shape, limiter=self._executing)
        finally:
            self._count(-1)
            self._jobs.pop(job.prompt_id)
            self._waiting.discard(job.prompt_id)

    def finish_later(self, job: Job, told: Callable[[HandlerError | Result], None] = lambda _: None) -> None:
        """Execute a job whose caller does not wait; its webhooks tell how it ended, or who is `told`, and so does the log."""
        task = asyncio.create_task(self._finish_unseen(job, told))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def interrupt(self, request_id: str) -> str | None:
        """End the jobs of an id: where they were, "queued" or "running"; None when there is none that has not finished."""
        jobs = [job for job in self._jobs.values() if job.request.id == request_id]
        found = {await self.ask(partial(self._interrupt, job)) for job in jobs}
        return "running" if "running" in found else "queued" if "queued" in found else None

    async def _finish_unseen(self, job: Job, told: Callable[[HandlerError | Result], None]) -> None:
        def shape(result: Result) -> Mapping[str, Any]:
            told(result)
            return {}

        try:
            await self.finish(job, shape)
        except HandlerError as exc:
            logger.info("job %r: %s: %s", job.request.id, exc.code, exc.message)
            await self.ask(partial(told, exc))
        except Exception:
            logger.exception("job %r: a bug", job.request.id)
            await self.ask(partial(told, HandlerError("Internal error; the server's log says more.")))

    def _interrupt(self, job: Job) -> str | None:
        comfy = self.service.comfy
        was = comfy.interrupt(job.prompt_id)
        if was is None and job.prompt_id in self._waiting:
            comfy.line.refuse(job.prompt_id)
            # It may have got its thread in this moment.
            was = comfy.interrupt(job.prompt_id) or "queued"
        return was

    def _executed(self, job: Job, shape: Callable[[Result], Mapping[str, Any]]) -> bytes:
        # From here on the line knows it.
        self._waiting.discard(job.prompt_id)
        return encoded(shape(execute(job, self.service)))

    def _start(self) -> None:
        try:
            self.host.start()
        except (HandlerError, BadSettings) as exc:
            self._end(1, f"cannot start: {exc}")
        except Exception:
            logger.exception("cannot start")
            self._end(1, "cannot start: a bug")
        else:
            self._on_warm()

    def _comfyui_ended(self, code: int) -> None:
        self._end(code or 1, "ComfyUI ended, and so does this server")

    def _end(self, code: int, reason: str) -> None:
        if not self._closing:
            logger.error("%s", reason)
            self.exit_code = code
            self._on_end()
