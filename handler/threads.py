"""The one way to run work on other threads. A loop that lives as long as the server is a daemon thread of its own instead."""

import contextvars
import heapq
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

# How long a thread without work waits for more before it ends.
_IDLE_S = 5.0


@dataclass(order=True)
class _Waiting:
    """Work that waits for a thread: by order, then by arrival."""

    order: int
    number: int
    future: Future[Any] = field(compare=False)
    work: Callable[[], Any] = field(compare=False)


class ThreadPool(Executor):
    """Runs what is submitted on at most `max_workers` daemon threads, first come first served.

    Threads are started when there is work for them. Work runs in a copy of the submitter's context, so that it ends at the
    submitter's deadline (handler.net.deadline). Unlike with ThreadPoolExecutor, the interpreter does not wait for the threads
    when it exits, however long an upload takes.
    """

    def __init__(self, max_workers: int, name: str = "worker") -> None:
        self._max_workers = max_workers
        self._name = name
        self._changed = threading.Condition()
        self._waiting: list[_Waiting] = []  # a heap
        self._numbers = itertools.count()
        self._threads = 0
        self._idle = 0
        self._closed = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Cancelling the future takes the work back while it waits for a thread. Raises RuntimeError after `shutdown`."""
        return self.submit_in_order(0, partial(fn, *args, **kwargs))

    def submit_in_order(self, order: int, fn: Callable[[], T]) -> "Future[T]":
        """The same for work that does not wait behind any of a higher `order`, though that was submitted before."""
        future: Future[T] = Future()
        work = partial(contextvars.copy_context().run, fn)
        with self._changed:
            if self._closed:
                raise RuntimeError(f"the thread pool {self._name!r} is closed")
            heapq.heappush(self._waiting, _Waiting(order, next(self._numbers), future, work))
            starts = len(self._waiting) > self._idle and self._threads < self._max_workers
            self._threads += starts
            self._changed.notify()
        if starts:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work. What waits still runs, unless it is cancelled."""
        with self._changed:
            self._closed = True
            cancelled = [waiting.future for waiting in self._waiting] if cancel_futures else []
            if cancel_futures:
                self._waiting.clear()
            self._changed.notify_all()
        for future in cancelled:
            future.cancel()
        if wait:
            with self._changed:
                self._changed.wait_for(lambda: not self._threads)

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            future, work = taken.future, taken.work
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as exc:  # noqa: BLE001 (whatever it is, it is raised where the result is asked for)
                    future.set_exception(exc)
            # Nothing of a job stays in memory while the thread is idle.
            del taken, future, work

    def _take(self) -> _Waiting | None:
        """The next work; None when the thread is to end."""
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._waiting or self._closed, _IDLE_S)
            self._idle -= 1
            if self._waiting:
                return heapq.heappop(self._waiting)
            self._threads -= 1
            self._changed.notify_all()
            return None
