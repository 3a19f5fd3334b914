"""The handler behind the HTTP API: its ComfyUI's life, and the threads that its work runs on."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, TypeVar

from anyio import to_thread

from emulator.http.errors import QueueFull
from emulator.http.threads import Kinds
from emulator.salad import DeletionCost
from handler import (
    HandlerError,
    Job,
    Lifecycle,
    Made,
    NeedsDownload,
    Result,
    Service,
    Settings,
    Ticket,
    deliver,
    prepare,
    produce,
)
from handler.errors import ComfyUnreachable, GpuLost, ServerStopped
from handler.schemas.result import encoded
from handler.settings import BadSettings
from handler.webhooks import message

logger = logging.getLogger(__name__)

T = TypeVar("T")

INTERRUPT_S = 15
"""What interrupted jobs need to clean up and to leave word."""
_POLL_INTERVAL_S = 0.05


class Adapter:
    """What the routes need. `on_warm` and `on_end` are told when it is ready, and when it is over by itself."""

    def __init__(
        self, settings: Settings, on_warm: Callable[[], None] = lambda: None, on_end: Callable[[], None] = lambda: None
    ) -> None:
        self.host = Lifecycle(settings, on_exit=self._comfyui_ended)
        salad = settings.salad_metadata_url if settings.on_salad else None
        self._deletion_cost = DeletionCost(salad) if salad else None
        self.exit_code = 0
        self.on_done: Callable[[Result | BaseException], None] = lambda _: None
        self._on_warm = on_warm
        self._on_end = on_end
        # The requests that have been taken and not been finished, and those of them that have been prepared.
        self._tickets: dict[str, Ticket] = {}
        self._jobs: dict[str, Job] = {}
        self._others = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ending: asyncio.Task[None] | None = None
        # Done when nothing is waited for any more.
        self._over: asyncio.Future[None] | None = None
        self._threads = Kinds(settings.comfyui_inflight)
        self._starter = threading.Thread(target=self._start, name="start", daemon=True)

    @property
    def service(self) -> Service:
        return self.host.service

    @property
    def pending(self) -> int:
        """How many requests have been taken and not been finished."""
        return len(self._tickets)

    @property
    def closing(self) -> bool:
        return self._ending is not None

    def open(self) -> None:
        """Bring ComfyUI up in the background; the server listens meanwhile, and /health says that it is not healthy."""
        self._over = asyncio.get_running_loop().create_future()
        self._starter.start()
        if self._deletion_cost:
            self._deletion_cost.start()

    def begin_close(self) -> None:
        """Take nothing new. What runs gets SHUTDOWN_GRACE_S; what is left then ends with ServerStopped."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end_requests())

    async def close(self) -> None:
        """End all requests as `begin_close` says, and ComfyUI with them."""
        try:
            self.begin_close()
            assert self._ending is not None
            await self._ending
        finally:
            await to_thread.run_sync(self.host.stop, limiter=self._threads.probing)
            if self._deletion_cost:
                self._deletion_cost.stop()

    async def while_open(self, work: Coroutine[Any, Any, T]) -> T:
        """What the work gives: something that a client waits for and that is no prompt. A shutdown gives it SHUTDOWN_GRACE_S.

        Raises ServerStopped then, and the work goes on unseen.
        """
        self._others += 1
        self._idle.clear()
        try:
            return await self._unless_over(self._spawn(work))
        finally:
            self._others -= 1
            self._note_idle()

    async def ask(self, question: Callable[[], T]) -> T:
        """Something short about ComfyUI, on a thread that no prompt holds."""
        return await to_thread.run_sync(question, limiter=self._threads.probing)

    async def admit(self, event: Callable[[], Mapping[str, Any]]) -> Job:
        """The job of an event, which is made on the thread that prepares it. To be finished or left to `finish_later`.

        Raises QueueFull, ServerStopped, ComfyUnreachable while there is no ComfyUI that is warm, and whatever `prepare` raises.
        """
        limit = self.service.settings.queue_limit
        if limit and self.pending >= limit:
            raise QueueFull(f"{self.pending} requests are waiting or running, which is the limit (QUEUE_LIMIT).")
        if self.closing:
            raise ServerStopped()
        if not self.host.ready:
            raise ComfyUnreachable("ComfyUI is being started, and cannot take prompts yet.")
        ticket = Ticket()
        self._enter(ticket)
        task = self._spawn(self._prepared(event, ticket))
        try:
            return await self._unless_over(task)
        except asyncio.CancelledError:
            # The caller is gone, the thread is not: what it has prepared is cleaned up as soon as it is there.
            ticket.cancel()
            task.add_done_callback(self._abandoned)
            raise

    async def finish(self, job: Job, shape: Callable[[Result], Mapping[str, Any]] = Result.answer) -> bytes:
        """Execute a job; gives its answer as JSON."""
        return await self._unless_over(self._spawn(self._finished(job, shape)))

    def finish_later(self, job: Job, told: Callable[[HandlerError | Result], None] = lambda _: None) -> None:
        """Execute a job whose caller does not wait; its webhooks tell how it ended, or who is `told`, and so does the log."""
        self._spawn(self._finish_unseen(job, told))

    async def interrupt(self, request_id: str) -> str | None:
        """End the requests of an id: where they were, "queued" or "running"; None when there is none that can be ended."""
        tickets = [ticket for ticket in self._tickets.values() if ticket.request_id == request_id]
        found = {await self.ask(partial(self.service.comfy.interrupt, ticket)) for ticket in tickets}
        return "running" if "running" in found else "queued" if "queued" in found else None

    def _enter(self, ticket: Ticket) -> None:
        self._tickets[ticket.prompt_id] = ticket
        self._idle.clear()
        self._count()

    def _leave(self, ticket: Ticket) -> None:
        del self._tickets[ticket.prompt_id]
        self._note_idle()
        self._count()

    def _note_idle(self) -> None:
        if not self._tickets and not self._others:
            self._idle.set()

    def _count(self) -> None:
        if self._deletion_cost:
            self._deletion_cost.set(self.pending)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Work that goes on when who asked for it is cancelled, and whose error is then nobody's."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _unless_over(self, task: asyncio.Task[T]) -> T:
        """What a task gives, which goes on when who waits for it is cancelled. Raises ServerStopped when all waiting is over."""
        assert self._over is not None
        either: set[asyncio.Future[Any]] = {task, self._over}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ServerStopped()
        return task.result()

    async def _prepared(self, event: Callable[[], Mapping[str, Any]], ticket: Ticket) -> Job:
        try:
            try:
                work = partial(self._prepare, event, ticket, quick=True)
                return await to_thread.run_sync(work, limiter=self._threads.preparing, abandon_on_cancel=True)
            except NeedsDownload as needs:
                threads = self._threads.downloading if needs.of_models else self._threads.fetching
                return await threads.run(partial(self._prepare, event, ticket), ticket, needs.deadline)
        except BaseException:
            self._leave(ticket)
            raise

    def _prepare(self, event: Callable[[], Mapping[str, Any]], ticket: Ticket, *, quick: bool = False) -> Job:
        return prepare(event(), self.service, ticket, quick=quick)

    def _abandoned(self, prepared: asyncio.Task[Job]) -> None:
        if not prepared.cancelled() and prepared.exception() is None:
            self.finish_later(prepared.result())

    async def _finished(self, job: Job, shape: Callable[[Result], Mapping[str, Any]]) -> bytes:
        self._jobs[job.ticket.prompt_id] = job
        try:
            if job.request.upload is None and job.bucket is None:
                return await self._threads.executing.run(partial(self._execute, job, shape), job.ticket, job.deadline)
            made = await self._threads.executing.run(partial(self._produce, job), job.ticket, job.deadline)
            return await self._threads.uploading.run(partial(self._deliver, made, shape), job.ticket, job.deadline)
        finally:
            del self._jobs[job.ticket.prompt_id]
            self._leave(job.ticket)

    def _execute(self, job: Job, shape: Callable[[Result], Mapping[str, Any]]) -> bytes:
        return self._deliver(self._produce(job), shape)

    def _produce(self, job: Job) -> Made:
        try:
            return produce(job, self.service)
        except Exception as exc:
            self.on_done(exc)
            if isinstance(exc, GpuLost):
                # Every later prompt of this ComfyUI would fail like this one.
                self.host.process.kill()
            raise

    def _deliver(self, made: Made, shape: Callable[[Result], Mapping[str, Any]]) -> bytes:
        try:
            result = deliver(made, self.service)
        except Exception as exc:
            self.on_done(exc)
            raise
        self.on_done(result)
        return encoded(shape(result))

    async def _finish_unseen(self, job: Job, told: Callable[[HandlerError | Result], None]) -> None:
        def shape(result: Result) -> Mapping[str, Any]:
            told(result)
            return {}

        try:
            await self._finished(job, shape)
        except HandlerError as exc:
            logger.info("job %r: %s: %s", job.request.id, exc.code, exc.message)
            await self.ask(partial(told, exc))
        except Exception:
            logger.exception("job %r: a bug", job.request.id)
            await self.ask(partial(told, HandlerError("Internal error; the server's log says more.")))

    async def _end_requests(self) -> None:
        if not await self._is_idle(self.service.settings.shutdown_grace_s):
            logger.warning("%d requests are ended by the shutdown", self.pending)
            await self._end_what_can_be_ended()
            for job in self._jobs.values():
                # It is being delivered, and would end well some day; whoever waits for its webhook is told now.
                await self.ask(partial(job.promise.keep, message.failed(job.request, job.graph, ServerStopped())))
        assert self._over is not None
        self._over.set_result(None)

    async def _end_what_can_be_ended(self) -> None:
        # No word to ComfyUI: whoever waits for the prompt there takes it back.
        cancel, tickets = self.service.comfy.line.cancel, list(self._tickets.values())
        ended = [ticket for ticket in tickets if cancel(ticket, ServerStopped())]
        if not await self.ask(self.service.comfy.alive):
            # One that hangs gives nothing back, and hears no signal either.
            await self.ask(partial(self.host.process.stop, grace_s=0))
        end = time.monotonic() + INTERRUPT_S
        while any(ticket.prompt_id in self._tickets for ticket in ended) and time.monotonic() < end:
            await asyncio.sleep(_POLL_INTERVAL_S)

    async def _is_idle(self, timeout_s: float) -> bool:
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

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
        if not self.closing:
            logger.error("%s", reason)
            self.exit_code = code
            self._on_end()
