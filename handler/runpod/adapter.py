"""The worker inside the loop of RunPod's SDK. The only module that imports runpod."""

import asyncio
import importlib
import logging
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from handler import logs
from handler.errors import ComfyCrashed, HandlerError, ServerStopped
from handler.graphs import BadWorkflow
from handler.lifecycle import Lifecycle
from handler.runpod import fitness
from handler.runpod.updates import ProgressUpdates
from handler.runpod.worker import MAX_RESULT_SIZE_MB, Worker
from handler.settings import BadSettings, Settings
from handler.threads import ThreadPool
from handler.ticket import Ticket

logger = logging.getLogger(__name__)

# Twice what RUNPOD_CONCURRENCY allows: a job that cannot be ended keeps its thread.
_MOST_JOBS = 64
# For ended jobs to clean up and to tell their webhooks.
_END_S = 10
# For the SDK to send the results of jobs that could not be ended.
_SEND_S = 5
_POLL_INTERVAL_S = 0.05


def main() -> int:
    """Bring ComfyUI up, warm, and give the jobs of RunPod's queue (or of --test_input) to the handler."""
    # Until the SDK listens to them; what runs must be stopped, which the defaults do not do.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        settings = _settings()
        logs.configure(settings.log_level)
        lifecycle = Lifecycle(settings, on_exit=lambda code: adapter.comfyui_ended(code))
        adapter = _Adapter(lifecycle)
    except (BadSettings, BadWorkflow) as exc:
        sys.stderr.write(f"cannot start: {exc}\n")
        return 1
    try:
        _start(lifecycle)
        adapter.serve()
    except (BadSettings, HandlerError) as exc:
        sys.stderr.write(f"cannot start: {exc}\n")
        return 1
    except asyncio.CancelledError:
        logger.info("the worker ends")
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        lifecycle.stop()
    return adapter.exit_code


def _settings() -> Settings:
    settings = Settings.from_environ()
    if settings.max_result_size_mb is None:
        settings = settings.model_copy(update={"max_result_size_mb": MAX_RESULT_SIZE_MB})
    return settings


