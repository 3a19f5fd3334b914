"""The handler behind the routes: admits requests, runs their jobs on threads, ends them."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, TypeVar

from emulator.http import QueueFull
from emulator.thread_pools import CHECKS, ThreadPools
from handler import (
    HandlerError,
    Job,
    Lifecycle,
    Produced,
    Result,
    Service,
    Ticket,
    check,
    deliver,
    fetch,
    json_codec,
    produce,
)
from handler.errors import ComfyUnreachable, InternalError, ServerStopped
from handler.jobs import CheckedRequest, JobRegistry, failure_webhooks, merge_states, remote_source
from handler.threads import ThreadPool

logger = logging.getLogger(__name__)

T = TypeVar("T")
Shape = Callable[[Result], Mapping[str, Any]]
"""Makes the body of an answer."""

_POLL_INTERVAL_S = 0.05


class Adapter:
    """What the routes need. Its methods belong to the event loop; the work of a job runs on threads.

    `on_job_count` gets the number of jobs whenever it changes, `on_done` the outcome of each job.
    """

    def __init__(self, lifecycle: Lifecycle) -> None:
        self.lifecycle = lifecycle
        self.service: Service = lifecycle.service
        self.closing = False
        self.on_job_count: Callable[[int], None] = lambda _: None
        self.on_done: Callable[[Result | BaseException], None] = lambda _: None
        self._jobs = JobRegistry()
        # The jobs that run or are delivered, and how many other requests a client waits for.
        self._executing: dict[str, Job] = {}
        self._others = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        # Done at the end of the shutdown's grace: what still waits then gets ServerStopped.
        self._over: asyncio.Future[None] | None = None
        self._pools = ThreadPools(self.service.settings.comfyui_inflight)
        self._checking = asyncio.Semaphore(CHECKS)

    @property
    def pending(self) -> int:
        """How many jobs have arrived and not ended."""
        return len(self._jobs)

    async def while_open(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of work that a client waits for and that is not a job. A shutdown gives it SHUTDOWN_GRACE_S.

        Raises ServerStopped then, and the work goes on unseen.
        """
        self._others += 1
        try:
            return await self._unless_over(self._spawn(work))
        finally:
            self._others -= 1

    async def ask(self, question: Callable[[], T]) -> T:
        """The answer to something short about ComfyUI, on a thread that no job takes."""
        return await asyncio.wrap_future(self._pools.probes.submit(question))

    async def admit(self, event: Callable[[], Mapping[str, Any]]) -> Job:
        """The job of an event, which is made on the thread that prepares it. `finish` or `finish_later` must follow.

        Raises QueueFull, ServerStopped, ComfyUnreachable while there is no warm ComfyUI, and what `handler.prepare` raises.
        """
        limit = self.service.settings.queue_limit
        if limit and self.pending >= limit:
            raise QueueFull(f"{self.pending} requests are waiting or running, which is the limit (QUEUE_LIMIT).")
        if self.closing:
            raise ServerStopped()
        if not self.lifecycle.ready:
            raise ComfyUnreachable("ComfyUI is being started, and cannot take prompts yet.")
        ticket = Ticket()
        self._add(ticket)
        task = self._spawn(self._prepare(event, ticket))
        try:
            return await self._unless_over(task)
        except asyncio.CancelledError:
            # The caller is gone, the thread is not: what it has prepared is cleaned up as soon as it is there.
            ticket.cancel()
            task.add_done_callback(self._finish_abandoned)
            raise

    async def finish(self, job: Job, shape: Shape = Result.answer) -> bytes:
        """Execute a job. Its answer as JSON."""
        return await self._unless_over(self._spawn(self._execute(job, shape)))

    def finish_later(self, job: Job, report: Callable[[HandlerError | Result], None] = lambda _: None) -> None:
        """Execute a job whose caller does not wait: its webhooks, `report` and the log tell how it ended."""
        self._spawn(self._execute_unseen(job, report))

    async def interrupt(self, request_id: str) -> str | None:
        """End the requests of an id. Gives where they were, "queued" or "running"; None when none can be ended."""
        interrupt = self.service.comfy.interrupt
        states = {await self.ask(partial(interrupt, ticket)) for ticket in self._jobs.with_id(request_id)}
        return merge_states(states)

    def open(self) -> None:
        """Start taking requests, in the event loop that is running."""
        self._over = asyncio.get_running_loop().create_future()

    async def end_jobs(self, grace_s: float, end_s: float) -> None:
        """Take nothing new. Jobs that still run after `grace_s` are ended with ServerStopped, and have `end_s` to clean up."""
        self.closing = True
        if not await self._wait_idle(grace_s):
            logger.warning("%d requests are ended by the shutdown", self.pending)
            ended = self._jobs.end_all(ServerStopped)
            await self.ask(self.lifecycle.stop_if_hanging)
            await self._wait(lambda: not any(ticket in self._jobs for ticket in ended), end_s)
            for job in self._executing.values():
                # It is being delivered and cannot be ended; its webhooks are told now.
                await self.ask(partial(job.promise.keep, failure_webhooks(job.request, job.graph, ServerStopped())))
        assert self._over is not None
        self._over.set_result(None)

    async def _wait_idle(self, timeout_s: float) -> bool:
        return await self._wait(lambda: not self._jobs and not self._others, timeout_s)

    async def _wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while not condition() and time.monotonic() < end:
            await asyncio.sleep(_POLL_INTERVAL_S)
        return condition()

    def _add(self, ticket: Ticket) -> None:
        self._jobs.add(ticket)
        self.on_job_count(self.pending)

    def _remove(self, ticket: Ticket) -> None:
        self._jobs.remove(ticket)
        self.on_job_count(self.pending)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that goes on when the request that started it is cancelled. Its error is then ignored."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _unless_over(self, task: asyncio.Task[T]) -> T:
        """The result of a task, which goes on when the caller is cancelled. Raises ServerStopped at the end of the grace."""
        assert self._over is not None
        either: set[asyncio.Future[Any]] = {task, self._over}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ServerStopped()
        return task.result()

    async def _prepare(self, event: Callable[[], Mapping[str, Any]], ticket: Ticket) -> Job:
        try:
            # The next check waits for the event loop: threads that take one after the other would hardly let it run.
            async with self._checking:
                prepared = await asyncio.wrap_future(self._pools.checks.submit(self._check, event, ticket))
            if isinstance(prepared, Job):
                return prepared
            checked, source = prepared
            pool = self._pools.models if source == "models" else self._pools.inputs
            return await self._run(pool, partial(fetch, checked, self.service), ticket, checked.deadline)
        except BaseException:
            self._remove(ticket)
            raise

    def _check(self, event: Callable[[], Mapping[str, Any]], ticket: Ticket) -> Job | tuple[CheckedRequest, str]:
        """The job; or the checked request and what has to be downloaded for it, which another thread must wait for."""
        checked = check(event(), self.service, ticket)
        source = remote_source(checked, self.service)
        return fetch(checked, self.service) if source is None else (checked, source)

    def _finish_abandoned(self, prepared: asyncio.Task[Job]) -> None:
        if not prepared.cancelled() and prepared.exception() is None:
            self.finish_later(prepared.result())

    async def _run(self, pool: ThreadPool, work: Callable[[], T], ticket: Ticket, deadline: float) -> T:
        """The result of the work. `deadline` is in seconds of time.monotonic.

        A request that is cancelled or whose time is over while it waits for a thread has only its end to tell: it does not wait
        any longer, but takes one of a few threads that are kept for that.
        """
        # A request whose inputs took long to fetch does not wait behind those that arrived after it.
        future = pool.submit_in_order(ticket.number, work)
        timer = asyncio.get_running_loop().call_later(deadline - time.monotonic(), future.cancel)
        result = asyncio.wrap_future(future)
        try:
            with ticket.on_cancel(future.cancel):
                await asyncio.wait([result])
        finally:
            timer.cancel()
        if result.cancelled():
            return await asyncio.wrap_future(self._pools.endings.submit(work))
        return result.result()

    async def _execute(self, job: Job, shape: Shape) -> bytes:
        self._executing[job.ticket.prompt_id] = job
        try:
            if job.request.upload is None and job.bucket is None:
                work = partial(self._produce_and_deliver, job, shape)
                return await self._run(self._pools.jobs, work, job.ticket, job.deadline)
            produced = await self._run(self._pools.jobs, partial(self._produce, job), job.ticket, job.deadline)
            work = partial(self._deliver, produced, shape)
            return await self._run(self._pools.uploads, work, job.ticket, job.deadline)
        finally:
            del self._executing[job.ticket.prompt_id]
            self._remove(job.ticket)

    def _produce(self, job: Job) -> Produced:
        return self._reporting_errors(lambda: produce(job, self.service))

    def _produce_and_deliver(self, job: Job, shape: Shape) -> bytes:
        return self._deliver(self._produce(job), shape)

    def _deliver(self, produced: Produced, shape: Shape) -> bytes:
        result = self._reporting_errors(lambda: deliver(produced, self.service))
        self.on_done(result)
        return json_codec.encode(shape(result))

    def _reporting_errors(self, step: Callable[[], T]) -> T:
        try:
            return step()
        except Exception as exc:
            self.on_done(exc)
            raise

    async def _execute_unseen(self, job: Job, report: Callable[[HandlerError | Result], None]) -> None:
        def shape(result: Result) -> Mapping[str, Any]:
            report(result)
            return {}

        try:
            await self._execute(job, shape)
        except HandlerError as exc:
            logger.info("job %r: %s: %s", job.request.id, exc.code, exc.message)
            await self.ask(partial(report, exc))
        except Exception:
            logger.exception("job %r: a bug", job.request.id)
            await self.ask(partial(report, InternalError()))
