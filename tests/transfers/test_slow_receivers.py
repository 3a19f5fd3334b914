"""Receivers of webhooks that answer so slowly that no time-out between two bytes ever ends it."""

import contextlib

import pytest

from tests.support.raw import SLOW, Script, scripted
from tests.support.receivers import Open, Receiver, Stored, numbers, webhook
from tests.support.waiting import wait_until


@pytest.mark.parametrize("name", ["one header after the other", "one 100 Continue after the other"])
def test_slow_receivers_are_given_up_and_hold_up_nobody(
    opened: Open, hook: Receiver, stored: Stored, name: str
) -> None:
    """Sixteen of them took all threads, and no webhook was sent any more."""
    print(f"injected: 17 receivers that send {name}")
    script: Script = SLOW[name]
    queue = opened(timeout_s=(0.2, 0.2), tries=2)
    with contextlib.ExitStack() as stack:
        for number in range(17):
            queue.send(webhook(stack.enter_context(scripted(script)), number))
        queue.send(webhook(hook.url, 17))
        wait_until(lambda: bool(hook.got))
        queue.stop()
    assert numbers(hook) == [17]
    assert len(stored()) == 17
