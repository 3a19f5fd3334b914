"""The HTTP API in this process, on a port of its own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import requests

from emulator.app import create_app
from handler import Settings
from tests.support.live import served
from tests.support.waiting import wait_until

# Of a method and a path, or of a path and the body's fields: each fixture says which.
Api = Callable[..., requests.Response]


@contextmanager
def api_with(settings: Settings, **changes: Any) -> Iterator[str]:
    """A server with these settings, some of them changed, that is ready; gives its URL."""
    with served(create_app(settings.model_copy(update=changes))) as url:
        wait_until(lambda: requests.get(f"{url}/ready", timeout=30).status_code == 200)
        yield url
