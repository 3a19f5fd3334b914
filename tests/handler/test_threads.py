"""The thread pool that all work on other threads runs in."""

import subprocess
import sys
import threading
import time
from contextvars import ContextVar
from functools import partial

import pytest

from handler.threads import ThreadPool
from tests.support.paths import ROOT

EVENT_S = 20


def test_work_runs_first_come_first_served_and_gives_its_result() -> None:
    order: list[int] = []
    with ThreadPool(1) as pool:
        futures = [pool.submit(order.append, number) for number in range(50)]
        twice = pool.submit(lambda value: value * 2, 21)
    assert [future.result(0) for future in futures] == [None] * 50
    assert order == list(range(50))
    assert twice.result(0) == 42


def test_work_of_a_lower_order_runs_first() -> None:
    release, order = threading.Event(), list[int]()
    with ThreadPool(1) as pool:
        first = pool.submit_in_order(9, lambda: release.wait(EVENT_S))
        while not first.running():
            time.sleep(0.001)
        for number in (3, 1, 2):
            pool.submit_in_order(number, partial(order.append, number))
        release.set()
    assert order == [1, 2, 3]


def test_no_more_threads_run_than_were_asked_for() -> None:
    running, seen, lock = 0, [], threading.Lock()
    both = threading.Barrier(3)

    def work() -> None:
        nonlocal running
        with lock:
            running += 1
            seen.append(running)
        both.wait(EVENT_S)
        with lock:
            running -= 1

    with ThreadPool(3) as pool:
        futures = [pool.submit(work) for _ in range(9)]
        for future in futures:
            future.result(EVENT_S)
    assert max(seen) == 3


def test_an_error_is_raised_where_the_result_is_asked_for() -> None:
    with ThreadPool(1) as pool:
        failing = pool.submit(lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            failing.result(EVENT_S)
        assert pool.submit(lambda: "still works").result(EVENT_S) == "still works"


def test_work_that_waits_can_be_cancelled() -> None:
    release = threading.Event()
    with ThreadPool(1) as pool:
        first = pool.submit(release.wait, EVENT_S)
        second = pool.submit(pytest.fail, "it was cancelled")
        assert second.cancel()
        release.set()
        assert first.result(EVENT_S)


def test_shutdown_can_cancel_what_waits() -> None:
    release = threading.Event()
    pool = ThreadPool(1)
    first, second = pool.submit(release.wait, EVENT_S), pool.submit(pytest.fail, "it was cancelled")
    while not first.running():
        time.sleep(0.001)
    pool.shutdown(wait=False, cancel_futures=True)
    release.set()
    assert first.result(EVENT_S)
    assert second.cancelled()
    with pytest.raises(RuntimeError):
        pool.submit(print)


def test_work_sees_the_context_of_who_submitted_it() -> None:
    deadline: ContextVar[str] = ContextVar("deadline", default="none")
    with ThreadPool(1) as pool:
        pool.submit(lambda: None).result(EVENT_S)  # the thread is there already
        deadline.set("noon")
        assert pool.submit(deadline.get).result(EVENT_S) == "noon"


def test_the_interpreter_does_not_wait_for_work_when_it_exits() -> None:
    code = "import time; from handler.threads import ThreadPool; ThreadPool(1).submit(time.sleep, 600)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=EVENT_S, check=False)
    assert done.returncode == 0
