"""Real small servers for the tests: any ASGI app on a port of its own, and the stand-in ComfyUI as a process."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette

from emulator.listener import listening
from tests.standin import Standin


@contextlib.contextmanager
def served(app: Starlette, **options: Any) -> Iterator[str]:
    """Serve an app on loopback, with uvicorn's options; gives its URL."""
    listener = listening("127.0.0.1", 0)
    options = {"timeout_graceful_shutdown": 5, "timeout_keep_alive": 75, **options}
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", **options))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(15)
        listener.close()
        assert not thread.is_alive()


@contextlib.contextmanager
def stand_in(base_dir: Path, *options: str) -> Iterator[str]:
    """The stand-in ComfyUI on a free port; gives its URL."""
    server = Standin(base_dir, *options)
    try:
        yield server.url
    finally:
        server.stop()
