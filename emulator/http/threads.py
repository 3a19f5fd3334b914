"""Threads for requests: few, and in the order in which the requests came."""

import asyncio
import heapq
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import anyio
from anyio import to_thread

from handler import Ticket

T = TypeVar("T")


class Threads:
    """So many at once; the other requests wait for one, and hold none meanwhile. Of them the one that came first is next.

    A request that has been ended, or whose time is over, has only its end to tell: it does not wait, but takes one of a few
    `spare` threads.
    """

    def __init__(self, count: int, *, spare: anyio.CapacityLimiter) -> None:
        self._free = count
        self._threads = anyio.CapacityLimiter(count)
        self._spare = spare
        # A heap by order of arrival.
        self._waiting: list[tuple[int, asyncio.Future[bool]]] = []

    async def run(self, work: Callable[[], T], ticket: Ticket, deadline: float) -> T:
        """What the work gives. `deadline` is in seconds of time.monotonic."""
        if not await self._turn(ticket, deadline):
            return await to_thread.run_sync(work, limiter=self._spare, abandon_on_cancel=True)
        try:
            return await to_thread.run_sync(work, limiter=self._threads, abandon_on_cancel=True)
        finally:
            self._free += 1
            self._let_in()

    async def _turn(self, ticket: Ticket, deadline: float) -> bool:
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()
        heapq.heappush(self._waiting, (ticket.number, turn))
        self._let_in()
        timer = loop.call_later(deadline - time.monotonic(), _give_up, turn)
        ticket.when_cancelled(partial(_call, loop, partial(_give_up, turn)))
        try:
            return await turn
        finally:
            timer.cancel()
            ticket.when_cancelled(lambda: None)

    def _let_in(self) -> None:
        while self._free and self._waiting:
            _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(True)
                self._free -= 1


def _give_up(turn: "asyncio.Future[bool]") -> None:
    if not turn.done():
        turn.set_result(False)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    """From another thread, at the end of the server perhaps."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(function)


class Kinds:
    """The threads for each kind of work on requests, of which a request holds one at a time.

    What may have to wait for another server has some for itself: fetching inputs, downloading models, uploading outputs. None
    are AnyIO's own, so that nothing which waits here delays a probe.
    """

    def __init__(self, inflight: int) -> None:
        spare = anyio.CapacityLimiter(4)
        self.probing = anyio.CapacityLimiter(4)
        self.preparing = anyio.CapacityLimiter(8)
        self.fetching = Threads(8, spare=spare)
        self.downloading = Threads(8, spare=spare)
        self.executing = Threads(max(20, inflight), spare=spare)
        self.uploading = Threads(8, spare=spare)
