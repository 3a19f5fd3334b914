"""Deadlines: which block ends when, and that one thread serves them all."""

import contextvars
import math
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

import pytest

from handler.net import deadline

FAR_S = 600.0


@dataclass(eq=False)
class Connection:
    owner: deadline.Deadline | None = None


def wait_for_a_byte() -> bytes:
    """What comes over a new connection on which nothing is ever sent: nothing, once it is shut down."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        deadline.bind(Connection(), ours)
        return ours.recv(1)


def times_out() -> AbstractContextManager[object]:
    return pytest.raises(TimeoutError)


def wait_and_note(name: str, seconds: float, ended: list[str]) -> None:
    with times_out(), deadline.within_s(seconds):
        wait_for_a_byte()
    ended.append(name)


def test_blocks_end_in_the_order_of_their_deadlines() -> None:
    ended: list[str] = []
    with ThreadPoolExecutor(3) as pool:
        for name, seconds in (("last", 0.9), ("first", 0.1), ("second", 0.5)):
            pool.submit(wait_and_note, name, seconds, ended)
    assert ended == ["first", "second", "last"]


def test_a_block_inside_another_ends_with_it() -> None:
    with times_out(), deadline.within_s(0.1), deadline.within_s(FAR_S):
        assert deadline.left_s() <= 0.1
        wait_for_a_byte()


def test_a_block_inside_another_may_end_earlier() -> None:
    with deadline.within_s(FAR_S):
        with times_out(), deadline.within_s(0.1):
            wait_for_a_byte()
        assert 0 < deadline.left_s() <= FAR_S
    assert deadline.left_s() == math.inf


def test_a_block_that_is_expired_early_takes_those_inside_it_along() -> None:
    began = time.monotonic()
    with times_out(), deadline.within_s(FAR_S) as outer, deadline.within_s(FAR_S):
        threading.Timer(0.1, outer.expire).start()
        wait_for_a_byte()
    assert time.monotonic() - began < FAR_S / 10


def test_a_block_that_ends_in_time_is_left_alone() -> None:
    with deadline.within_s(0.2), deadline.within_s(math.inf) as inner:
        pass
    time.sleep(0.3)
    assert inner.end > time.monotonic() - 0.3
    with deadline.within_s(FAR_S):
        assert deadline.left_s() > 1


def test_a_block_does_not_begin_when_its_time_is_over() -> None:
    with times_out(), deadline.within(time.monotonic()):
        pytest.fail("it began")


def test_threads_in_a_copy_of_the_context_share_the_deadline() -> None:
    with ThreadPoolExecutor(1) as pool, times_out(), deadline.within_s(0.1):
        assert pool.submit(contextvars.copy_context().run, wait_for_a_byte).result() == b""


def test_a_connection_that_another_block_uses_now_stays_open() -> None:
    ours, theirs = socket.socketpair()
    connection = Connection()

    def use_it_in_another_block() -> None:
        with deadline.within_s(FAR_S):
            deadline.bind(connection, ours)
            first.expire()
            theirs.sendall(b"x")
            assert ours.recv(1) == b"x"

    with ours, theirs, times_out(), deadline.within_s(FAR_S) as first:
        deadline.bind(connection, ours)
        contextvars.Context().run(use_it_in_another_block)


def test_any_number_of_deadlines_takes_one_thread() -> None:
    """Each had a threading.Timer, a thread of its own."""
    with ExitStack() as blocks:
        blocks.enter_context(deadline.within_s(FAR_S))
        before = threading.active_count()
        for _ in range(100):
            blocks.enter_context(deadline.within_s(FAR_S))
        assert threading.active_count() == before
        assert [thread.name for thread in threading.enumerate()].count("deadlines") == 1