def _start(lifecycle: Lifecycle) -> None:
    """Start ComfyUI; the SDK, which takes its time as well, is imported meanwhile.

    Both on threads of their own: a signal that ends the main thread must not do so in the middle of an import.
    """
    failures: list[Exception] = []

    def guarded(work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as exc:  # noqa: BLE001 (whatever it is, it is raised below)
            failures.append(exc)

    tasks: tuple[Callable[[], object], ...] = (lifecycle.start, lambda: importlib.import_module("runpod.serverless"))
    threads = [threading.Thread(target=guarded, args=(task,), name="start", daemon=True) for task in tasks]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            # In short waits: a signal that reaches another thread does not end a long one.
            while thread.is_alive():
                thread.join(0.1)
    except SystemExit:
        # An interpreter that ends in the middle of an import can wait for it for ever.
        lifecycle.stop()
        for thread in threads:
            thread.join(_END_S)
        raise
    if failures:
        raise failures[0]


class _Adapter:
    """The worker inside the SDK's loop. A task of the SDK is one job, from its start until its result has been sent."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self.exit_code = 0
        self._lifecycle = lifecycle
        self._settings = lifecycle.service.settings
        self._worker = Worker(lifecycle)
        self._jobs = ThreadPool(_MOST_JOBS, "job")
        # Orders to end jobs wait for none of them.
        self._orders = ThreadPool(_MOST_JOBS, "order")
        self._tasks: set[asyncio.Task[Any]] = set()
        self._unanswered: set[asyncio.Task[Any]] = set()
        # How many jobs the SDK has taken, including those that it has not started.
        self._taken: Callable[[], int] = lambda: 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Task[None] | None = None
        # Until when jobs may go on, in seconds of the loop's time. `_over` is done when those that still do are given up.
        self._until = math.inf
        self._over: asyncio.Future[None]

    def serve(self) -> None:
        """Take jobs until the worker is told to end, or ends itself. Leaves with SystemExit, or CancelledError."""
        import runpod.serverless
        from runpod.serverless.modules.rp_logger import RunPodLogger

        RunPodLogger().set_level(self._settings.runpod_log_level)
        for check in fitness.checks(self._lifecycle):
            runpod.serverless.register_fitness_check(check)
        # Not the SDK's `refresh_worker`: it takes jobs from the queue after that, and does not run them.
        runpod.serverless.start({"handler": self, "concurrency_modifier": self._concurrency})

    async def __call__(self, job: dict[str, Any]) -> dict[str, Any]:
        """One job, on a thread: the SDK's heartbeat, job fetching and stop signals go on meanwhile."""
        self._handle_signals()
        task = asyncio.current_task()
        assert task is not None
        for tasks in (self._tasks, self._unanswered):
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        ticket, updates = Ticket(), _progress_updates(job)
        work = asyncio.wrap_future(self._jobs.submit(self._worker.handle, job, ticket, updates.put))
        ends: list[asyncio.Future[Any]] = [work, self._over]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            # RunPod wants the job stopped: its caller cancelled it, or its execution time-out is over.
            await asyncio.wrap_future(self._orders.submit(self._worker.interrupt, ticket))
            await asyncio.wait([work], timeout=_END_S)
            raise
        finally:
            await updates.end()
            self._unanswered.discard(task)
            refreshed = self._refreshed()
        return (work.result() if work.done() else self._worker.abandoned()) | refreshed

    def comfyui_ended(self, code: int) -> None:
        """A worker without ComfyUI takes itself out, so that RunPod starts another one."""
        self.exit_code = code or 1
        logger.error("ComfyUI ended, and so does this worker")
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._begin_end, 0)

    def _refreshed(self) -> dict[str, Any]:
        """With REFRESH_WORKER the end begins with that of a job. RunPod hears of it with the last one: it ends the others."""
        if not self._settings.refresh_worker:
            return {}
        self._begin_end(math.inf)
        return {} if self._unanswered else {"refresh_worker": True}

    def _concurrency(self, _current: int) -> int:
        """How many jobs the SDK may run; the first that it asks in its loop."""
        from runpod.serverless.modules.worker_state import JobsProgress

        self._taken = JobsProgress().get_job_count
        self._handle_signals(alone=True)
        if self._end is None:
            return self._settings.runpod_concurrency
        # It asks for no jobs then, but begins with those that a poll under way has brought.
        return self._taken() if self._taken() > len(self._tasks) else 0

    def _handle_signals(self, *, alone: bool = False) -> None:
        """Handle the stop signals, before the SDK's handlers or, `alone`, in their place.

        The SDK lets running jobs run, however long they take, and loses those that a poll under way brings.
        """
        if self._loop is not None:
            return
        self._loop = asyncio.get_running_loop()
        self._over = self._loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signal_handler(None if alone else signal.getsignal(number), self._loop))
        if self.exit_code:
            self._begin_end(0)

    def _signal_handler(self, following: Any, loop: asyncio.AbstractEventLoop) -> Callable[[int, Any], None]:
        grace = self._settings.shutdown_grace_s if "shutdown_grace_s" in self._settings.model_fields_set else 0

        def handle(number: int, frame: Any) -> None:
            loop.call_soon_threadsafe(self._begin_end, grace)
            if callable(following):
                following(number, frame)

        return handle

    def _begin_end(self, grace: float) -> None:
        """Take nothing new, and end once the jobs have, after `grace` seconds at the latest."""
        assert self._loop is not None
        self._until = min(self._until, self._loop.time() + grace)
        self._end = self._end or self._loop.create_task(self._end_all(self._loop))

    async def _end_all(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the jobs, let the SDK send what became of them, and end the SDK's loop, which may wait for a job for long."""
        await self._wait_idle(lambda: self._until - loop.time())
        crashed = partial(ComfyCrashed, "ComfyUI ended, and is not restarted.")
        await asyncio.wrap_future(
            self._orders.submit(self._worker.end_all, crashed if self.exit_code else ServerStopped)
        )
        await self._wait_idle(_time_left(_END_S))
        self._over.set_result(None)
        await self._wait_idle(_time_left(_SEND_S))
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _wait_idle(self, left_s: Callable[[], float]) -> None:
        """Wait until there are no jobs, or the time is over."""
        while (self._tasks or self._taken()) and left_s() > 0:
            await asyncio.sleep(_POLL_INTERVAL_S)


def _time_left(seconds: float) -> Callable[[], float]:
    end = time.monotonic() + seconds
    return lambda: end - time.monotonic()


def _progress_updates(job: dict[str, Any]) -> ProgressUpdates:
    """Sends a job's progress as the SDK's `progress_update` does, which does not say when it has arrived."""
    from runpod.http_client import AsyncClientSession
    from runpod.serverless.modules import rp_http, worker_state

    async def send(progress: dict[str, Any]) -> None:
        if not worker_state.IS_LOCAL_TEST:
            async with AsyncClientSession() as session:
                await rp_http.send_result(session, {"status": "IN_PROGRESS", "output": progress}, job)

    return ProgressUpdates(send)


def leave(code: object) -> None:
    """End the process. sys.exit would wait for the SDK's threads."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for child in multiprocessing.active_children():  # the SDK's heartbeat
        child.terminate()
    os._exit(code if isinstance(code, int) else bool(code))
