"""Receivers of webhooks that answer so slowly that no time-out between two bytes ever ends it."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.live import served
from tests.raw import SLOW, Script, scripted
from tests.test_outbox import Open, Receiver, numbers, outboxes, webhook


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    with outboxes(tmp_path) as make:
        yield make


@pytest.mark.parametrize("name", ["one header after the other", "one 100 Continue after the other"])
def test_slow_receivers_are_given_up_and_hold_up_nobody(opened: Open, tmp_path: Path, name: str) -> None:
    """Sixteen of them took all threads, and no webhook was sent any more."""
    print(f"injected: 17 receivers that send {name}")
    script: Script = SLOW[name]
    receiver, outbox = Receiver(), opened(timeout_s=(0.2, 0.2), tries=2)
    with contextlib.ExitStack() as stack:
        for number in range(17):
            outbox.send(webhook(stack.enter_context(scripted(script)), number))
        began = time.monotonic()
        outbox.send(webhook(stack.enter_context(served(receiver.app())), 17))
        wait_until(lambda: bool(receiver.got), 30)
        assert time.monotonic() - began < 30
        outbox.stop()
    assert numbers(receiver) == [17]
    assert len(list((tmp_path / "webhooks").glob("*.delivery"))) == 17
