"""Work on threads that do not keep the process from ending: the interpreter waits for those of an executor, however long."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def begun(work: Callable[[], T], name: str) -> "Future[T]":
    """The result of work that has begun on a daemon thread of its own."""
    future: Future[T] = Future()

    def run() -> None:
        future.set_running_or_notify_cancel()
        try:
            future.set_result(work())
        except Exception as exc:  # noqa: BLE001 (whatever it is, it is raised where it is waited for)
            future.set_exception(exc)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
