"""The fixtures that start receivers of webhooks, and queues."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from handler.settings import Settings
from handler.webhooks.queue import WebhookQueue
from tests.support.live import served
from tests.support.receivers import SECRET, Open, Receiver, Stored


@contextmanager
def receiving() -> Iterator[Receiver]:
    made = Receiver()
    with served(made.app()) as url:
        made.url = f"{url}/hook"
        yield made


@pytest.fixture
def hook() -> Iterator[Receiver]:
    """A receiver that only this test uses."""
    with receiving() as made:
        yield made


@pytest.fixture(scope="module")
def shared_receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def receiver(shared_receiver: Receiver) -> Receiver:
    """The one receiver of the module, with nothing in its memory."""
    shared_receiver.got, shared_receiver.answers, shared_receiver.held = [], [], set()
    return shared_receiver


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Makes queues that share a folder, and stops them."""
    with ExitStack() as stack:

        def make(
            *, start: bool = True, private: bool = True, secret: str = SECRET, tries: int = 3, **options: Any
        ) -> WebhookQueue:
            environ = {"CACHE_DIR": str(tmp_path), "ALLOW_PRIVATE_URLS": str(private), "WEBHOOK_SECRET": secret}
            environ["PROMPT_WEBHOOK_RETRIES"] = str(tries)
            queue = WebhookQueue(Settings.from_environ(environ), **{"backoff_s": 0.01, **options})
            stack.callback(queue.stop, 0)
            if start:
                queue.start()
            return queue

        yield make


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    """The webhooks on the disk."""
    return lambda: sorted((tmp_path / "webhooks").glob("*.delivery"))
