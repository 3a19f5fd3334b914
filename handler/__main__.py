"""The RunPod serverless worker: `python -m handler`. The only module that imports runpod."""

import asyncio
import importlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from handler import fitness, logs
from handler.errors import HandlerError
from handler.host import Host
from handler.line import Ticket
from handler.settings import BadSettings, Settings
from handler.threads import begun
from handler.worker import MAX_RESULT_SIZE_MB, Worker
from handler.workflows import BadWorkflow

logger = logging.getLogger(__name__)

T = TypeVar("T")

# What ended jobs need to clean up and to leave word.
_END_S = 15


def main() -> int:
    """Bring ComfyUI up, warm, and give the jobs of RunPod's queue (or of --test_input) to the handler."""
    # Until the SDK listens to it; what runs must be stopped, which the default does not do.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        settings = _settings()
        logs.configure(settings.log_level)
        host = Host(settings, on_exit=lambda code: adapter.comfyui_ended(code))
        adapter = _Adapter(host)
    except (BadSettings, BadWorkflow) as exc:
        print(f"cannot start: {exc}", file=sys.stderr)
        return 1
    try:
        _start(host)
        adapter.serve()
    except (BadSettings, HandlerError) as exc:
        print(f"cannot start: {exc}", file=sys.stderr)
        return 1
    except asyncio.CancelledError:
        logger.info("the worker ends")
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        host.stop()
    return adapter.exit_code


def _settings() -> Settings:
    settings = Settings.from_environ()
    if settings.max_result_size_mb is None:
        settings = settings.model_copy(update={"max_result_size_mb": MAX_RESULT_SIZE_MB})
    return settings


def _start(host: Host) -> None:
    """Start ComfyUI; the SDK, which takes its time as well, is imported meanwhile.

    Both on threads of their own: a signal that ends the main thread must not do so in the middle of an import.
    """
    failures: list[Exception] = []

    def guarded(work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as exc:  # noqa: BLE001 (whatever it is, it is raised below)
            failures.append(exc)

    tasks: tuple[Callable[[], object], ...] = (host.start, lambda: importlib.import_module("runpod.serverless"))
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
        host.stop()
        for thread in threads:
            thread.join(_END_S)
        raise
    if failures:
        raise failures[0]


class _Adapter:
    """The worker inside the SDK's loop. A task of the SDK is one job, from its start until its result has been sent."""

    def __init__(self, host: Host) -> None:
        self.exit_code = 0
        self._host = host
        self._settings = host.service.settings
        self._worker = Worker(host)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Task[None] | None = None

    def serve(self) -> None:
        """Take jobs until the worker is told to end, or ends itself. Leaves with SystemExit, or CancelledError."""
        import runpod.serverless
        from runpod.serverless.modules.rp_logger import RunPodLogger

        RunPodLogger().set_level(self._settings.runpod_log_level)
        for check in fitness.checks(self._host):
            runpod.serverless.register_fitness_check(check)
        runpod.serverless.start(
            {
                "handler": self,
                "concurrency_modifier": self._concurrency,
                "refresh_worker": self._settings.refresh_worker,
            }
        )

    async def __call__(self, job: dict[str, Any]) -> dict[str, Any]:
        """One job, on a thread: the SDK's heartbeat, job fetching and stop signals go on meanwhile."""
        self._listen()
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._done)
        ticket = Ticket()
        work = _on_thread(partial(self._worker.answer, job, ticket, self._teller(job)))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # RunPod wants the job stopped: its caller cancelled it, or its execution time-out is over.
            await _on_thread(partial(self._worker.interrupt, ticket))
            await asyncio.wait([work], timeout=_END_S)
            raise

    def comfyui_ended(self, code: int) -> None:
        """A worker without ComfyUI takes itself out, so that RunPod starts another one."""
        self.exit_code = code or 1
        logger.error("ComfyUI ended, and so does this worker")
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._begin_end)

    def _concurrency(self, _current: int) -> int:
        # The first that the SDK calls in its loop.
        self._listen()
        return self._settings.runpod_concurrency

    def _listen(self) -> None:
        """Hear of the signals that the SDK listens to: it lets running jobs run, however long they take."""
        if self._loop is not None:
            return
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._after(signal.getsignal(number), self._loop))
        if self.exit_code:
            self._begin_end()

    def _after(self, listener: Any, loop: asyncio.AbstractEventLoop) -> Callable[[int, Any], None]:
        def listen(number: int, frame: Any) -> None:
            loop.call_soon_threadsafe(self._begin_end)
            if callable(listener):
                listener(number, frame)

        return listen

    def _teller(self, job: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
        from runpod.serverless.modules import worker_state

        if worker_state.IS_LOCAL_TEST:
            return lambda _: None
        import runpod.serverless

        return lambda progress: runpod.serverless.progress_update(job, progress)

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if self._settings.refresh_worker:
            self._begin_end()

    def _begin_end(self) -> None:
        if self._end is None and self._loop is not None:
            self._end = self._loop.create_task(self._end_all())

    async def _end_all(self) -> None:
        """End the jobs, let the SDK send what became of them, and end the SDK's loop, which may wait for a job for long."""
        grace = self._settings.shutdown_grace_s if "shutdown_grace_s" in self._settings.model_fields_set else 0
        if self._tasks and grace:
            await asyncio.wait(self._tasks, timeout=grace)
        await _on_thread(self._worker.close)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_END_S)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()


def _on_thread(work: Callable[[], T]) -> "asyncio.Future[T]":
    return asyncio.wrap_future(begun(work, "job"))


def _leave(code: object) -> None:
    """Not sys.exit, which waits for threads: one may be in the middle of an upload, and nobody waits for that any more."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for child in multiprocessing.active_children():  # the SDK's heartbeat
        child.terminate()
    os._exit(code if isinstance(code, int) else bool(code))


if __name__ == "__main__":
    try:
        _leave(main())
    except SystemExit as exc:  # of the SDK, after a --test_input
        _leave(exc.code)
