"""The queue before ComfyUI's own."""

import threading
import time
from functools import partial

import pytest

from handler.comfyui.admission import Admission
from handler.errors import ComfyCrashed, PromptInterrupted, PromptTimeout, ServerStopped
from handler.ticket import Ticket

EVENT_S = 30


def end() -> float:
    return time.monotonic() + EVENT_S


def test_the_first_to_arrive_is_admitted_first_even_if_it_was_prepared_last() -> None:
    admission = Admission(1)
    inside, *waiting = (Ticket() for _ in range(4))
    admitted: list[Ticket] = []

    def wait(ticket: Ticket) -> None:
        with admission.admit(ticket, end()):
            admitted.append(ticket)

    threads = []
    with admission.admit(inside, end()):
        for ticket in reversed(waiting):
            threads.append(threading.Thread(target=wait, args=(ticket,)))
            before = len(admission)
            threads[-1].start()
            while len(admission) == before:
                time.sleep(0.001)
    for thread in threads:
        thread.join(EVENT_S)
    assert admitted == waiting


def test_nobody_is_admitted_before_the_one_in_front_is_in_comfyui() -> None:
    admission = Admission(2)
    first, second = Ticket(), Ticket()
    admitted = threading.Event()

    def wait() -> None:
        with admission.admit(second, end()):
            admitted.set()

    with admission.admit(first, end()) as slot:
        thread = threading.Thread(target=wait)
        thread.start()
        assert not admitted.wait(0.1)
        slot.submitted()
        assert admitted.wait(EVENT_S)
    thread.join(EVENT_S)


def test_a_cancelled_request_stops_waiting() -> None:
    admission, ticket = Admission(1), Ticket()
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            with admission.admit(ticket, end()):
                pytest.fail("it was cancelled")
        except PromptInterrupted as exc:
            errors.append(exc)

    with admission.admit(Ticket(), end()):
        thread = threading.Thread(target=wait)
        thread.start()
        while len(admission) < 2:
            time.sleep(0.001)
        assert ticket.cancel()
        thread.join(EVENT_S)
        assert len(errors) == 1
        assert len(admission) == 1


def test_the_wait_ends_at_the_deadline() -> None:
    admission = Admission(1)
    with (
        admission.admit(Ticket(), end()),
        pytest.raises(PromptTimeout),
        admission.admit(Ticket(), time.monotonic() + 0.01),
    ):
        pytest.fail("its time is over")


def test_only_urgent_requests_are_admitted_while_it_is_paused() -> None:
    admission = Admission(1)
    admission.pause()
    with admission.admit(Ticket(urgent=True), end()) as slot:
        assert not slot.is_lost
        with pytest.raises(PromptTimeout), admission.admit(Ticket(), time.monotonic() + 0.01):
            pytest.fail("it is paused")
    assert admission.resume(admission.generation)
    with admission.admit(Ticket(), end()):
        assert admission.is_open


def test_a_prompt_is_lost_with_the_comfyui_that_it_was_admitted_to() -> None:
    admission = Admission(1)
    generation = admission.generation
    with admission.admit(Ticket(), end()) as slot:
        admission.pause()
        assert slot.is_lost
        with pytest.raises(ComfyCrashed):
            slot.check()
    assert not admission.resume(generation)


def test_after_it_is_closed_all_requests_end() -> None:
    admission, inside = Admission(1), Ticket()
    with admission.admit(inside, end()) as slot:
        admission.close(ServerStopped)
        with pytest.raises(ServerStopped):
            slot.check()
    admission.close(partial(ComfyCrashed, "the first reason stays"))
    with pytest.raises(ServerStopped), admission.admit(Ticket(), end()):
        pytest.fail("it is closed")
